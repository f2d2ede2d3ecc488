"""What is said of weights that nobody has published, and where published ones are looked for."""

from pathlib import Path

import pytest
import timm
import yaml

import timm_abn  # noqa: F401  registers the models
from timm_abn.hub.config import HubError
from timm_abn.hub.published import ORGANISATION_VARIABLE, PUBLISHED, RECIPES, is_own_repository, with_hub_ids
from timm_abn.models.authors_checkpoints import _CANDIDATES

RECIPE_FOLDER = Path(__file__).parents[2] / 'train_wrappers' / 'recipes'
OWN_MODULES = ('abn_models', 'cam_models', 'cifar_backbones', 'cifar_densenet', 'cifar_wide_resnet')


@pytest.mark.parametrize('name', timm.list_models(module=list(OWN_MODULES)))
def test_every_name_without_weights_says_how_to_get_some(name):
    with pytest.raises(HubError) as error:
        timm.create_model(name, pretrained=True)
    message = str(error.value)
    assert message.startswith(f'no weights are published for {name}: ')
    assert '\n' not in message
    official = any(name in models for _, models in _CANDIDATES)
    assert (f'timm-abn convert --model {name}' in message) == official
    assert f'train_wrappers/{f"recipes/{RECIPES[name]}.yaml" if name in RECIPES else "train.py"}' in message


@pytest.mark.parametrize('name', list(RECIPES))
def test_recipes_that_are_named_train_that_model(name):
    assert yaml.safe_load((RECIPE_FOLDER / f'{RECIPES[name]}.yaml').read_text())['model'].split('.')[0] == name


def test_every_model_with_a_recipe_has_one_named():
    models = {yaml.safe_load(path.read_text())['model'].split('.')[0] for path in RECIPE_FOLDER.glob('*.yaml')}
    own = {name for name in models if timm.is_model(name) and name in timm.list_models(module=list(OWN_MODULES))}
    assert own == set(RECIPES)


def test_only_weights_that_exist_are_promised():
    promised = set(timm.list_pretrained(['*abn*', '*_cifar*', 'cam_*']))
    assert promised == {'abn_resnet20_cifar.fashion_mnist', *PUBLISHED}
    assert timm.create_model('abn_resnet20_cifar.fashion_mnist', pretrained=True).num_classes == 10


def test_an_organisation_has_a_repository_for_each_name(monkeypatch):
    cfgs = {'abn_a': {}, 'abn_b.tag': {}, 'abn_c.untrained*': {}, 'abn_d.shipped': dict(file='d.safetensors')}
    assert with_hub_ids(cfgs) == cfgs
    monkeypatch.setenv(ORGANISATION_VARIABLE, 'lab')
    assert {name: cfg.get('hf_hub_id') for name, cfg in with_hub_ids(cfgs).items()} == {
        'abn_a': 'lab/abn_a',
        'abn_b.tag': 'lab/abn_b.tag',
        'abn_c.untrained*': 'lab/abn_c',
        'abn_d.shipped': None,
    }
    assert is_own_repository('lab/abn_a') and not is_own_repository('other/abn_a') and not is_own_repository(None)


@pytest.mark.parametrize('name', ['../..', 'a b', 'lab/x'])
def test_an_organisation_that_cannot_exist(name, monkeypatch):
    monkeypatch.setenv(ORGANISATION_VARIABLE, name)
    with pytest.raises(HubError, match='is not the name of a repository'):
        timm.create_model(
            'abn_resnet32_cifar', pretrained=True, pretrained_cfg_overlay=dict(hf_hub_id=f'{name}/abn_resnet32_cifar')
        )
