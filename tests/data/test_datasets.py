"""The data sets that timm does not know, in folders made as the official archives unpack."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest
import timm.data
import torch
import torchvision.datasets

from timm_abn.data.datasets import CompCars, create_dataset
from timm_abn.data.errors import DataError
from timm_abn.training.replacing import replace


@pytest.fixture(autouse=True)
def extended(monkeypatch):
    monkeypatch.setattr(timm.data, 'create_dataset', timm.data.create_dataset)
    replace(timm.data, 'create_dataset', create_dataset)


@pytest.mark.parametrize('target, train, test', [('model', [2, 0, 1], [1]), ('maker', [0, 0, 1], [1])])
def test_compcars_labels(compcars, target, train, test):
    for split, expected in (('train', train), ('test', test), ('validation', test)):
        dataset = timm.data.create_dataset('compcars', root=str(compcars), split=split, target_key=target)
        assert [dataset[index][1] for index in range(len(dataset))] == expected


def test_compcars_shows_the_car(compcars):
    image, _ = timm.data.create_dataset('CompCars', root=str(compcars), split='train')[0]
    assert image.size == (30, 20)
    assert np.abs(np.asarray(image)[2:-2, 2:-2].astype(int) - (200, 40, 40)).max() < 20


def test_compcars_through_the_loader(compcars):
    dataset = timm.data.create_dataset('compcars', root=str(compcars), split='train')
    loader = timm.data.create_loader(
        dataset, input_size=(3, 16, 24), batch_size=3, num_workers=0, device=torch.device('cpu')
    )
    images, labels = next(iter(loader))
    assert images.shape == (3, 3, 16, 24) and labels.tolist() == [2, 0, 1]


def test_compcars_in_the_folder_around(compcars, tmp_path):
    around = tmp_path / 'around'
    around.mkdir()
    (around / 'data').symlink_to(compcars)
    assert len(CompCars(str(around), 'train')) == 3


def break_compcars(folder, how):
    if how == 'no label':
        (folder / 'label').rename(folder / 'labels')
    elif how == 'no image':
        (folder / 'image' / '7' / '9' / '2011' / 'b.jpg').unlink()
    elif how == 'strange':
        (folder / 'train_test_split' / 'classification' / 'train.txt').write_text('7/30/2010/a.jpg\n7/9/2011/b.jpg\n')


@pytest.mark.parametrize(
    'how, split, message',
    [
        ('no label', 'train', r'expected the folder label in .*must hold image/, label/ and train_test_split/'),
        ('no image', 'train', r'1 files of the split are missing, the first is .*b\.jpg'),
        ('strange', 'test', r'has a model that train\.txt lacks: 100/12/2012/d\.jpg'),
        ('well', 'hold-out', r"no split 'hold-out': expected .*hold-out\.txt; there are: test, train"),
    ],
)
def test_compcars_says_what_is_missing(compcars, how, split, message):
    break_compcars(compcars, how)
    with pytest.raises(DataError, match=message):
        timm.data.create_dataset('compcars', root=str(compcars), split=split)


def test_compcars_has_models_and_makers(compcars):
    with pytest.raises(DataError, match="must be model or maker, got 'colour'"):
        timm.data.create_dataset('compcars', root=str(compcars), split='train', target_key='colour')


class FakeSVHN:
    """torchvision's class without its checksums."""

    def __init__(self, root, split, download=False):
        count = dict(train=3, extra=5, test=2)[split]
        self.data = np.full((count, 3, 32, 32), count, dtype=np.uint8)
        self.labels = np.full(count, count)
        self.transform = None


@pytest.fixture
def svhn_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, 'SVHN', FakeSVHN)
    monkeypatch.setitem(sys.modules, 'scipy', scipy_stand_in := types.ModuleType('scipy'))
    scipy_stand_in.__spec__ = importlib.machinery.ModuleSpec('scipy', None)
    for name in ('train', 'extra', 'test'):
        (tmp_path / f'{name}_32x32.mat').write_bytes(b'')
    return tmp_path


@pytest.mark.parametrize(
    'split, labels',
    [('train+extra', [3] * 3 + [5] * 5), ('train', [3] * 3), ('test', [2] * 2), ('validation', [2] * 2)],
)
def test_svhn_splits(svhn_folder, split, labels):
    dataset = timm.data.create_dataset('torch/svhn', root=str(svhn_folder), split=split)
    assert dataset.labels.tolist() == dataset.data[:, 0, 0, 0].tolist() == labels


def test_svhn_says_what_is_missing(svhn_folder, tmp_path):
    (svhn_folder / 'extra_32x32.mat').unlink()
    with pytest.raises(DataError, match=r'expected extra_32x32\.mat in .*--dataset-download'):
        timm.data.create_dataset('torch/svhn', root=str(svhn_folder), split='train+extra')
    with pytest.raises(DataError, match="no split 'more'; it has train, extra and test"):
        timm.data.create_dataset('torch/svhn', root=str(svhn_folder), split='train+more')


def test_svhn_with_a_broken_file(svhn_folder, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError('corrupted')

    monkeypatch.setattr(torchvision.datasets, 'SVHN', fail)
    with pytest.raises(DataError, match='corrupted'):
        timm.data.create_dataset('torch/svhn', root=str(svhn_folder), split='test')


def test_svhn_without_scipy_is_refused_before_the_download(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'scipy', None)
    monkeypatch.setattr(torchvision.datasets, 'SVHN', None)  # not called
    with pytest.raises(DataError, match='need scipy: pip install scipy'):
        timm.data.create_dataset('torch/svhn', root=str(tmp_path), split='test', download=True)


@pytest.mark.parametrize(
    'name, expected',
    [
        ('torch/cifar100', 'expected cifar-100-python in '),
        ('torch/cifar10', 'expected cifar-10-batches-py in '),
        ('torch/fashion_mnist', 'expected FashionMNIST/raw in '),
        ('', 'a folder for each class in '),
    ],
)
def test_incomplete_folder_says_what_was_expected(tmp_path, name, expected):
    with pytest.raises(DataError, match=expected):
        timm.data.create_dataset(name, root=str(tmp_path), split='train')


def test_missing_folder_says_so(tmp_path):
    with pytest.raises(DataError, match='nowhere does not exist; expected cifar-100-python in it'):
        timm.data.create_dataset('torch/cifar100', root=str(tmp_path / 'nowhere'))
    with pytest.raises(DataError, match='--data-dir is missing'):
        timm.data.create_dataset('', root=None)


def test_other_data_sets_are_those_of_timm(image_folder):
    dataset = timm.data.create_dataset('', root=str(image_folder), split='train')
    assert isinstance(dataset, timm.data.ImageDataset) and len(dataset) == 24
