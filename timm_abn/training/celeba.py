"""CelebA from its official files, and other data laid out like it: images with several attributes each.

Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.
"""

import difflib
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..task import TrainingError

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
        attributes: Optional[str] = None,
        target_format: str = 'indices',
        target_transform: Optional[Callable] = None,
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

        Raises:
            TrainingError: Something is missing in the folder, or is not what it should be, or an argument has no
                meaning; or ``target_transform`` expects another number of attributes.
        """
        self.root = Path(root)
        for name in _FILES:
            if not (self.root / name).exists():
                raise TrainingError(f'CelebA: expected {name} in {root}; --data-dir must hold {", ".join(_FILES)}.')
        chosen = self._partition(split)
        known, names, table = self._read_attributes()
        missing = sorted(chosen - set(names))
        if missing:
            raise TrainingError(
                f'CelebA: {_FILES[0]} lacks {len(missing)} images of {_FILES[1]}, the first is {missing[0]}.'
            )
        columns = self._columns(attributes, known)
        rows = [index for index, name in enumerate(names) if name in chosen]
        self.attributes = [known[column] for column in columns]
        self.images = [names[row] for row in rows]
        self.targets = torch.from_numpy(table[rows][:, columns])
        self.transform: Optional[Callable] = None  # timm's loader sets it
        self.target_format = target_format
        self.target_transform = target_transform
        self._check_images()
        self._check_target_transform()

    def _partition(self, split: str) -> set:
        names = ['val' if name in ('valid', 'validation', 'eval') else name for name in split.split('+')]
        unknown = [name for name in names if name not in _PARTITIONS]
        if unknown:
            raise TrainingError(
                f'CelebA has no split {unknown[0]!r}; it has {", ".join(_PARTITIONS)}, joined by + if several.'
            )
        wanted = {_PARTITIONS[name] for name in names}
        chosen = set()
        for number, line in enumerate((self.root / _FILES[1]).read_text().splitlines(), start=1):
            words = line.split()
            if len(words) != 2 or words[1] not in _PARTITIONS.values():
                raise TrainingError(
                    f'CelebA: line {number} of {_FILES[1]} must be an image and 0, 1 or 2, got {line[:80]!r}.'
                )
            if words[1] in wanted:
                chosen.add(words[0])
        if not chosen:
            raise TrainingError(f'CelebA: {_FILES[1]} names no image of the split {split!r}.')
        return chosen

    def _read_attributes(self) -> Tuple[List[str], List[str], np.ndarray]:
        """Return the names of attributes, those of the images, and what is true of them, (N, T) of 0 and 1."""
        lines = (self.root / _FILES[0]).read_text().splitlines()
        known = lines[1].split() if len(lines) > 1 else []
        if not known or not lines[0].strip().isdigit():
            raise TrainingError(
                f'CelebA: {_FILES[0]} must begin with the number of images, and the names of the attributes in its '
                f'second line, got {" / ".join(lines[:2])[:80]!r}.'
            )
        names: List[str] = []
        rows: List[List[bool]] = []  # of True and False, which take less memory than the words of 200,000 lines
        for number, line in enumerate(lines[2:], start=3):
            name, *values = line.split() or ['']
            if not name:
                continue
            if len(values) != len(known):
                raise TrainingError(
                    f'CelebA: line {number} of {_FILES[0]} must hold an image and {len(known)} attributes, got '
                    f'{len(values)} attributes.'
                )
            strange = set(values) - {'-1', '0', '1'}
            if strange:
                raise TrainingError(
                    f'CelebA: line {number} of {_FILES[0]} must say 1, or -1 (or 0), of each attribute, got '
                    f'{sorted(strange)[0]!r}.'
                )
            names.append(name)
            rows.append([value == '1' for value in values])
        if len(rows) != int(lines[0]):
            raise TrainingError(
                f'CelebA: {_FILES[0]} says that it holds {lines[0].strip()} images, but has {len(rows)}.'
            )
        return known, names, np.array(rows, dtype=np.float32)

    @staticmethod
    def _columns(attributes: Optional[str], known: List[str]) -> List[int]:
        if not attributes:
            return list(range(len(known)))
        names = [name.strip() for name in attributes.split(',')]
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=3) or known
                raise TrainingError(f'CelebA has no attribute {name!r} (--target-key); there are {", ".join(close)}.')
        return [known.index(name) for name in names]

    def _check_images(self) -> None:
        there = {path.name for path in (self.root / _FILES[2]).iterdir()}
        missing = [name for name in self.images if name not in there]
        if missing:
            raise TrainingError(
                f'CelebA is incomplete: {len(missing)} images of the split are missing, the first is '
                f'{self.root / _FILES[2] / missing[0]}.'
            )

    def _check_target_transform(self) -> None:
        expected = getattr(self.target_transform, 'num_classes', len(self.attributes))
        if expected != len(self.attributes):
            raise TrainingError(
                f'the model has {expected} classes, but the data {len(self.attributes)} attributes; pass '
                f'--num-classes {len(self.attributes)}, or choose attributes by --target-key.'
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tuple[Any, Any]:
        with Image.open(self.root / _FILES[2] / self.images[index]) as file:
            image: Any = file.convert('RGB')
        target: Any = self.targets[index]
        if self.target_transform is not None:
            multihot = self.target_format == 'multihot'
            target = self.target_transform(target if multihot else target.nonzero().flatten().tolist())
        return (image if self.transform is None else self.transform(image)), target
