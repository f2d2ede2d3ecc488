"""Images to evaluate explanations on: from a folder, with or without classes and masks, or from a data set of timm."""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple, overload

import timm.data
import torch
import torch.nn as nn
from PIL import Image
from torch.utils.data import Dataset

from ..errors import TimmAbnError, one_line
from ..records import Levels, record_of
from ..timm_private import search_split
from .celeba import CelebA
from .class_names import class_names
from .datasets import create_dataset
from .folder_labels import folder_labels
from .images import Box, Preprocessing
from .masks import Masks, fit_mask, place_mask, read_masks
from .reading import to_rgb
from .sources import Source, find_sources

__all__ = ['Sample', 'Samples', 'load_samples', 'read_samples']


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image to evaluate.

    Attributes:
        name: What to call it in tables.
        image: Normalised, shape (C, H, W).
        label: Its class; None if unknown.
        mask: Where its object is, shape (H, W), bool; None if unknown.
        target: The class, or task, to explain; by default the predicted one.
    """

    name: str
    image: torch.Tensor
    label: int | None = None
    mask: torch.Tensor | None = None
    target: int | None = None


class _Image(NamedTuple):
    """An image that has not been read: a file with its class, if known, or the index of an item of a data set."""

    name: str
    place: Path | int
    label: int | None = None
    target: int | None = None


class Samples(Sequence[Sample]):
    """Samples of a folder or data set; each is read and preprocessed on access, and not kept.

    Access to an image that cannot be read raises its error, and does not affect the others.
    """

    def __init__(
        self, images: Sequence[_Image], model: nn.Module, items: Dataset | None = None, masks: Masks | None = None
    ) -> None:
        self._images, self._items, self._masks = images, items, masks
        self._preprocessing, self._class_names = Preprocessing(model), class_names(model)

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        known = self._images[index]
        if isinstance(known.place, int):
            photo, label = self._item(known.place)
        else:
            photo, label = self._preprocessing.read(known.place), known.label
        x, box = self._preprocessing(photo)
        mask = None if self._masks is None else self._mask(self._masks, known, photo, box, x)
        return Sample(known.name, x, label, mask, known.target)

    def _item(self, place: int) -> tuple[Image.Image, int | None]:
        image, label = self._items[place][:2]  # type: ignore[index]  # only images of data sets have such a place
        # answers to several tasks are no class
        is_class = not isinstance(label, (list, tuple)) and getattr(label, 'ndim', 0) == 0
        return to_rgb(image, self._preprocessing.levels), int(label) if is_class else None

    def _mask(self, masks: Masks, known: _Image, photo: Image.Image, box: Box, x: torch.Tensor) -> torch.Tensor | None:
        """Return the mask of the task that is the target, else of the class where masks have classes, else of all."""
        name = next((self._class_names[i] for i in (known.target, known.label) if i is not None), None)
        mask = masks.find(PurePath(known.name), name if name in masks.categories else None)
        if mask is None:
            return None
        fitting = fit_mask(mask, photo, PurePath(known.name))
        return torch.from_numpy(place_mask(fitting, box, (x.shape[1], x.shape[2])))


def load_samples(
    model: nn.Module,
    data_dir: str | Path,
    dataset: str = '',
    split: str = 'validation',
    limit: int | None = None,
    masks: str | Path | None = None,
    seed: int = 0,
) -> Samples:
    """Return the images of a folder or data set as samples, which are read on access.

    Args:
        model: The model for which images are preprocessed.
        data_dir: Folder of the data. Without ``dataset``, its images are used, or those of the split's sub-folder if
            there is one; their folders are their classes (``timm_abn.data.folder_labels``).
        dataset: As in timm's scripts: 'torch/fashion_mnist', 'hfds/...', or one of this package: 'torch/svhn',
            'compcars', 'celeba'. Empty for folders of images.
        split: As in timm's scripts.
        limit: Number of images, drawn at random and kept in their order; all by default.
        masks: Folder of PNG files, or JSON file in COCO format (``timm_abn.data.masks``). If the masks of a multi-task
            network have kinds named like tasks, each task with a mask in an image is a sample.
        seed: Seed of the draw.

    Raises:
        TimmAbnError: There is no such data set, or no image in it.
    """
    data_dir, masks = Path(data_dir), None if masks is None else Path(masks)
    if masks is not None and dataset:
        raise TimmAbnError(f'masks are found by the names of image files, which {dataset} does not have.')
    names, items = class_names(model), None
    if dataset:
        items = _data_set(data_dir, dataset, split, record_of(model).levels)
        images = [_Image(f'{index:06}', index) for index in range(len(items))]
    else:
        images = _folder_images(model, data_dir, split, masks)
    if limit is not None and limit < len(images):
        images = [images[index] for index in sorted(random.Random(seed).sample(range(len(images)), limit))]
    if masks is None:
        return Samples(images, model, items)
    multi_task = getattr(getattr(model, 'attention_branch', None), 'num_maps', 1) > 1
    found = read_masks(masks, names if multi_task else ())
    tasks = {name: names.index(name) for name in found.categories if multi_task and name in names}
    if tasks:
        images = [
            image._replace(label=None, target=task)
            for image in images
            for name, task in tasks.items()
            if _is_marked(found, image.name, name)
        ]
    return Samples(images, model, masks=found)


def read_samples(samples: Sequence[Sample], indices: Sequence[int], problems: list[str]) -> list[Sample]:
    """Read some of the samples; whatever is wrong with one is added to ``problems``, and concerns no other."""
    read = []
    for index in indices:
        try:
            read.append(samples[index])
        except Exception as error:  # of whatever reads the image
            problems.append(one_line(error))
    return read


def _folder_images(model: nn.Module, data_dir: Path, split: str, masks: Path | None) -> list[_Image]:
    if not data_dir.is_dir():
        raise TimmAbnError(f'--data-dir {data_dir} is not a folder.')
    root = Path(search_split(str(data_dir), split))
    sources = _without_masks(find_sources([root]), root, masks)
    labels = folder_labels(sources, model)
    paths = [source.path for source in sources]
    return [_Image(path.relative_to(root).as_posix(), path, label) for path, label in zip(paths, labels)]


def _without_masks(sources: list[Source], root: Path, masks: Path | None) -> list[Source]:
    """Return the sources that are images, if masks lie beside them, or in a folder among them."""
    if masks is None or not masks.is_dir():
        return sources
    if masks.resolve() != root.resolve():
        return [source for source in sources if not source.path.resolve().is_relative_to(masks.resolve())]
    photos = {source.path.with_suffix('') for source in sources if source.path.suffix.lower() != '.png'}
    return [s for s in sources if s.path.suffix.lower() != '.png' or s.path.with_suffix('') not in photos]


def _data_set(data_dir: Path, dataset: str, split: str, levels: Levels | None) -> Any:
    if dataset.lower() == 'celeba':
        return CelebA(str(data_dir), split, levels=levels)
    try:
        items = create_dataset(timm.data.create_dataset, dataset, root=str(data_dir), split=split, levels=levels)
    except TimmAbnError:
        raise
    except Exception as error:  # of timm, torchvision, or another package that reads data
        raise TimmAbnError(f'--dataset {dataset}, split {split}, cannot be read: {one_line(error)}.') from None
    if not hasattr(items, '__getitem__') or not hasattr(items, '__len__'):
        raise TimmAbnError(f'{dataset} can only be read from start to end; use a folder of images.')
    return items


def _is_marked(masks: Masks, name: str, category: str) -> bool:
    mask = masks.find(PurePath(name), category)
    return mask is not None and mask.getbbox() is not None
