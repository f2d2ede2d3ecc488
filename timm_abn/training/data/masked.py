"""Training images with human masks: which image has one, and data sets that yield both."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ...data.celeba import CelebA
from ...data.masks import PngMasks, fit_mask, read_masks
from ...data.timm_images import ReadImages
from ...errors import TimmAbnError
from ..errors import TrainingError
from ..map_settings import MaskSettings
from ..mask_loss import target_with_masks
from .paired_transform import PairedTransform

__all__ = ['MaskedDataset', 'choose']

_logger = logging.getLogger(__name__)


class MaskedDataset(Dataset):
    """A data set whose targets carry the masks of the image (``target_with_masks``), moved as the image is.

    A network with one map gets one mask: of objects of the image's class where masks know of classes, else of all. A
    multi-task network gets one for each attribute. A mask is missing where nothing was drawn, or where nothing of it is
    in sight after the crop. The data set is ``ReadImages`` of a folder, or ``CelebA``.

    Attributes:
        names: Names of the images, relative to the folder of the data set.
        used: Those of them whose masks are used.
    """

    def __init__(self, dataset: Any, settings: MaskSettings, seed: int = 0) -> None:
        """
        Raises:
            TrainingError: The masks cannot be read, lie among the images, or are of none of them.
        """
        _check_place(settings.path, dataset)
        self.dataset = dataset
        self.names: list[str] = dataset.images if isinstance(dataset, CelebA) else dataset.filenames()
        if settings.multi_task and not isinstance(dataset, CelebA):
            raise TrainingError('masks of a multi-task network are found by attribute names: pass --dataset celeba.')
        self.attributes: list[str] = dataset.attributes if settings.multi_task else []
        try:
            self.masks = read_masks(settings.path, self.attributes)
        except TimmAbnError as error:
            raise TrainingError(f'--attention-mask-dir: {error}') from error
        self.classes: dict[Any, str] = {}
        if isinstance(dataset, ReadImages):
            self.classes = {index: name for name, index in getattr(dataset.reader, 'class_to_idx', {}).items()}
        self.used = self._choose(settings, seed)

    def _choose(self, settings: MaskSettings, seed: int) -> set[str]:
        kinds = self._kinds(None).values()
        marked = [name for name in self.names if any(self.masks.knows(PurePath(name), kind) for kind in kinds)]
        if not marked:
            raise TrainingError(
                f'--attention-mask-dir {settings.path} has no mask of any of {len(self.names):,} training images: '
                f'expected {self._expected()}.'
            )
        used = choose(marked, settings.share, seed)
        if os.environ.get('RANK', '0') == '0':
            of_all = '' if settings.share == 1 else f', a share of {settings.share:g} of {len(marked):,}'
            _logger.info(f'masks: {len(used):,} of {len(self.names):,} training images{of_all}')
        return used

    def _expected(self) -> str:
        """Return how the mask of the first image should be called."""
        name = PurePath(self.names[0])
        if not isinstance(self.masks, PngMasks):
            kinds = f', with categories such as {self.attributes[0]}' if self.attributes else ''
            return f'images in it named like those, such as {name.as_posix()}{kinds}'
        path = PurePath(self.attributes[0] if self.attributes else '') / name.with_suffix('.png')
        return f'files such as {path.as_posix()} in it, the mask of {name.as_posix()}'

    @property
    def transform(self) -> Any:
        """Transform of the images, which masks follow."""
        return self.paired.transform

    @transform.setter
    def transform(self, transform: Any) -> None:
        self.paired = PairedTransform(transform)
        self.dataset.transform = self._transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        self._index = index
        (image, masks), label = self.dataset[index]
        return image, target_with_masks(label, masks)

    def _transform(self, image: Image.Image) -> tuple[Any, torch.Tensor]:
        """Return what became of an image, and its masks, of shape (T, H, W)."""
        index, label = self.dataset.last if isinstance(self.dataset, ReadImages) else (self._index, None)
        found = self._find(PurePath(self.names[index]), label, image) if self.names[index] in self.used else {}
        moved_image, moved = self.paired(image, list(found.values()))
        masks = torch.zeros(len(self.attributes) or 1, *moved_image.shape[-2:])
        for number, mask in zip(found, moved):
            values = np.array(mask)
            if values.max() > 127:  # else no pixel of it is left
                masks[number] = torch.from_numpy(values) / 255
        return moved_image, masks

    def _find(self, name: PurePath, label: Any, image: Image.Image) -> dict[int, Image.Image]:
        """Return the masks of an image by the numbers of their maps."""
        found = {}
        for number, kind in self._kinds(label).items():
            mask = self.masks.find(name, kind)
            if mask is not None:
                found[number] = fit_mask(mask, image, name)
        return found

    def _kinds(self, label: Any) -> dict[int, str | None]:
        """Return which objects each map should be on, None for all of them."""
        known = self.masks.categories
        if self.attributes:
            return {number: name for number, name in enumerate(self.attributes) if name in known}
        kind = self.classes.get(label)
        return {0: kind if kind in known else None}


def choose(names: Sequence[str], share: float, seed: int) -> set[str]:
    """Return a share of names that depends on nothing but names and seed; a smaller share is part of a greater one.

    Above 0 and at most 1, it is rounded to whole names, and at least one.
    """
    by_chance = sorted(names, key=lambda name: hashlib.sha256(f'{seed}/{name}'.encode()).digest())
    return set(by_chance[: max(round(share * len(names)), 1)])


def _check_place(path: Path, dataset: Any) -> None:
    root = getattr(getattr(dataset, 'reader', None), 'root', None)
    if root is not None and path.is_dir() and path.resolve().is_relative_to(Path(root).resolve()):
        raise TrainingError(
            f'--attention-mask-dir {path} is among the training images in {root}: masks would count as images; move it.'
        )
