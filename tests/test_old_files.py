"""Files that commit e1fbaff wrote load, and mean what they meant; tests/fixtures/e1fbaff/make.py made them."""

import argparse
import importlib
import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import timm_abn
from timm_abn.export.graph import onnx_runner
from timm_abn.hub.building import check_folder
from timm_abn.models.loading import load_model
from timm_abn.publish.folder import save_hub_folder

FOLDER = Path(__file__).parent / 'fixtures' / 'e1fbaff'
EXPECTED = load_file(FOLDER / 'expected.safetensors')
FIELDS = ('logits', 'attention_map', 'attention_logits', 'class_maps')


@pytest.mark.parametrize('name', ['resnet', 'vit', 'swin', 'convnext', 'multi_task'])
def test_checkpoints(name):
    model = load_model('abn', FOLDER / f'{name}.pth.tar')
    assert isinstance(model, timm_abn.MultiTaskAttentionBranchNet) == (name == 'multi_task')
    assert model.config['gate'] == 'features'  # all that there was
    assert model.pretrained_cfg['mean'] == (0.5, 0.5, 0.5) and model.pretrained_cfg['std'] == (0.25, 0.25, 0.25)
    explanation = model.explain(EXPECTED[f'{name}.images'])
    for field in FIELDS:
        torch.testing.assert_close(getattr(explanation, field), EXPECTED[f'{name}.{field}'], rtol=1e-5, atol=1e-5)


def test_a_hub_folder(tmp_path):
    shutil.copytree(FOLDER / 'hub', tmp_path / 'hub')
    model = timm.create_model(f'local-dir:{tmp_path / "hub"}', pretrained=True).eval()
    assert model.pretrained_cfg['label_names'] == list('abcde')
    explanation = model.explain(EXPECTED['resnet.images'])
    for field in FIELDS:
        torch.testing.assert_close(getattr(explanation, field), EXPECTED[f'resnet.{field}'], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('pretrained', [False, True])
def test_a_hub_folder_without_a_gate(tmp_path, pretrained):
    model = load_model('abn', FOLDER / 'vit.pth.tar')
    save_hub_folder(model, tmp_path / 'hub', '# card')
    config = json.loads((tmp_path / 'hub' / 'config.json').read_text())
    assert config['model_args'].pop('gate') == 'features'  # as it is written today
    (tmp_path / 'hub' / 'config.json').write_text(json.dumps(config))
    check_folder(tmp_path / 'hub')
    loaded = timm.create_model(f'local-dir:{tmp_path / "hub"}', pretrained=pretrained).eval()
    assert loaded.config == model.config
    other = timm.create_model(f'local-dir:{tmp_path / "hub"}', pretrained=pretrained, gate='tokens').eval()
    assert other.config['gate'] == 'tokens'
    if pretrained:
        images = EXPECTED['vit.images']
        torch.testing.assert_close(loaded(images), EXPECTED['vit.logits'], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(other(images), loaded(images), rtol=1e-3)


def test_a_checkpoint_of_today_has_its_gate(tmp_path):
    arguments = dict(backbone='test_vit', img_size=32, embed_dim=8, num_heads=2)
    model = timm.create_model('abn', num_classes=5, **arguments).eval()
    settings = argparse.Namespace(model='abn', model_kwargs=arguments, num_classes=5, input_size=[3, 32, 32])
    torch.save(dict(arch='abn', state_dict=model.state_dict(), args=settings), tmp_path / 'today.pth.tar')
    loaded = load_model('abn', tmp_path / 'today.pth.tar')
    images = EXPECTED['vit.images']
    assert loaded.config['gate'] == 'tokens' and torch.equal(loaded(images), model(images))
    assert load_model('abn', tmp_path / 'today.pth.tar', gate='features').config['gate'] == 'features'


def test_an_onnx_graph():
    pytest.importorskip('onnxruntime')
    run = onnx_runner(FOLDER / 'resnet.onnx')
    for index in range(4):
        outputs = run(EXPECTED['resnet.images'][index : index + 1])
        for field, output in outputs.items():
            expected = EXPECTED[f'resnet.{field}'][index : index + 1]
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('old', ['abn_models', 'cam_models', 'cifar_backbones', 'images'])
def test_modules_by_their_old_names(old):
    sys.modules.pop(f'timm_abn.{old}', None)
    with pytest.warns(DeprecationWarning, match=rf'timm_abn\.{old} is now timm_abn\.\w+\.{old}'):
        module = importlib.import_module(f'timm_abn.{old}')
    room = 'explain' if old == 'images' else 'models'
    new = importlib.import_module(f'timm_abn.{room}.{old}')
    names = getattr(new, '__all__', [name for name in vars(new) if name.startswith('abn_')])
    assert names and all(getattr(module, name) is getattr(new, name) for name in names)


def test_the_task_module_is_where_timm_looks_for_it():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        import timm_abn.task
    assert timm_abn.task.AttentionBranchLoss and timm_abn.task.extend_timm_tasks and timm_abn.task.TrainingError
