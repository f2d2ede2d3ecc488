"""A user's own photos, in folders: those to train on, and those held out."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from timm.utils.misc import natural_key
from torch.utils.data import Dataset

from .errors import DataError
from .images import read_image
from .sources import Source, find_sources

__all__ = ['Photo', 'Photos', 'PhotosDataset', 'find_photos']

HELD_OUT = 0.2  # share of the photos of each class, where there is no folder of them
_VALIDATION = ('validation', 'val', 'valid', 'test')


Photo = tuple[Path, int | None]


class Photos(NamedTuple):
    """Photos to train on, and those that are held out: files with their classes, None where there are no labels.

    Names of the classes are in their order, which is that of timm's ``ImageFolder``; none without labels.
    """

    training: list[Photo]
    validation: list[Photo]
    classes: list[str]


def find_photos(folder: Path, labelled: bool) -> Photos:
    """Find the photos of a folder with sub-folders ``train`` and ``validation`` (or ``val``, ``test``).

    Of a folder without them a fifth of each class is held out; the draw is always the same. If ``labelled``, the
    folders that photos lie in are their classes.

    Raises:
        DataError: There are no photos, only one to train on or to hold out, or of one class.
    """
    if not folder.is_dir():
        raise DataError(f'there is no folder {folder}.')
    training = folder / 'train' if (folder / 'train').is_dir() else folder
    held_out = next((folder / name for name in _VALIDATION if (folder / name).is_dir()), None)
    if held_out is not None and training == folder:
        raise DataError(f'{folder} has a folder {held_out.name}, but none called train beside it.')
    sources = find_sources([training])
    classes = _class_names(sources, training) if labelled else []
    photos = [(source.path, classes.index(_class_of(source)) if labelled else None) for source in sources]
    if held_out is None:
        photos, validation = _hold_out(photos)
    else:
        found = find_sources([held_out])
        strangers = sorted({_class_of(source) for source in found} - set(classes)) if labelled else []
        if strangers:
            raise DataError(f'{held_out} has a class {strangers[0]!r}, which {training} has not.')
        validation = [(source.path, classes.index(_class_of(source)) if labelled else None) for source in found]
    if not photos or not validation:
        raise DataError(f'{folder} has too few photos: {len(sources)}.')
    return Photos(photos, validation, classes)


def _class_names(sources: Sequence[Source], folder: Path) -> list[str]:
    stray = [source.path for source in sources if len(source.name.parts) == 1]
    if stray:
        raise DataError(
            f'{stray[0]} lies in no folder of a class; put the photos of {folder} into one folder per class, or pass '
            f'--unlabelled.'
        )
    names = sorted({_class_of(source) for source in sources}, key=natural_key)
    if len(names) == 1:
        raise DataError(f'{folder} holds one class alone, {names[0]!r}: there must be two or more, or --unlabelled.')
    return names


def _class_of(source: Source) -> str:
    return source.path.absolute().parent.name


def _hold_out(photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    of_classes: dict[int | None, list[Photo]] = defaultdict(list)
    for photo in photos:
        of_classes[photo[1]].append(photo)
    drawn = {
        photo
        for members in of_classes.values()
        for photo in random.Random(0).sample(members, round(HELD_OUT * len(members)))
    }
    return [photo for photo in photos if photo not in drawn], [photo for photo in photos if photo in drawn]


class PhotosDataset(Dataset):
    """Photos as a model sees them (``transform``), shape (C, H, W), with their class, -1 where it is not known."""

    def __init__(
        self,
        photos: Sequence[Photo],
        transform: Callable[[Image.Image], torch.Tensor],
    ) -> None:
        self.photos = photos
        self.transform = transform

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.photos[index]
        return self.transform(read_image(path)), -1 if label is None else label
