"""A user's own photos, in folders: those to train on, and those held out."""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils.data import Dataset

from ..records import Levels
from ..timm_private import search_split
from .class_names import class_order
from .errors import DataError
from .reading import read_image, read_or_next, without_damaged
from .sources import Source, find_sources

__all__ = ['Photo', 'Photos', 'PhotosDataset', 'find_photos', 'hold_out', 'split_folders']

HELD_OUT = 0.2  # share of the photos of each class, where there is no folder of them

Photo = tuple[Path, int | None]


class Photos(NamedTuple):
    """Photos to train on, and those that are held out: files with their classes, None where there are no labels.

    ``classes`` are names in their order, that of the folders (``class_order``) as they are found; none without labels.
    """

    training: list[Photo]
    validation: list[Photo]
    classes: list[str]


def find_photos(folder: Path, labelled: bool) -> Photos:
    """Find the photos of a folder with sub-folders ``train`` and ``validation`` (``split_folders``).

    Of a folder without them a fifth of each class is held out (``hold_out``). If ``labelled``, the folders that photos
    lie in are their classes. Photos that are damaged are left out, named and counted: of those to train on what
    ``check_image`` finds, of the others all.

    Raises:
        DataError: There are no photos, only one to train on or to hold out, or of one class.
    """
    if not folder.is_dir():
        raise DataError(f'there is no folder {folder}.')
    training, held_out = split_folders(folder)
    sources = _whole_sources(training)
    classes = _class_names(sources, training) if labelled else []

    def labelled_photos(found: Sequence[Source]) -> list[Photo]:
        return [(source.path, classes.index(source.folder) if labelled else None) for source in found]

    photos = labelled_photos(sources)
    if held_out is None:
        drawn = hold_out(photos)
        photos, validation = ([photo for photo in photos if (photo[0] in drawn) == held] for held in (False, True))
    else:
        found = _whole_sources(held_out)
        strangers = class_order({source.folder for source in found} - set(classes)) if labelled else []
        if strangers:
            raise DataError(f'{held_out} has a class {strangers[0]!r}, which {training} has not.')
        validation = labelled_photos(found)
    validation = without_damaged(validation, itemgetter(0), read_image)
    if not photos or not validation:
        raise DataError(f'{folder} has too few photos: {len(sources)}.')
    return Photos(photos, validation, classes)


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
        raise DataError(f'{folder} has a folder {held_out.name}, but none called {train_split} beside it.')
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
        raise DataError(f'no photo can be held out: it takes 3 of a class, none has more than {most}.')
    return {path for paths in drawn for path in paths}


def _class_names(sources: Sequence[Source], folder: Path) -> list[str]:
    stray = [source.path for source in sources if len(source.name.parts) == 1]
    if stray:
        raise DataError(
            f'{stray[0]} lies in no folder of a class; put the photos of {folder} into one folder per class, or pass '
            f'--unlabelled.'
        )
    names = class_order(source.folder for source in sources)
    if len(names) == 1:
        raise DataError(f'{folder} holds one class alone, {names[0]!r}: there must be two or more, or --unlabelled.')
    return names


class PhotosDataset(Dataset):
    """Photos as a model sees them (``transform``), shape (C, H, W), with their class, -1 where it is not known.

    If they are to train on, one that turns out to be damaged is replaced by the next (``read_or_next``).
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        transform: Callable[[Image.Image], torch.Tensor],
        is_training: bool = False,
        levels: Levels | None = None,
    ) -> None:
        self.photos = photos
        self.transform = transform
        self.is_training = is_training
        self.levels = levels

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return read_or_next(self._read, index, len(self)) if self.is_training else self._read(index)

    def _read(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.photos[index]
        return self.transform(read_image(path, self.levels)), -1 if label is None else label
