"""timm-abn edit: the sheet, the JSON file, the table, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from tiny_models import tiny_abn

from timm_abn.cli import main
from timm_abn.data.images import Preprocessing, read_image
from timm_abn.data.sources import find_sources

MODEL = 'abn_resnet20_cifar.fashion_mnist_faithful'


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save('photo.png')
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[:, 30:] = 255
    Image.fromarray(mask).save('mask.png')
    Image.fromarray(mask).resize((10, 10)).save('square.png')
    Path('folder').mkdir()
    return tmp_path


@pytest.fixture
def tasks(files):
    """Return the arguments of a multi-task network."""
    model = tiny_abn('test_resnet', multi_task=True)
    safetensors.torch.save_file(model.state_dict(), 'tasks.safetensors')
    names = ['--model-kwargs', 'backbone=test_resnet', 'multi_task=True']
    return ['--model', 'abn', '--checkpoint', 'tasks.safetensors', *names, '--num-classes', '5']


def edit(*args, model=('--model', MODEL)):
    return main(['edit', *args, *model])


def error_of(capsys):
    captured = capsys.readouterr()
    assert captured.err.count('\n') == 1 and captured.err.startswith('timm-abn: error: '), captured.err
    assert captured.out == ''
    return captured.err.strip()


def test_prediction_before_and_after(files, capsys):
    assert edit('photo.png', '--mask', 'mask.png', '--top-k', '3') == 0
    content = json.loads(Path('outputs/edit/photo.edit.json').read_text())
    model = timm.create_model(MODEL, pretrained=True).eval()
    x = Preprocessing(model)(read_image('photo.png'))[0][None]
    explanation = model.explain(x)
    before = explanation.probabilities[0]
    maps = torch.zeros_like(explanation.attention_map)
    maps[..., maps.shape[3] // 2 :] = 1  # the model sees the middle of the photo, and so the middle of the mask
    with torch.no_grad():
        after = model(x, attention=maps).softmax(dim=1)[0]
    assert [row['before'] for row in content['probabilities']] == pytest.approx(before.tolist(), abs=1e-5)
    assert [row['after'] for row in content['probabilities']] == pytest.approx(after.tolist(), abs=1e-5)
    names = model.pretrained_cfg['label_names']
    assert content['predicted_before'] == names[before.argmax()] and content['insertion'] == 'gating'
    assert content['predicted_after'] == names[after.argmax()] and content['task'] is None
    assert content['map_before'] == pytest.approx(explanation.attention_map[0, 0].numpy(), abs=1e-5)
    assert content['map_after'] == maps[0, 0].tolist()
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == '' and lines[0].split() == ['class', 'before', 'after', 'change']
    assert lines[2].startswith(content['predicted_before'])
    assert lines[2].split()[-1] == f'{after[before.argmax()] - before.max():+.4f}'
    with Image.open('outputs/edit/photo.edit.png') as sheet:
        assert sheet.width > 3 * 208
    # what was written lies among the images, and is none of them
    assert sorted(str(source.path) for source in find_sources([Path('.')])) == ['mask.png', 'photo.png', 'square.png']


def test_one_task(tasks, capsys):
    assert edit('photo.png', '--mask', 'mask.png', '--task', 'class 3', '--out', 'out', model=tasks) == 0
    content = json.loads(Path('out/photo.edit.json').read_text())
    changed = [abs(row['before'] - row['after']) > 1e-6 for row in content['probabilities']]
    assert content['task'] == 'class 3' and changed == [False, False, False, True, False]
    assert capsys.readouterr().out.splitlines()[2].startswith('class 3')
    assert edit('photo.png', '--mask', 'mask.png', '--out', 'none', model=tasks) == 2
    assert 'the model has 5 attention maps, one per task: name the task to edit (--task)' in error_of(capsys)
    assert not Path('none').exists()


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['missing.png', '--mask', 'mask.png'], 'there is no file or folder missing.png'),
        (['photo.png', '--mask', 'missing.png'], 'argument --mask: there is no file missing.png'),
        (['photo.png'], 'the following arguments are required: --mask'),
        (['folder', '--mask', 'mask.png'], 'folder is a folder; timm-abn edit takes one image and one mask'),
        (['photo.png', '--mask', 'square.png'], 'square.png has 10 x 10 pixels, the photo 60 x 40: a mask shows'),
        (['photo.png', '--mask', 'mask.png', '--task', 'shirt'], 'one attention map for all classes, and no tasks'),
        (['photo.png', '--mask', 'mask.png', '--out', 'photo.png'], 'photo.png is a file, not a folder'),
    ],
)
def test_what_is_refused(files, capsys, args, message):
    assert edit(*args) == 2
    assert message in error_of(capsys)
    assert not Path('outputs').exists()


def test_a_model_without_a_map_to_edit(files, capsys):
    safetensors.torch.save_file(timm.create_model('test_resnet', num_classes=3).state_dict(), 'plain.safetensors')
    plain = ['--model', 'test_resnet', '--checkpoint', 'plain.safetensors']
    assert edit('photo.png', '--mask', 'mask.png', model=plain) == 2
    assert 'ResNet has no attention map that its prediction could follow' in error_of(capsys)
