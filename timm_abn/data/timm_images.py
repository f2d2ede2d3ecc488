"""timm's data set of image files, with the reader and the finder of this package."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

from timm.data import ImageDataset
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.utils.misc import natural_key

from ..records import Levels
from .class_names import class_order
from .errors import DataError
from .reading import image_errors, read_image, read_or_next, without_damaged
from .sources import IMAGE_EXTENSIONS, find_images, say_links

__all__ = ['ReadImages', 'find_images_and_targets']


class ReadImages(ImageDataset):
    """timm's ``ImageDataset`` of a folder, an archive or the Hub, whose images are read by ``read_image``.

    Images of a folder that ``check_image`` finds damaged are left out, named and counted. Of one that turns out to be
    damaged only when it is decoded, the error is raised; in training the next image takes its place, and a warning
    names it.

    Attributes:
        last: Which image was read last, and its target.
    """

    def __init__(self, dataset: ImageDataset, is_training: bool = False, levels: Levels | None = None) -> None:
        """
        Raises:
            DataError: No image can be read.
        """
        vars(self).update(vars(dataset))
        self.is_training, self.levels = is_training, levels
        self.last: tuple[int, Any] = (0, None)
        if isinstance(self.reader, ReaderImageFolder):
            self.reader.samples = without_damaged(self.reader.samples, itemgetter(0))
            if not self.reader.samples:
                raise DataError(f'none of the images in {self.reader.root} can be read.')

    def __getitem__(self, index: int) -> Any:
        image, target, *features = read_or_next(self._read, index, len(self)) if self.is_training else self._read(index)
        if self.transform is not None:
            image = self.transform(image)
        if target is None:
            target = -1
        elif self.target_transform is not None:
            target = self.target_transform(target)
        return image, target, *(features if self.additional_features is not None else ())

    def _read(self, index: int) -> tuple[Any, ...]:
        with image_errors(f'image {index}'):  # of a reader that does not find the file
            file, *others = self.reader[index]
        self.last = index, others[0]
        with contextlib.closing(file):
            image = read_image(file, self.levels)
        return image if self.input_img_mode in (None, 'RGB') else image.convert(self.input_img_mode), *others


def find_images_and_targets(
    timm_find: Callable,
    folder: str,
    types: Iterable[str] | None = None,
    class_to_idx: Mapping[str, int] | None = None,
    leaf_name_only: bool = True,
    sort: bool = True,
) -> tuple[list[tuple[str, int]], Mapping[str, int]]:
    """Find images and their classes as timm's function of this name does, but those that ``find_images`` finds."""
    found = []
    for path in find_images(folder, types or IMAGE_EXTENSIONS):
        parts = path.relative_to(folder).parts[:-1]
        found.append((str(path), ''.join(parts[-1:]) if leaf_name_only else '_'.join(parts)))
    if class_to_idx is None:
        class_to_idx = {label: index for index, label in enumerate(class_order(label for _, label in found))}
    images = [(path, class_to_idx[label]) for path, label in found if label in class_to_idx]
    say_links(path for path, _ in images)
    return sorted(images, key=lambda image: natural_key(image[0])) if sort else images, class_to_idx
