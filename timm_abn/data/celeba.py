"""CelebA from its official files, and other data laid out like it: images with several attributes each.

Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import suggest
from ..records import Levels
from .errors import DataError
from .reading import ImageError, read_image, without_damaged

__all__ = ['CelebA']

_PARTITIONS = dict(train='0', val='1', test='2')
_FILES = ('list_attr_celeba.txt', 'list_eval_partition.txt', 'img_align_celeba')


class CelebA(Dataset):
    """Images, each with a target (T,) that says which of T attributes it has.

    Attributes:
        attributes: Names of the attributes, in the order of the targets.
        images: Names of the image files.
        targets: What is true of each image, shape (N, T), of 0 and 1.
    """

    def __init__(
        self,
        root: str,
        split: str = 'train',
        attributes: str | None = None,
        target_format: str = 'indices',
        target_transform: Callable | None = None,
        levels: Levels | None = None,
    ) -> None:
        """
        Args:
            root: Folder of ``img_align_celeba``, ``list_attr_celeba.txt`` and ``list_eval_partition.txt``.
            split: 'train', 'val' or 'test', or several of them, joined by '+'. 'validation' means 'val'.
            attributes: Names of attributes, separated by commas; all by default.
            target_format: What ``target_transform`` is given: the 'indices' of those attributes that an image has, or a
                'multihot' list of zeros and ones. timm's name for it.
            target_transform: Makes the target of that, such as timm's ``MultiLabelTarget``. Without it, a target is a
                float tensor (T,).
            levels: What is black and white in images of more than 8 bits (``read_image``).
        """
        self.root = Path(root)
        for name in _FILES:
            if not (self.root / name).exists():
                raise DataError(f'CelebA: expected {name} in {root}; --data-dir must hold {", ".join(_FILES)}.')
        chosen = self._partition(split)
        known, names, table = self._read_attributes()
        missing = sorted(chosen - set(names))
        if missing:
            raise DataError(
                f'CelebA: {_FILES[0]} lacks {len(missing)} images of {_FILES[1]}, the first is {missing[0]}.'
            )
        columns = self._columns(attributes, known)
        rows = [index for index, name in enumerate(names) if name in chosen]
        self._check_images([names[row] for row in rows])
        rows = without_damaged(rows, lambda row: self.root / _FILES[2] / names[row])
        self.attributes = [known[column] for column in columns]
        self.images = [names[row] for row in rows]
        self.targets = torch.from_numpy(table[rows][:, columns])
        self.transform: Callable | None = None  # timm's loader sets it
        self.target_format = target_format
        self.target_transform = target_transform
        self.levels = levels
        self._check_target_transform()

    def _partition(self, split: str) -> set:
        names = ['val' if name in ('valid', 'validation', 'eval') else name for name in split.split('+')]
        unknown = [name for name in names if name not in _PARTITIONS]
        if unknown:
            raise DataError(
                f'CelebA has no split {unknown[0]!r}; it has {", ".join(_PARTITIONS)}, joined by + if several.'
            )
        partitions: dict[str, str] = {}
        for number, line in self._lines(_FILES[1]):
            words = line.split()
            if len(words) != 2 or words[1] not in _PARTITIONS.values():
                raise DataError(
                    f'CelebA: line {number} of {_FILES[1]} must be an image and 0, 1 or 2, got {line[:80]!r}.'
                )
            if words[0] in partitions:
                raise DataError(f'CelebA: line {number} of {_FILES[1]} names {words[0]} for the second time.')
            partitions[words[0]] = words[1]
        wanted = {_PARTITIONS[name] for name in names}
        chosen = {name for name, partition in partitions.items() if partition in wanted}
        if not chosen:
            raise DataError(f'CelebA: {_FILES[1]} lists no image of the split {split!r}.')
        return chosen

    def _read_attributes(self) -> tuple[list[str], list[str], np.ndarray]:
        """Return the names of attributes, those of the images, and what is true of them, (N, T) of 0 and 1."""
        lines = self._lines(_FILES[0])
        head = [line.strip() for _, line in lines[:2]]
        known = head[1].split() if len(head) > 1 else []
        if not known or not re.fullmatch('[0-9]{1,9}', head[0]):
            raise DataError(
                f'CelebA: {_FILES[0]} must start with the number of images, then a line with the names of the '
                f'attributes, got {" / ".join(head)[:80]!r}.'
            )
        twice = _first_twice(known)
        if twice:
            raise DataError(f'CelebA: the second line of {_FILES[0]} names the attribute {twice} twice.')
        rows: dict[str, list[bool]] = {}  # True and False take less memory than the words of 200,000 lines
        for number, line in lines[2:]:
            name, *values = line.split()
            if len(values) != len(known):
                raise DataError(
                    f'CelebA: line {number} of {_FILES[0]} must hold an image and {len(known)} attributes, got '
                    f'{len(values)} attributes.'
                )
            strange = set(values) - {'-1', '0', '1'}
            if strange:
                raise DataError(
                    f'CelebA: line {number} of {_FILES[0]} must give 1, or -1 (or 0), for each attribute, got '
                    f'{sorted(strange)[0]!r}.'
                )
            if name in rows:
                raise DataError(f'CelebA: line {number} of {_FILES[0]} names {name} for the second time.')
            rows[name] = [value == '1' for value in values]
        if len(rows) != int(head[0]):
            raise DataError(f'CelebA: {_FILES[0]} claims {head[0]} images, but has {len(rows)}.')
        return known, list(rows), np.array(list(rows.values()), dtype=np.float32)

    def _lines(self, name: str) -> list[tuple[int, str]]:
        """Return the lines of a file that are not blank, each with its number, counted from 1."""
        try:
            text = (self.root / name).read_text(encoding='utf-8-sig')
        except UnicodeDecodeError:
            raise DataError(f'CelebA: {self.root / name} is not a text file in UTF-8.') from None
        except OSError as error:
            raise DataError(f'CelebA: {self.root / name} cannot be read: {error.strerror}.') from error
        return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]

    @staticmethod
    def _columns(attributes: str | None, known: list[str]) -> list[int]:
        if not attributes:
            return list(range(len(known)))
        names = [name.strip() for name in attributes.split(',')]
        for name in names:
            if name not in known:
                hint = suggest(name, known, otherwise=f'it has {", ".join(known)}.')
                raise DataError(f'CelebA has no attribute {name!r} (--target-key); {hint}')
        twice = _first_twice(names)
        if twice:
            raise DataError(f'--target-key names the attribute {twice} twice.')
        return [known.index(name) for name in names]

    def _check_images(self, names: list[str]) -> None:
        try:
            there = {path.name for path in (self.root / _FILES[2]).iterdir()}
        except OSError as error:
            raise DataError(
                f'CelebA: {self.root / _FILES[2]} must be the folder of the images: {error.strerror}.'
            ) from error
        missing = [name for name in names if name not in there]
        if missing:
            raise DataError(
                f'CelebA is incomplete: {len(missing)} images of the split are missing, the first is '
                f'{self.root / _FILES[2] / missing[0]}.'
            )

    def _check_target_transform(self) -> None:
        expected = getattr(self.target_transform, 'num_classes', len(self.attributes))
        if expected != len(self.attributes):
            raise DataError(
                f'the model has {expected} classes, but the data {len(self.attributes)} attributes; pass '
                f'--num-classes {len(self.attributes)}, or choose attributes by --target-key.'
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        try:
            image: Any = read_image(self.root / _FILES[2] / self.images[index], self.levels)
        except ImageError as error:
            raise ImageError(f'CelebA: {error}') from None
        target: Any = self.targets[index]
        if self.target_transform is not None:
            multihot = self.target_format == 'multihot'
            target = self.target_transform(target if multihot else target.nonzero().flatten().tolist())
        return (image if self.transform is None else self.transform(image)), target


def _first_twice(names: list[str]) -> str | None:
    return next((name for index, name in enumerate(names) if name in names[:index]), None)
