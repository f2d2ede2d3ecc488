"""timm-abn tsne: a picture, a CSV and numbers; and what is refused."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from command_line import refusal
from PIL import Image
from tiny_models import tiny_abn, tiny_backbone

from timm_abn.data.reading import FORMATS
from timm_abn_cli import main

MODEL = 'abn_resnet20_cifar.fashion_mnist'
NEEDS = ('matplotlib', 'sklearn')
installed = pytest.mark.skipif(not all(map(importlib.util.find_spec, NEEDS)), reason='needs the extra plot')


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(9):
        path = Path('data', ['coat', 'Sandal', 'bag'][index % 3], f'{index}.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 80 * (1 + index % 3), (28, 28), dtype=np.uint8)).save(path)
    return tmp_path


def tsne(*args):
    return main(['tsne', '--model', MODEL, *args])


def refused(capsys, *args, model=MODEL):
    return refusal(capsys, 'tsne', '--model', model, *args)


@installed
def test_picture_and_table(photos, capsys):
    Path('data/bag/broken.png').write_text('no image')
    assert tsne('--data-dir', 'data') == 1
    captured = capsys.readouterr()
    assert (
        captured.err
        == f'timm-abn: error: data/bag/broken.png is not an image in a supported format: {", ".join(FORMATS)}\n'
    )
    lines = captured.out.splitlines()
    assert lines[0] == '9 images, 9 with a known class, 3 classes'
    assert [line.split('  ')[0] for line in lines[4:6]] == ['silhouette', '5-NN accuracy']
    assert sorted(path.name for path in Path('outputs/tsne').iterdir()) == ['tsne.csv', 'tsne.png']
    with Image.open('outputs/tsne/tsne.png') as picture:
        assert picture.width > picture.height > 500
    with open('outputs/tsne/tsne.csv', newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['image', 'label', 'x_before', 'y_before', 'x_after', 'y_after']
    assert {row['image']: row['label'] for row in rows}['Sandal/1.png'] == 'sandal'
    assert len(rows) == 9 and all(np.isfinite(float(row['x_after'])) for row in rows)


@installed
def test_the_same_seed_gives_the_same_points(photos):
    for out in ('one', 'two'):
        assert tsne('--data-dir', 'data', '--limit', '6', '--out', out, '--batch-size', '4') == 0
    assert Path('one/tsne.csv').read_bytes() == Path('two/tsne.csv').read_bytes()


@installed
def test_images_without_classes(photos, capsys):
    assert tsne('--data-dir', 'data/coat', '--data-dir', 'data', '--limit', '4', '--seed', '3') == 0
    Path('plain').mkdir()
    for path in Path('data').rglob('*.png'):
        path.rename(Path('plain', path.name))
    capsys.readouterr()
    assert tsne('--data-dir', 'plain') == 0
    said = '9 images, 0 with a known class, 0 classes: too few to say how well features separate classes'
    assert capsys.readouterr().out.splitlines()[0] == said


@installed
@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ([], 'the following arguments are required: --data-dir'),
        (['--data-dir', 'missing'], '--data-dir missing is not a folder'),
        (['--data-dir', 'data', '--limit', '0'], 'argument --limit: must be a whole number of 1 or more'),
        (['--data-dir', 'data', '--limit', '3'], 'a picture of features needs 4 images or more, got 3'),
        (['--data-dir', 'data', '--out', 'data/bag/2.png'], '2.png is a file, not a folder to write into'),
        (['--data-dir', 'data', '--device', 'warp'], "argument --device: cannot compute on 'warp'"),
        (['--data-dir', 'data', '--batch-size', 'x'], 'argument --batch-size: '),
        (['--data-dir', 'data', '--checkpoint', 'missing.pth'], 'there is no checkpoint missing.pth'),
    ],
)
def test_what_is_refused(photos, capsys, args, message):
    assert message in refused(capsys, *args)
    assert not Path('outputs').exists()


@installed
def test_models_without_both_kinds_of_features(photos, capsys):
    safetensors.torch.save_file(tiny_backbone('test_resnet').state_dict(), 'plain.safetensors')
    said = refused(capsys, '--data-dir', 'data', '--checkpoint', 'plain.safetensors', model='test_resnet')
    assert said == 'only an Attention Branch Network has features before and after attention, the model is a ResNet'
    safetensors.torch.save_file(tiny_abn('test_resnet', multi_task=True).state_dict(), 'tasks.safetensors')
    kwargs = ['--checkpoint', 'tasks.safetensors', '--model-kwargs', 'backbone=test_resnet']
    said = refused(capsys, '--data-dir', 'data', *kwargs, model='abn')
    assert 'for each of its 5 tasks; only networks with one attention map can be drawn' in said


@pytest.mark.parametrize('missing', [('matplotlib',), ('sklearn',), NEEDS])
def test_missing_packages(photos, capsys, monkeypatch, missing):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name in missing else object())
    names = ' and '.join({'sklearn': 'scikit-learn'}.get(name, name) for name in missing)
    assert refused(capsys, '--data-dir', 'data') == f"this needs {names}: pip install 'timm-abn[plot]'"
