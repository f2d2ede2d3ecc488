"""Data sets of the paper that timm does not know, under its ``--dataset``; and plain words where one is missing.

``torch/svhn``: SVHN, with the splits ``train``, ``extra``, ``train+extra`` and ``test``.
``compcars``: the web-nature part of CompCars by its official split files, with ``--target-key model`` or ``maker``.
``celeba``: CelebA by its official files, for ``--task multilabel``; ``--target-key Smiling,Male`` chooses attributes.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
import torchvision.datasets
from torch.utils.data import Dataset

from ..errors import one_line
from ..records import Levels
from .celeba import CelebA
from .errors import DataError
from .photos import hold_out
from .reading import read_image, without_damaged
from .timm_images import ReadImages

__all__ = ['CompCars', 'create_dataset', 'svhn']

_EVALUATION = ('val', 'valid', 'validation', 'eval', 'evaluation')

# what torchvision unpacks below --data-dir
_TORCH_FOLDERS = {
    'torch/cifar10': 'cifar-10-batches-py',
    'torch/cifar100': 'cifar-100-python',
    'torch/fashion_mnist': 'FashionMNIST/raw',
    'torch/mnist': 'MNIST/raw',
}


def svhn(root: str, split: str = 'train+extra', download: bool = False) -> Dataset:
    """Return SVHN, of the files that torchvision reads; several splits joined by '+' become one data set.

    Splits are 'train', 'extra' and 'test', which names for a validation split mean, too. A missing or broken file, or
    scipy missing, is a DataError.
    """
    names = ['test' if name in _EVALUATION else name for name in split.split('+')]
    unknown = [name for name in names if name not in ('train', 'extra', 'test')]
    if unknown:
        raise DataError(f'SVHN has no split {unknown[0]!r}; it has train, extra and test, joined by + if several.')
    if importlib.util.find_spec('scipy') is None:  # torchvision would notice after the download
        raise DataError('SVHN is stored as MATLAB files, which need scipy: pip install scipy.')
    missing = [f'{name}_32x32.mat' for name in names if not (Path(root) / f'{name}_32x32.mat').is_file()]
    if missing and not download:
        raise DataError(
            f'SVHN: expected {" and ".join(missing)} in {root}; pass --dataset-download, or get them from '
            'http://ufldl.stanford.edu/housenumbers.'
        )
    try:
        parts = [torchvision.datasets.SVHN(root, name, download=download) for name in names]
    except RuntimeError as error:
        raise DataError(f'SVHN in {root}: {one_line(error)}.') from error
    # one object, not a ConcatDataset: timm's loader sets .transform on it
    joined = parts[0]
    joined.data = np.concatenate([part.data for part in parts])
    joined.labels = np.concatenate([part.labels for part in parts])
    return joined


class CompCars(Dataset):
    """Web-nature images of CompCars, cut to the car, labelled with model or maker.

    Yang et al., "A Large-Scale Car Dataset for Fine-Grained Categorization and Verification", CVPR 2015. Images lie in
    ``image/<maker>/<model>/<year>/<name>.jpg``, their boxes in ``label/...txt``; a split file in
    ``train_test_split/classification`` names them line by line. Names for a validation split mean 'test'. Classes are
    the ids of ``train.txt`` in rising order.
    """

    TARGETS = ('model', 'maker')

    def __init__(self, root: str, split: str = 'train', target: str = 'model', levels: Levels | None = None) -> None:
        if target not in self.TARGETS:
            raise DataError(f'--target-key of CompCars must be model or maker, got {target!r}.')
        self.root = Path(root)
        if not (self.root / 'image').is_dir() and (self.root / 'data' / 'image').is_dir():
            self.root = self.root / 'data'  # as the archive unpacks
        for folder in ('image', 'label', 'train_test_split/classification'):
            if not (self.root / folder).is_dir():
                raise DataError(
                    f'CompCars: expected the folder {folder} in {root}; --data-dir must hold image/, label/ and '
                    'train_test_split/ of the web-nature data.'
                )
        self.transform: Callable | None = None
        self.levels = levels
        self.images = self._read_split('test' if split in _EVALUATION else split)
        self._check_complete()
        self.images = without_damaged(self.images, lambda name: self.root / 'image' / name)
        position = self.TARGETS.index(target)
        ids = [self._ids(name)[position] for name in self.images]
        known = sorted({self._ids(name)[position] for name in self._read_split('train')})
        self.class_to_idx: dict[int, int] = {identity: index for index, identity in enumerate(known)}
        strange = [name for name, identity in zip(self.images, ids) if identity not in self.class_to_idx]
        if strange:
            raise DataError(f'CompCars: {split} has a {target} that train.txt lacks: {strange[0]}.')
        self.targets = [self.class_to_idx[identity] for identity in ids]

    def _read_split(self, split: str) -> list[str]:
        folder = self.root / 'train_test_split' / 'classification'
        path = folder / f'{split}.txt'
        if not path.is_file():
            found = ', '.join(sorted(path.stem for path in folder.glob('*.txt'))) or 'none'
            raise DataError(f'CompCars has no split {split!r}: expected {path}; there are: {found}.')
        return path.read_text(encoding='utf-8-sig').split()

    @staticmethod
    def _ids(name: str) -> tuple[int, int]:
        maker, model = name.split('/')[:2]
        return int(model), int(maker)

    def _check_complete(self) -> None:
        missing = [
            path
            for name in self.images
            for path in (self.root / 'image' / name, self._label_path(name))
            if not path.is_file()
        ]
        if missing:
            raise DataError(
                f'CompCars is incomplete: {len(missing)} files of the split are missing, the first is {missing[0]}.'
            )

    def _label_path(self, name: str) -> Path:
        return (self.root / 'label' / name).with_suffix('.txt')

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        name = self.images[index]
        # viewpoint, number of boxes, then the box: x1 y1 x2 y2, counted from 1, both ends inside
        left, top, right, bottom = map(int, self._label_path(name).read_text().splitlines()[2].split())
        car = read_image(self.root / 'image' / name, self.levels).crop((left - 1, top - 1, right, bottom))
        return (car if self.transform is None else self.transform(car)), self.targets[index]


def create_dataset(
    timm_create: Callable,
    name: str,
    root: str | None = None,
    split: str = 'validation',
    class_indices: Mapping[str, int] | None = None,
    folders: tuple[Path, Path | None] | None = None,
    levels: Levels | None = None,
    **kwargs: Any,
) -> Any:
    """Create a data set as ``timm.data.create_dataset`` does, which is passed first, or one of this module.

    ``class_indices`` are those of folders of images, so that a split that lacks some of them has the same labels as one
    that has all, and ``folders`` those to train on and to hold out, as ``split_folders`` returns them. ``levels`` are
    black and white in images of more than 8 bits (``read_image``), which reads whatever timm would open itself;
    torchvision's and streamed data sets decode their images themselves.
    """
    key = name.lower()
    download = bool(kwargs.get('download'))
    _check_root(key, root, download)
    if key == 'torch/svhn':
        return svhn(str(root), split, download)
    if key == 'compcars':
        return CompCars(str(root), split, kwargs.get('target_key') or 'model', levels)
    if key == 'celeba':
        return _celeba(str(root), split, levels, **kwargs)
    if class_indices and not key:
        kwargs['class_map'] = dict(class_indices)
    is_training = bool(kwargs.get('is_training'))
    if folders is not None and not key:
        root = str(folders[0] if is_training or folders[1] is None else folders[1])
        kwargs['search_split'] = False
    try:
        dataset = timm_create(name, root=root, split=split, **kwargs)
    except RuntimeError as error:
        if key not in _TORCH_FOLDERS and key:
            raise
        expected = _TORCH_FOLDERS.get(key, 'a folder for each split, and in it a folder for each class')
        raise DataError(f'{name or "image folder"}: expected {expected} in {root}. {one_line(error)}.') from error
    if type(dataset) is timm.data.ImageDataset and not dataset.load_bytes:
        dataset = ReadImages(dataset, is_training, levels)
    if folders is not None and not key and folders[1] is None:
        drawn = hold_out((Path(path), label) for path, label in dataset.reader.samples)
        dataset.reader.samples = [one for one in dataset.reader.samples if (Path(one[0]) in drawn) != is_training]
    return dataset


def _celeba(root: str, split: str, levels: Levels | None, **kwargs: Any) -> CelebA:
    if kwargs.get('target_transform') is None:
        raise DataError('--dataset celeba has several attributes per image: pass --task multilabel.')
    target_format = kwargs.get('target_format') or 'indices'
    return CelebA(root, split, kwargs.get('target_key'), target_format, kwargs['target_transform'], levels)


def _check_root(key: str, root: str | None, download: bool) -> None:
    """Refuse a folder that is not there, for data sets that are read from one."""
    if key.startswith(('hfds/', 'hfids/', 'tfds/', 'wds/')):
        return
    if not root:
        raise DataError('--data-dir is missing: the folder of the data set.')
    if not Path(root).exists() and not download:
        expected = f'; expected {_TORCH_FOLDERS[key]} in it.' if key in _TORCH_FOLDERS else '.'
        raise DataError(f'--data-dir {root} does not exist{expected}')
