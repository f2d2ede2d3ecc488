"""Images to evaluate explanations on: from a folder, with or without classes and masks, or from a data set of timm."""

import dataclasses
import functools
import random
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

import timm.data
import torch
from PIL import Image

from ..errors import TimmAbnError, one_line
from ..timm_private import search_split
from .celeba import CelebA
from .class_names import class_names
from .datasets import dataset_creator
from .folder_labels import folder_labels
from .images import Box, Preprocessing, read_image, to_rgb
from .masks import Masks, place_mask, read_masks
from .sources import Source, find_sources

__all__ = ['Sample', 'load_samples']


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image to evaluate.

    Attributes:
        name: What to call it in tables.
        image: Normalised, shape (C, H, W).
        label: Its class; None if it is not known.
        mask: Where its object is, shape (H, W), bool; None if that is not known.
        target: The class, or task, that is explained; by default the one predicted.
    """

    name: str
    image: torch.Tensor
    label: int | None = None
    mask: torch.Tensor | None = None
    target: int | None = None


def load_samples(
    model: Any,
    data_dir: Path,
    dataset: str = '',
    split: str = 'validation',
    limit: int | None = None,
    masks: Path | None = None,
    seed: int = 0,
) -> list[Callable[[], Sample]]:
    """Return functions that read an image each, as ``timm_abn.evaluate`` takes them.

    Args:
        model: What the images are preprocessed for.
        data_dir: Folder of the data. Without ``dataset`` its images are taken, or those of the sub-folder of the split,
            if there is one; their folders are their classes if they are called like those of the model.
        dataset: As in timm's scripts: 'torch/fashion_mnist', 'hfds/...', or one of this package: 'torch/svhn',
            'compcars', 'celeba'. Empty for folders of images.
        split: As in timm's scripts.
        limit: Number of images, drawn at random and kept in their order; all by default.
        masks: Folder of PNG files, or JSON file in the form of COCO (``timm_abn.data.masks``). If the masks of a
            multi-task network have kinds that are called like tasks, each task with a mask in an image is a sample.
        seed: Of the draw.

    Raises:
        TimmAbnError: There is no such data set, or no image in it.
    """
    preprocessing = Preprocessing(model)
    names = class_names(model)
    if masks is not None and dataset:
        raise TimmAbnError(f'masks are found by the names of image files, which {dataset} does not have.')
    images = _dataset_images(data_dir, dataset, split) if dataset else _folder_images(data_dir, split, names, masks)
    if limit is not None and limit < len(images):
        images = [images[index] for index in sorted(random.Random(seed).sample(range(len(images)), limit))]
    if masks is None:
        return [functools.partial(_read, image, preprocessing) for image in images]
    multi_task = getattr(getattr(model, 'attention_branch', None), 'num_maps', 1) > 1
    return _with_masks(images, read_masks(masks, names if multi_task else ()), preprocessing, names, multi_task)


class _Image:
    """An image that has not been read.

    Attributes:
        name: Its path or number.
        read: Reads it as RGB.
        label: Its class, if that is known.
    """

    def __init__(self, name: str, read: Callable[[], Image.Image], label: int | None = None) -> None:
        self.name, self.read, self.label = name, read, label


def _folder_images(data_dir: Path, split: str, names: Sequence[str], masks: Path | None) -> list[_Image]:
    if not data_dir.is_dir():
        raise TimmAbnError(f'--data-dir {data_dir} is not a folder.')
    root = Path(search_split(str(data_dir), split))
    sources = _without_masks(find_sources([root]), root, masks)
    return [
        _Image(source.path.relative_to(root).as_posix(), functools.partial(read_image, source.path), label)
        for source, label in zip(sources, folder_labels(sources, names))
    ]


def _without_masks(sources: list[Source], root: Path, masks: Path | None) -> list[Source]:
    """Return the sources that are images, if masks lie beside them, or in a folder among them."""
    if masks is None or not masks.is_dir():
        return sources
    if masks.resolve() != root.resolve():
        return [source for source in sources if not source.path.resolve().is_relative_to(masks.resolve())]
    photos = {source.path.with_suffix('') for source in sources if source.path.suffix.lower() != '.png'}
    return [s for s in sources if s.path.suffix.lower() != '.png' or s.path.with_suffix('') not in photos]


def _dataset_images(data_dir: Path, dataset: str, split: str) -> list[_Image]:
    if dataset.lower() == 'celeba':
        # answers to all tasks, which are no class
        return _items(CelebA(str(data_dir), split), labelled=False)
    try:
        items = dataset_creator(timm.data.create_dataset)(dataset, root=str(data_dir), split=split)
    except TimmAbnError:
        raise
    except Exception as error:  # of timm, torchvision, or another package that reads data
        raise TimmAbnError(f'--dataset {dataset}, split {split}, cannot be read: {one_line(error)}.') from None
    if not hasattr(items, '__getitem__') or not hasattr(items, '__len__'):
        raise TimmAbnError(f'{dataset} can only be read from its beginning to its end; give a folder of images.')
    return _items(items, labelled=True)


def _items(items: Any, labelled: bool) -> list[_Image]:
    return [_Item(items, index, labelled) for index in range(len(items))]


class _Item(_Image):
    """An image of a data set, whose class is only known once it is read."""

    def __init__(self, items: Any, index: int, labelled: bool) -> None:
        super().__init__(f'{index:06}', self._read)
        self._items, self._index, self._labelled = items, index, labelled

    def _read(self) -> Image.Image:
        image, target = self._items[self._index][:2]
        if self._labelled and not isinstance(target, (list, tuple)) and getattr(target, 'ndim', 0) == 0:
            self.label = int(target)
        return to_rgb(image)


def _read(image: _Image, preprocessing: Preprocessing) -> Sample:
    x, _ = preprocessing(image.read())
    return Sample(image.name, x, image.label)


def _with_masks(
    images: Sequence[_Image],
    masks: Masks,
    preprocessing: Preprocessing,
    names: Sequence[str],
    multi_task: bool,
) -> list[Callable[[], Sample]]:
    tasks = {name: names.index(name) for name in masks.categories if name in names}
    if not multi_task or not tasks:
        return [functools.partial(_read_with_mask, image, masks, preprocessing, names) for image in images]
    return [
        functools.partial(_read_task, image, masks, preprocessing, name, task)
        for image in images
        for name, task in tasks.items()
        if _is_marked(masks, image.name, name)
    ]


def _is_marked(masks: Masks, name: str, category: str) -> bool:
    mask = masks.find(PurePath(name), category)
    return mask is not None and mask.getbbox() is not None


def _read_with_mask(image: _Image, masks: Masks, preprocessing: Preprocessing, names: Sequence[str]) -> Sample:
    original = image.read()
    x, box = preprocessing(original)
    label = image.label
    category = names[label] if label is not None and names[label] in masks.categories else None
    return Sample(image.name, x, label, _mask(masks, image.name, category, original, box, x))


def _read_task(image: _Image, masks: Masks, preprocessing: Preprocessing, category: str, task: int) -> Sample:
    original = image.read()
    x, box = preprocessing(original)
    return Sample(image.name, x, mask=_mask(masks, image.name, category, original, box, x), target=task)


def _mask(
    masks: Masks,
    name: str,
    category: str | None,
    original: Image.Image,
    box: Box,
    x: torch.Tensor,
) -> torch.Tensor | None:
    mask = masks.find(PurePath(name), category)
    if mask is None:
        return None
    if mask.size != original.size:
        found, right = (' x '.join(map(str, size)) for size in (mask.size, original.size))
        raise TimmAbnError(f'the mask of {name} has {found} pixels, the image has {right}.')
    return torch.from_numpy(place_mask(mask, box, (x.shape[1], x.shape[2])))
