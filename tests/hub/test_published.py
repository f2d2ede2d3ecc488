"""What is said of weights that nobody has published, and where published ones are looked for."""

import pytest
import timm
from paper_models import BACKBONES, CAM

import timm_abn  # noqa: F401  registers the models
from timm_abn.hub.config import HubError
from timm_abn.hub.published import ORGANISATION_VARIABLE, PUBLISHED, RECIPES, is_own_repository, with_hub_ids
from timm_abn.models.official_checkpoints import _CANDIDATES

# of several recipes that train a model the one that is named
RECIPES_OF = {
    **{f'{prefix}{name}': 'cifar100' for name in BACKBONES['cifar100'] for prefix in ('abn_', '')},
    **{f'abn_{name}': 'imagenet' for name in BACKBONES['imagenet']},
    **{f'cam_{name}': recipe for recipe in ('imagenet', 'cifar10') for name in CAM[recipe]},
}
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
    recipe = f' --recipe {RECIPES_OF[name]}' if name in RECIPES_OF else ''
    assert f'train it with timm-abn-train{recipe} --model {name}' in message


def test_every_recipe_that_is_named_is_there():
    assert {*RECIPES_OF.values()} == {'cifar10', 'cifar100', 'imagenet'} == {*RECIPES}


def test_only_weights_that_exist_are_promised():
    promised = set(timm.list_pretrained(['*abn*', '*_cifar*', 'cam_*']))
    shipped = {'abn_resnet20_cifar.fashion_mnist', 'abn_resnet20_cifar.fashion_mnist_faithful'}
    assert promised == {*shipped, *PUBLISHED}
    for name in shipped:
        assert timm.create_model(name, pretrained=True).num_classes == 10


def test_weights_bring_their_arguments_along_and_what_is_said_goes_first():
    name, message = 'abn_resnet20_cifar.fashion_mnist_faithful', "trained with mechanism='product', hard_attention=0.3"
    model = timm.create_model(name, pretrained=True)
    assert model._model_args['mechanism'] == 'product' and model._model_args['hard_attention'] == 0.3
    with pytest.warns(UserWarning, match=f"{message}, and are loaded with mechanism='residual'"):
        timm.create_model(name, pretrained=True, mechanism='residual', hard_attention=1.0)
    other = timm.create_model('abn', backbone='resnet20_cifar', pretrained_cfg=dict(tag='fashion_mnist_faithful'))
    assert other.config.mechanism == 'residual'
    for tagged, arguments, expected in (
        (name, {}, ('product', 0.3)),
        (name, dict(hard_attention=1.0), ('product', 1)),
        ('abn_resnet20_cifar.fashion_mnist', {}, ('residual', 1)),
    ):
        config = timm.create_model(tagged, **arguments).config
        assert (config.mechanism, config.hard_attention) == expected


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
