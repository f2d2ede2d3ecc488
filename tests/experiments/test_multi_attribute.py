"""Scenes with several attributes, and training on them."""

import filecmp
import json

import numpy as np
import pytest
import timm
import yaml
from own_scripts import load_script
from PIL import Image
from tiers import fast_and_slow

from timm_abn.checkpoint_files import read_checkpoint, training_settings
from timm_abn.data.celeba import CelebA


@pytest.fixture
def make(monkeypatch, run, few_images):
    """Make scenes of few items, which are squares on noise."""
    pytest.importorskip('skimage', reason='the scenes lie on photos of scikit-image')
    maker = load_script('experiments/make_multi_attribute_set')
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
    maker = load_script('experiments/make_multi_attribute_set')
    monkeypatch.setattr(maker.importlib.util, 'find_spec', lambda name: None)
    assert run(maker, '--out', tmp_path / 'scenes') == 2
    assert capfd.readouterr().err == (
        "make_multi_attribute_set.py: error: scipy and skimage cannot be imported: pip install '.[scenes]'\n"
    )
    assert not (tmp_path / 'scenes').exists()


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
    assert message in run_and_read_error(load_script('experiments/make_multi_attribute_set'), *arguments)
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
    line = run_and_read_error(load_script('experiments/make_multi_attribute_set'), *arguments)
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
        (['--weight-decay', 'nan'], "--weight-decay: must be a finite number of 0 or more, got 'nan'"),
        (['--out', 'FILE'], 'is a file, not a folder to write into'),
    ],
)
def test_training_that_cannot_be(run_and_read_error, scenes, tmp_path, flags, message):
    (tmp_path / 'file').touch()
    flags = [flag.replace('FILE', str(tmp_path / 'file')) for flag in flags]
    arguments = ['--model', 'baseline', '--data-dir', scenes, '--out', tmp_path / 'out', *flags]
    assert message in run_and_read_error(load_script('experiments/train_multi_attribute'), *arguments)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('model', fast_and_slow(['abn', 'baseline'], ['abn']))
def test_training_on_scenes(make, run, tmp_path, model):
    make(tmp_path / 'scenes')
    flags = ['--epochs', 2, '--batch-size', 2, '--out', tmp_path / 'out', '--model', model]
    assert run(load_script('experiments/train_multi_attribute'), '--data-dir', tmp_path / 'scenes', *flags) == 0
    folder = tmp_path / 'out' / f'{model}-seed0'
    metrics = json.loads((folder / 'metrics.json').read_text())
    assert ('attention_map' in metrics) == (model == 'abn')
    assert all(0 <= metrics[name] <= 100 for name in ('accuracy', 'map'))
    setup = yaml.safe_load((folder / 'args.yaml').read_text())
    trained = timm.create_model(setup['model'], num_classes=setup['num_classes'], **setup['model_kwargs'])
    weights, metadata = read_checkpoint(folder / 'last.pth.tar')
    trained.load_state_dict(weights)
    assert training_settings(metadata) == setup
