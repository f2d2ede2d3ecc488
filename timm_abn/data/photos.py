"""A user's own photos, in folders: those to train on, and those held out."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils.data import Dataset

from ..records import Levels
from ..timm_private import search_split
from .errors import DataError
from .reading import read_image, read_or_next, without_damaged
from .sources import Source, find_sources

__all__ = ['Photos', 'PhotosDataset', 'find_photos', 'hold_out', 'split_folders']

HELD_OUT = 0.2  # share of the photos of each class, where there is no folder of them


class Photos(NamedTuple):
    """Photos to train on, and those that are held out."""

    training: list[Path]
    validation: list[Path]


def find_photos(folder: Path) -> Photos:
    """Find the photos of a folder, and of the folders in it: those of ``train`` and ``validation`` (``split_folders``).

    Of a folder without them a fifth is held out, of each folder in it that has three or more (``hold_out``). Photos
    that are damaged are left out, named and counted: those that ``check_image`` finds.

    Raises:
        DataError: There are too few photos to train on, or to hold out.
    """
    if not folder.is_dir():
        raise DataError(f'there is no folder {folder}.')
    training, held_out = split_folders(folder)
    sources = _whole_sources(training)
    photos = [source.path for source in sources]
    if held_out is None:
        sizes = Counter(source.folder for source in sources)
        drawn = hold_out((source.path, source.folder if sizes[source.folder] > 2 else None) for source in sources)
        photos, validation = ([path for path in photos if (path in drawn) == held] for held in (False, True))
    else:
        validation = [source.path for source in _whole_sources(held_out)]
    if not photos or not validation:
        raise DataError(f'{folder} has too few photos: {len(photos)} to train on, {len(validation)} held out.')
    return Photos(photos, validation)


def _whole_sources(folder: Path) -> list[Source]:
    return without_damaged(find_sources([folder]), attrgetter('path'))


def split_folders(folder: Path, train_split: str = 'train', val_split: str = 'validation') -> tuple[Path, Path | None]:
    """Return the folder to train on, and that which is held out: None if it is a part of the former (``hold_out``).

    Splits are found as in timm's scripts (val, valid, ... are a validation, too), and ``test`` where there is no other.

    Raises:
        DataError: There is a folder to hold out, and none to train on.
    """
    training, held_out = (Path(search_split(str(folder), split)) for split in (train_split, val_split))
    if held_out == folder and (folder / 'test').is_dir():
        held_out = folder / 'test'
    if training == folder != held_out:
        raise DataError(f'{folder} has a folder {held_out.name}, but no folder {train_split}.')
    return training, None if held_out == folder else held_out


def hold_out(photos: Iterable[tuple[Path, Hashable]]) -> set[Path]:
    """Return a fifth of the photos of each class, always the same ones whatever the order of the photos.

    Raises:
        DataError: No class has three photos, of which one could be held out.
    """
    of_classes: dict[Hashable, list[Path]] = defaultdict(list)
    for path, label in sorted(photos, key=lambda photo: photo[0]):
        of_classes[label].append(path)
    drawn = [random.Random(0).sample(paths, round(HELD_OUT * len(paths))) for paths in of_classes.values()]
    if of_classes and not any(drawn):
        most = max(map(len, of_classes.values()))
        raise DataError(f'no photo can be held out: a class needs 3, none has more than {most}.')
    return {path for paths in drawn for path in paths}


class PhotosDataset(Dataset):
    """Photos as a model sees them (``transform``), shape (C, H, W).

    One that turns out to be damaged is replaced by the next (``read_or_next``).
    """

    def __init__(
        self, photos: Sequence[Path], transform: Callable[[Image.Image], torch.Tensor], levels: Levels | None = None
    ) -> None:
        self.photos, self.transform, self.levels = photos, transform, levels

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> torch.Tensor:
        return read_or_next(lambda i: self.transform(read_image(self.photos[i], self.levels)), index, len(self))
