"""The scripts about images with several attributes: made scenes, training on them, the table of attributes."""

import argparse
import csv
import filecmp
import json
import re
import shutil
import sys

import numpy as np
import pytest
import timm
import torch
import yaml
from celeba_files import ATTRIBUTES
from own_scripts import load_script
from PIL import Image
from tiers import fast_and_slow
from torch.utils.data import TensorDataset

from timm_abn.data.celeba import CelebA
from timm_abn.models.training_checkpoints import read_checkpoint, training_settings
from timm_abn.training.packed_targets import unpack_target


@pytest.fixture
def run(monkeypatch):
    def run(module, *arguments):
        monkeypatch.setattr(sys, 'argv', [f'{module.__name__}.py', *map(str, arguments)])
        return module.main()

    return run


@pytest.fixture
def make(monkeypatch, run, few_images):
    """Make scenes of few items, which are squares on noise."""
    pytest.importorskip('skimage', reason='the scenes lie on photos of scikit-image')
    maker = load_script('make_multi_attribute_set')
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
    maker = load_script('make_multi_attribute_set')
    monkeypatch.setattr(maker.importlib.util, 'find_spec', lambda name: None)
    assert run(maker, '--out', tmp_path / 'scenes') == 2
    assert capfd.readouterr().err == (
        "make_multi_attribute_set.py: error: scipy and skimage cannot be imported: pip install '.[scenes]'\n"
    )
    assert not (tmp_path / 'scenes').exists()


@pytest.fixture
def run_and_read_error(run, capfd):
    """Run a script on what it must refuse; returns its one line."""

    def run_and_read_error(module, *arguments):
        capfd.readouterr()
        try:
            code = run(module, *arguments)
        except SystemExit as stop:  # of argparse, which puts the usage before it
            code = stop.code
        error = capfd.readouterr().err
        lines = [line for line in error.splitlines() if f'{module.__name__}.py: error: ' in line]
        assert code == 2 and len(lines) == 1 and 'Traceback' not in error
        return lines[0]

    return run_and_read_error


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--train', '0'], "--train: must be a whole number of 1 or more, got '0'"),
        (['--val', '-1'], "--val: must be a whole number of 1 or more, got '-1'"),
        (['--test', 'x'], "--test: must be a whole number of 1 or more, got 'x'"),
        (['--seed', '-1'], "--seed: must be a whole number of 0 or more, got '-1'"),
        (['--out', 'FILE/below/it'], 'is a file, not a folder to write into'),
    ],
)
def test_scenes_that_cannot_be_made(make, run_and_read_error, few_images, tmp_path, flags, message):
    (tmp_path / 'file').touch()
    flags = [flag.replace('FILE', str(tmp_path / 'file')) for flag in flags]
    arguments = ['--data-dir', few_images, '--out', tmp_path / 'scenes', *flags]
    assert message in run_and_read_error(load_script('make_multi_attribute_set'), *arguments)
    assert not (tmp_path / 'scenes').exists()


@pytest.mark.parametrize('size', [0, 6, 1000, None])
@pytest.mark.parametrize('name', ['train-images-idx3-ubyte', 't10k-labels-idx1-ubyte'])
def test_damaged_fashion_mnist(make, run_and_read_error, few_images, tmp_path, name, size):
    path = few_images / 'FashionMNIST' / 'raw' / name
    content = path.read_bytes()
    path.unlink()
    if size is not None:
        path.write_bytes(content[: min(size, len(content) - 1)])
    arguments = ['--data-dir', few_images, '--out', tmp_path / 'scenes']
    line = run_and_read_error(load_script('make_multi_attribute_set'), *arguments)
    assert f'{path.parent} must hold Fashion-MNIST: ' in line and line.endswith('and pass --download')
    assert not (tmp_path / 'scenes').exists()


@pytest.fixture
def scenes(tmp_path):
    """Three scenes of one attribute, one a split."""
    folder = tmp_path / 'scenes'
    for kind in ('img_align_celeba', 'segmentation'):
        (folder / kind).mkdir(parents=True)
        for index in range(3):
            Image.new('RGB' if kind != 'segmentation' else 'L', (64, 64)).save(folder / kind / f'{index}.png')
    (folder / 'list_attr_celeba.txt').write_text('3\nBag\n0.png 1\n1.png 1\n2.png -1\n')
    (folder / 'list_eval_partition.txt').write_text('0.png 0\n1.png 1\n2.png 2\n')
    return folder


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--epochs', '0'], "--epochs: must be a whole number of 1 or more, got '0'"),
        (['--batch-size', '-2'], '--batch-size: must be a whole number of 1 or more'),
        (['--batch-size', '2'], '--batch-size 2 is more than the 1 training scenes'),
        (['--lr', '0'], "--lr: must be above 0, got '0'"),
        (['--weight-decay', 'nan'], "--weight-decay: must be a number that is finite and not negative, got 'nan'"),
        (['--out', 'FILE'], 'is a file, not a folder to write into'),
    ],
)
def test_training_that_cannot_be(run_and_read_error, scenes, tmp_path, flags, message):
    (tmp_path / 'file').touch()
    flags = [flag.replace('FILE', str(tmp_path / 'file')) for flag in flags]
    arguments = ['--model', 'baseline', '--data-dir', scenes, '--out', tmp_path / 'out', *flags]
    assert message in run_and_read_error(load_script('train_multi_attribute'), *arguments)
    assert not (tmp_path / 'out').exists()


def test_segmentation_that_is_missing_or_broken(run_and_read_error, scenes, tmp_path):
    arguments = ['--model', 'baseline', '--data-dir', scenes, '--out', tmp_path / 'out', '--batch-size', 1]
    trainer = load_script('train_multi_attribute')
    path = scenes / 'segmentation' / '2.png'
    Image.new('RGB', (64, 64)).save(path)
    assert f'{path} must be grey, of 64x64 pixels, got (64, 64, 3)' in run_and_read_error(trainer, *arguments)
    path.write_bytes(b'')
    assert f'{path} is not an image' in run_and_read_error(trainer, *arguments)
    path.unlink()
    assert f'{path} cannot be read: No such file or directory; make' in run_and_read_error(trainer, *arguments)


def test_picture_without_matplotlib(run_and_read_error, scenes, tmp_path, monkeypatch):
    trainer = load_script('train_multi_attribute')
    monkeypatch.setattr(trainer.importlib.util, 'find_spec', lambda name: None)
    line = run_and_read_error(trainer, '--data-dir', scenes, '--out', tmp_path / 'out')
    assert line.endswith("needs matplotlib: pip install '.[scenes,plot]'")


@pytest.mark.parametrize('model', fast_and_slow(['abn', 'baseline'], ['abn']))
def test_training_on_scenes(make, run, tmp_path, model):
    make(tmp_path / 'scenes')
    flags = ['--epochs', 2, '--batch-size', 2, '--out', tmp_path / 'out', '--model', model]
    assert run(load_script('train_multi_attribute'), '--data-dir', tmp_path / 'scenes', *flags) == 0
    folder = tmp_path / 'out' / f'{model}-seed0'
    metrics = json.loads((folder / 'metrics.json').read_text())
    pointing = [name for name in metrics if name.startswith('pointing')]
    assert len(pointing) == (2 if model == 'abn' else 3) and ('attention_map' in metrics) == (model == 'abn')
    assert all(0 <= metrics[name] <= 100 for name in ('accuracy', 'map', *pointing))
    setup = yaml.safe_load((folder / 'args.yaml').read_text())
    trained = timm.create_model(setup['model'], num_classes=setup['num_classes'], **setup['model_kwargs'])
    weights, metadata = read_checkpoint(folder / 'last.pth.tar')
    trained.load_state_dict(weights)
    assert training_settings(metadata) == setup
    assert (folder / 'maps.png').is_file() == (model == 'abn')


def test_scenes_carry_masks_of_their_attributes():
    trainer = load_script('train_multi_attribute')
    segmentation = torch.zeros(64, 64, dtype=torch.uint8)
    segmentation[:8, :8], segmentation[40:, 40:] = 1, 3
    target = torch.tensor([1.0, 0.0, 1.0])
    labels, masks = unpack_target(trainer.with_masks(target, segmentation)[None], 3, 3)
    assert torch.equal(labels[0], target)
    assert [int(mask.count_nonzero()) for mask in masks[0]] == [64, 0, 24 * 24] and set(masks.unique().tolist()) == {
        0,
        255,
    }
    assert masks[0, 0, 7, 7] == masks[0, 2, 63, 40] == 255


def test_masks_are_mirrored_with_their_scenes_and_a_share_of_them_is_used(make, tmp_path):
    trainer = load_script('train_multi_attribute')
    make(tmp_path / 'scenes')
    data, _ = trainer.load(tmp_path / 'scenes', 'train')
    shares = {
        share: trainer.load_masks(argparse.Namespace(data_dir=tmp_path / 'scenes', seed=0, attention_mask_share=share))
        for share in (0.25, 0.5, 1)
    }
    used = {share: {index for index, mask in enumerate(masks) if mask.any()} for share, masks in shares.items()}
    assert used[0.25] < used[0.5] < used[1] and [len(found) for found in used.values()] == [3, 6, 12]
    # a picture that shows its own segmentation, which its masks must follow
    shown = TensorDataset(shares[1][:, None].expand(-1, 3, -1, -1), data.tensors[1], shares[1])
    for images, targets in trainer.batches_of(shown, 4, torch.Generator().manual_seed(0)):
        labels, masks = unpack_target(targets, 10, 10)
        pixels = (images * trainer.STD + trainer.MEAN).mul(255).round()[:, :1]
        assert torch.equal(masks == 255, pixels == torch.arange(1, 11)[:, None, None])
        assert torch.equal(labels.bool(), masks.flatten(2).any(dim=2))


def test_training_goes_on_from_another_run(make, run, run_and_read_error, tmp_path):
    make(tmp_path / 'scenes')
    trainer, out = load_script('train_multi_attribute'), tmp_path / 'out'
    flags = ['--data-dir', tmp_path / 'scenes', '--epochs', 1, '--batch-size', 4, '--lr', 1e-12, '--weight-decay', 0]
    assert run(trainer, *flags, '--model', 'baseline', '--out', out) == 0
    first = out / 'baseline-seed0' / 'last.pth.tar'
    flags += ['--initial-checkpoint', first]
    assert run(trainer, *flags, '--model', 'baseline', '--seed', 1, '--out', out) == 0
    begun, ended = (read_checkpoint(path)[0] for path in (first, out / 'baseline-seed1' / 'last.pth.tar'))
    torch.testing.assert_close(ended['fc.weight'], begun['fc.weight'])
    assert 'the checkpoint is not one of abn' in run_and_read_error(trainer, *flags, '--model', 'abn', '--out', out)


def test_pointing_game_by_hand():
    segmentation = torch.zeros(2, 64, 64, dtype=torch.uint8)
    segmentation[0, :32, :32], segmentation[0, 48:, 48:], segmentation[1, 32:] = 1, 2, 2
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    maps = torch.zeros(2, 2, 4, 4)
    maps[0, 0, 0, 0] = maps[0, 1, 0, 3] = maps[1, 1, 3, 1] = 1  # on its object, on nothing, on its object
    results = load_script('train_multi_attribute').pointing({'maps': maps}, targets, segmentation)
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


def test_table_of_attributes(runs, run, celeba, tmp_path, capfd):
    flags = ['--data-dir', celeba, '--split', 'train', '--out', tmp_path / 'table.csv', '--workers', 0]
    assert run(load_script('compare_attributes'), *runs, *flags, '--device', 'cpu') == 0
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
    rows = load_script('compare_attributes').table(
        ['a', 'b', 'c'], torch.tensor([90.0, 80.0, 70]), torch.tensor([89.0, 80, 71])
    )
    assert [row['winner'] for row in rows] == ['abn', 'tie', 'baseline']


@pytest.mark.parametrize(
    'harm, message',
    [
        (
            lambda runs: (runs[0] / 'last.pth.tar').unlink(),
            'abn must hold args.yaml and last.pth.tar, as',
        ),
        (
            lambda runs: (runs[1] / 'args.yaml').write_text('model: test_resnet\nnum_classes: 40\n'),
            'the model has 40 classes, but the data 3 attributes',
        ),
        (
            lambda runs: (runs[1] / 'args.yaml').write_text('model: test_resnet\nnum_classes: 1\ntarget_key: Male\n'),
            'were trained on different attributes',
        ),
        (
            lambda runs: shutil.copy(runs[0] / 'last.pth.tar', runs[1]),
            'baseline: the checkpoint is not one of test_resnet: keys ',
        ),
        (
            lambda runs: (runs[1] / 'last.pth.tar').write_bytes(b'PK'),
            'last.pth.tar is no checkpoint, or damaged: ',
        ),
        (lambda runs: (runs[1] / 'args.yaml').write_text('words'), 'args.yaml does not say model as'),
        (
            lambda runs: (runs[1] / 'args.yaml').write_text('model: test_resnet'),
            'does not say num_classes as .* got None',
        ),
        (lambda runs: (runs[1] / 'args.yaml').write_text('model: ['), 'args.yaml is not YAML: '),
        (lambda runs: (runs[1] / 'args.yaml').write_bytes(b'\xff'), 'args.yaml is not YAML: '),
        (
            lambda runs: (runs[0] / 'args.yaml').write_text(
                '{model: abn, num_classes: 3, model_kwargs: {mechanism: x}}'
            ),
            "abn: abn cannot be created with mechanism='x', num_classes=3: mechanism must be one of",
        ),
        (
            lambda runs: (runs[0] / 'args.yaml').write_text('{model: nosuch, num_classes: 3}'),
            'abn: nosuch cannot be created with num_classes=3: Unknown model',
        ),
        (
            lambda runs: [shutil.copy(runs[1] / name, runs[0]) for name in ('args.yaml', 'last.pth.tar')],
            'abn holds test_resnet, which is no Attention Branch Network; the run of the ABN comes first',
        ),
        (
            lambda runs: [shutil.copy(runs[0] / name, runs[1]) for name in ('args.yaml', 'last.pth.tar')],
            'baseline holds abn, which is an Attention Branch Network; the run of the ABN comes first',
        ),
    ],
)
def test_runs_that_cannot_be_compared(runs, run_and_read_error, celeba, tmp_path, harm, message):
    harm(runs)
    arguments = [*runs, '--data-dir', celeba, '--out', tmp_path / 'table.csv']
    assert re.search(message, run_and_read_error(load_script('compare_attributes'), *arguments))
    assert not (tmp_path / 'table.csv').exists()


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--batch-size', '0'], '--batch-size: must be a whole number of 1 or more'),
        (['--workers', '-1'], '--workers: must be a whole number of 0 or more'),
        (['--device', 'foo'], "--device: cannot compute on 'foo'"),
        (['--out', 'FOLDER'], 'is a folder; name a file in it'),
        (['--out', 'FOLDER/file/table.csv'], 'is a file, not a folder to write into'),
    ],
)
def test_flags_of_the_table(runs, run_and_read_error, celeba, tmp_path, flags, message):
    (tmp_path / 'file').touch()
    flags = [flag.replace('FOLDER', str(tmp_path)) for flag in flags]
    arguments = [*runs, '--data-dir', celeba, '--out', tmp_path / 'table.csv', *flags]
    assert message in run_and_read_error(load_script('compare_attributes'), *arguments)
    assert not (tmp_path / 'table.csv').exists()
