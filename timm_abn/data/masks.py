"""Masks of objects, drawn by people: PNG files beside the images, or annotations in COCO's format."""

import abc
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from .images import Box
from .reading import ImageError, open_image, upright

__all__ = ['CocoMasks', 'MaskError', 'Masks', 'PngMasks', 'fit_mask', 'place_mask', 'read_masks']

# what brings stored pixels upright, by the EXIF orientations whose width is a height
_TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class MaskError(ImageError):
    """Masks cannot be read; the message says why, in one line."""


class Masks(abc.ABC):
    """Where the objects of images are.

    Attributes:
        categories: Names of the kinds of objects; empty if masks have no kinds.
    """

    categories: tuple[str, ...] = ()

    @abc.abstractmethod
    def find(self, name: PurePath, category: str | None = None) -> Image.Image | None:
        """Return the mask of an image, mode 'L', above 127 on the object (see ``fit_mask``); None without one.

        ``name`` is the path of the image, relative to the folder that was given; only objects of ``category`` count,
        all by default. A mask that cannot be read raises an ImageError.
        """

    @abc.abstractmethod
    def knows(self, name: PurePath, category: str | None = None) -> bool:
        """Return whether an image has a mask that marks something, as far as is known without reading the mask."""


class PngMasks(Masks):
    """A folder of PNG files, called as the images: the mask of ``dogs/1.jpg`` is ``dogs/1.png``.

    Pixels that are not 0 are the object. If the folder has sub-folders of the given categories (the tasks of a
    multi-task network), such as ``Smiling``, the mask of each is ``Smiling/dogs/1.png``.
    """

    def __init__(self, folder: Path, categories: Sequence[str] = ()) -> None:
        self.folder = folder
        self.categories = tuple(category for category in categories if (folder / category).is_dir())

    def find(self, name: PurePath, category: str | None = None) -> Image.Image | None:
        """See ``Masks.find``."""
        masks = [_read_mask(path) for path in self._paths(name, category)]
        if not masks:
            return None
        if len({mask.shape for mask in masks}) > 1:
            raise MaskError(f'the masks of {name} in {self.folder} differ in size.')
        return Image.fromarray(np.any(masks, axis=0).astype(np.uint8) * 255)

    def knows(self, name: PurePath, category: str | None = None) -> bool:
        """See ``Masks.knows``."""
        return bool(self._paths(name, category))

    def _paths(self, name: PurePath, category: str | None) -> list[Path]:
        folders = [self.folder / kind for kind in ([category] if category else self.categories)] or [self.folder]
        return [path for folder in folders if (path := folder / name.with_suffix('.png')).is_file()]


def _read_mask(path: Path) -> np.ndarray:
    with open_image(path) as image:
        turned = upright(image)
        values = np.asarray(turned if turned.mode not in ('P', 'LA', 'RGBA', 'PA') else turned.convert('RGB'))
    return np.asarray(np.atleast_3d(values).any(axis=2))


class CocoMasks(Masks):
    """Annotations in COCO format: polygons, uncompressed run lengths, or boxes if there is neither.

    Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org/#format-data. A file of
    another form raises a MaskError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = json.loads(path.read_text(encoding='utf-8-sig'))
            kinds = {kind['id']: str(kind['name']) for kind in content.get('categories', [])}
            images = {image['id']: image for image in content['images']}
            self._sizes = {
                str(image['file_name']): (int(image['width']), int(image['height'])) for image in images.values()
            }
            self._annotations: dict[str, list[Mapping[str, Any]]] = {name: [] for name in self._sizes}
            for annotation in content['annotations']:
                self._annotations[images[annotation['image_id']]['file_name']].append(
                    dict(annotation, kind=kinds.get(annotation.get('category_id')))
                )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MaskError(
                f'{path} is not in COCO format: expected images (id, file_name, width, height), annotations '
                f'(image_id, segmentation or bbox) and categories (id, name); found {type(error).__name__}: {error}.'
            ) from None
        self.categories = tuple(kinds.values())
        basenames = Counter(PurePath(name).name for name in self._sizes)
        # COCO's file names have no folders; a name that two folders have would be a guess
        self._by_basename = {PurePath(name).name: name for name in self._sizes if basenames[PurePath(name).name] == 1}

    def find(self, name: PurePath, category: str | None = None) -> Image.Image | None:
        """See ``Masks.find``. An image of the file without annotations has an empty mask."""
        known = self._known(name)
        if known is None:
            return None
        size = self._sizes[known]
        mask = np.zeros(size[::-1], dtype=bool)
        for annotation in self._annotations[known]:
            if category is None or annotation['kind'] == category:
                try:
                    mask |= _draw(annotation, size)
                except (IndexError, KeyError, TypeError, ValueError) as error:
                    raise MaskError(
                        f'{self.path}: annotation {annotation.get("id")} of {known} cannot be drawn: {error}.'
                    ) from None
        return Image.fromarray(mask.astype(np.uint8) * 255)

    def knows(self, name: PurePath, category: str | None = None) -> bool:
        """See ``Masks.knows``."""
        annotations = self._annotations.get(self._known(name) or '', [])
        return any(category is None or annotation['kind'] == category for annotation in annotations)

    def _known(self, name: PurePath) -> str | None:
        return name.as_posix() if name.as_posix() in self._sizes else self._by_basename.get(name.name)


def _draw(annotation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of an annotation, shape (height, width)."""
    segmentation = annotation.get('segmentation')
    if isinstance(segmentation, Mapping):
        return _from_run_lengths(segmentation, size)
    mask = np.zeros(size[::-1], dtype=bool)
    if segmentation:
        for polygon in segmentation:
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(f'a polygon needs x and y of at least three points, got {len(polygon)} numbers')
            mask |= _from_polygon(np.asarray(polygon, dtype=np.float64).reshape(-1, 2), size)
    else:
        left, top, width, height = annotation['bbox']
        columns, rows = (
            [max(round(start), 0), round(stop)] for start, stop in ((left, left + width), (top, top + height))
        )
        mask[slice(*rows), slice(*columns)] = True
    return mask


def _from_polygon(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centres lie inside, shape (height, width); Pillow would draw the outline as well."""
    width, height = size
    crossings = np.zeros((height, width + 1), dtype=np.int64)
    for (x, y), (next_x, next_y) in zip(corners, np.roll(corners, -1, axis=0)):
        if y == next_y:
            continue
        first, last = (min(max(math.ceil(value - 0.5), 0), height) for value in sorted((y, next_y)))
        rows = np.arange(first, last)
        at = x + (rows + 0.5 - y) * (next_x - x) / (next_y - y)
        np.add.at(crossings, (rows, np.ceil(at - 0.5).clip(0, width).astype(int)), 1)
    return crossings.cumsum(axis=1)[:, :-1] % 2 == 1


def _from_run_lengths(segmentation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    counts = segmentation['counts']
    if isinstance(counts, str):
        raise ValueError('run lengths must be a list of numbers, got compressed text; decode it with pycocotools')
    if list(segmentation['size']) != [size[1], size[0]] or sum(counts) != size[0] * size[1]:
        raise ValueError(f'run lengths must cover {size[0]} x {size[1]} pixels')
    values = np.arange(len(counts)) % 2 == 1  # runs of background and object take turns, down the columns
    return np.repeat(values, counts).reshape(size).T


def read_masks(path: Path, categories: Sequence[str] = ()) -> Masks:
    """Return the masks of a folder of PNG files, or of a JSON file in the form of COCO; nothing else is taken."""
    if path.is_dir():
        return PngMasks(path, categories)
    if path.is_file():
        return CocoMasks(path)
    raise MaskError(f'there are no masks at {path}: expected a folder of PNG files, or a JSON file in COCO format.')


def fit_mask(mask: Image.Image, image: Image.Image, name: PurePath) -> Image.Image:
    """Return the mask of an image as it lies on the upright image, which ``read_image`` returned.

    People draw on what is shown, or on the pixels as they are stored; the two differ where a camera was turned. A mask
    of the size of the upright image is taken as it is, and only else one of the size of the stored pixels is turned as
    they are. So where both are of one size (squares, and what is stored upside down or mirrored) masks are of the
    upright image.

    Raises:
        MaskError: It has neither size.
    """
    if mask.size == image.size:
        return mask
    orientation = image.info.get('orientation')
    if orientation in _TURNS and mask.size == image.size[::-1]:
        return mask.transpose(_TURNS[orientation])
    found, right = (' x '.join(map(str, size)) for size in (mask.size, image.size))
    raise MaskError(f'the mask of {name} has {found} pixels, the image has {right}.')


def place_mask(mask: Image.Image, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Return what a model sees of a mask, shape (H, W), bool: False where the preprocessing adds a border.

    The mask has the size of the image, ``box`` is the part of it that the model sees, ``size`` the height and width of
    that.
    """
    seen = mask.crop(box).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(seen) > 127
