"""The scripts about images with several attributes: made scenes, training on them, the table of attributes."""

import csv
import filecmp
import importlib.util
import json
import sys

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image

from timm_abn.training.celeba import CelebA

from .test_celeba import ATTRIBUTES, celeba  # noqa: F401  a fixture
from .test_comparison import few_images  # noqa: F401  a fixture
from .timm_scripts import ROOT


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'scripts' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch):
    def run(module, *arguments):
        monkeypatch.setattr(sys, 'argv', [f'{module.__name__}.py', *map(str, arguments)])
        return module.main()

    return run


@pytest.fixture
def make(monkeypatch, run, few_images):  # noqa: F811
    """Make scenes of few items, which are squares on noise."""
    pytest.importorskip('skimage', reason='the scenes lie on photos of scikit-image')
    maker = script('make_multi_attribute_set')
    splits = {name: (part, train, slice(None), photos) for name, (part, train, _, photos) in maker.SPLITS.items()}
    monkeypatch.setattr(maker, 'SPLITS', splits)

    def make(folder, *flags):
        counts = ['--train', 12, '--val', 4, '--test', 6]
        return run(maker, '--data-dir', few_images, '--out', folder, *counts, *flags)

    return make


def test_scenes_are_what_their_attributes_say(make, tmp_path):
    assert make(tmp_path / 'scenes') == 0
    for split, count in (('train', 12), ('val', 4), ('test', 6)):
        dataset = CelebA(str(tmp_path / 'scenes'), split)
        assert len(dataset) == count and len(dataset.attributes) == 10
        for index, name in enumerate(dataset.images):
            image, target = dataset[index]
            segmentation = np.asarray(Image.open(tmp_path / 'scenes' / 'segmentation' / name))
            assert image.size == (64, 64) and segmentation.shape == (64, 64)
            assert set(np.unique(segmentation)) - {0} == {t + 1 for t in range(10) if target[t]}
            assert 2 <= target.sum() <= 4


def test_the_same_seed_makes_the_same_scenes(make, tmp_path):
    for folder, seed in (('first', 0), ('again', 0), ('other', 1)):
        assert make(tmp_path / folder, '--seed', seed) == 0
    names = [path.name for path in (tmp_path / 'first' / 'img_align_celeba').iterdir()]
    for kind in ('img_align_celeba', 'segmentation'):
        for folder, equal in (('again', 22), ('other', 0)):
            same, _, _ = filecmp.cmpfiles(tmp_path / 'first' / kind, tmp_path / folder / kind, names, shallow=False)
            assert len(same) == equal


def test_folder_with_something_in_it_is_left_alone(make, tmp_path, capfd):
    (tmp_path / 'notes').write_text('mine')
    assert make(tmp_path) == 2
    assert 'is not empty; choose a new folder' in capfd.readouterr().err
    assert (tmp_path / 'notes').read_text() == 'mine'


def test_packages_of_the_extra_that_are_missing(run, tmp_path, monkeypatch, capfd):
    maker = script('make_multi_attribute_set')
    monkeypatch.setattr(maker.importlib.util, 'find_spec', lambda name: None)
    assert run(maker, '--out', tmp_path / 'scenes') == 2
    assert capfd.readouterr().err == (
        "make_multi_attribute_set.py: error: scipy and skimage cannot be imported: pip install '.[scenes]'\n"
    )
    assert not (tmp_path / 'scenes').exists()


@pytest.mark.parametrize('model', ['abn', 'baseline'])
def test_training_on_scenes(make, run, tmp_path, model):
    make(tmp_path / 'scenes')
    flags = ['--epochs', 2, '--batch-size', 2, '--out', tmp_path / 'out', '--model', model]
    assert run(script('train_multi_attribute'), '--data-dir', tmp_path / 'scenes', *flags) == 0
    folder = tmp_path / 'out' / f'{model}-seed0'
    metrics = json.loads((folder / 'metrics.json').read_text())
    pointing = [name for name in metrics if name.startswith('pointing')]
    assert len(pointing) == (2 if model == 'abn' else 3) and ('attention_map' in metrics) == (model == 'abn')
    assert all(0 <= metrics[name] <= 100 for name in ('accuracy', 'map', *pointing))
    setup = yaml.safe_load((folder / 'args.yaml').read_text())
    trained = timm.create_model(setup['model'], num_classes=setup['num_classes'], **setup['model_kwargs'])
    trained.load_state_dict(safetensors.torch.load_file(folder / 'model.safetensors'))
    assert (folder / 'maps.png').is_file() == (model == 'abn')


def test_pointing_game_by_hand():
    segmentation = torch.zeros(2, 64, 64, dtype=torch.uint8)
    segmentation[0, :32, :32], segmentation[0, 48:, 48:], segmentation[1, 32:] = 1, 2, 2
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    maps = torch.zeros(2, 2, 4, 4)
    maps[0, 0, 0, 0] = maps[0, 1, 0, 3] = maps[1, 1, 3, 1] = 1  # on its object, on nothing, on its object
    results = script('train_multi_attribute').pointing({'maps': maps}, targets, segmentation)
    assert results == pytest.approx({'pointing, chance': 100 * (1 / 4 + 1 / 16 + 1 / 2) / 3, 'pointing, maps': 200 / 3})


@pytest.fixture
def runs(tmp_path):
    """Output folders of timm's script, an ABN and its baseline, both untrained."""
    folders = []
    for name, model, model_kwargs in (
        ('abn', 'abn', dict(backbone='test_resnet', multi_task=True)),
        ('baseline', 'test_resnet', {}),
    ):
        torch.manual_seed(0)
        folder = tmp_path / name
        folder.mkdir()
        network = timm.create_model(model, num_classes=3, **model_kwargs)
        torch.save(dict(state_dict=network.state_dict()), folder / 'last.pth.tar')
        arguments = dict(model=model, num_classes=3, model_kwargs=model_kwargs, input_size=[3, 32, 32], crop_pct=1.0)
        (folder / 'args.yaml').write_text(yaml.safe_dump(arguments))
        folders.append(folder)
    return folders


def test_table_of_attributes(runs, run, celeba, tmp_path, capfd):  # noqa: F811
    flags = ['--data-dir', celeba, '--split', 'train', '--out', tmp_path / 'table.csv', '--workers', 0]
    assert run(script('compare_attributes'), *runs, *flags, '--device', 'cpu') == 0
    rows = list(csv.DictReader((tmp_path / 'table.csv').open()))
    assert [row['attribute'] for row in rows] == ATTRIBUTES
    output = capfd.readouterr().out
    for row in rows:
        abn, baseline = float(row['abn']), float(row['baseline'])
        assert {abn, baseline} <= {0.0, 33.33, 66.67, 100.0}  # of three images
        assert row['winner'] == ('tie' if abn == baseline else 'abn' if abn > baseline else 'baseline')
        assert row['attribute'] in output
    wins = [sum(row['winner'] == name for row in rows) for name in ('abn', 'baseline')]
    assert output.splitlines()[-2].split() == ['wins', str(wins[0]), str(wins[1]), 'of', '3']


def test_winners_by_hand():
    rows = script('compare_attributes').table(
        ['a', 'b', 'c'], torch.tensor([90.0, 80.0, 70]), torch.tensor([89.0, 80, 71])
    )
    assert [row['winner'] for row in rows] == ['abn', 'tie', 'baseline']


@pytest.mark.parametrize(
    'harm, message',
    [
        (
            lambda runs: (runs[0] / 'last.pth.tar').unlink(),
            'abn must hold args.yaml and last.pth.tar or model.safetens',
        ),
        (
            lambda runs: (runs[1] / 'args.yaml').write_text('model: test_resnet\nnum_classes: 40\n'),
            'the model has 40 classes, but the data 3 attributes',
        ),
        (
            lambda runs: (runs[1] / 'args.yaml').write_text('model: test_resnet\nnum_classes: 1\ntarget_key: Male\n'),
            'were trained on different attributes',
        ),
    ],
)
def test_runs_that_cannot_be_compared(runs, run, celeba, tmp_path, capfd, harm, message):  # noqa: F811
    harm(runs)
    assert run(script('compare_attributes'), *runs, '--data-dir', celeba, '--out', tmp_path / 'table.csv') == 2
    error = capfd.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not (tmp_path / 'table.csv').exists()
