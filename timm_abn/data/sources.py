"""Finding images, given as files or folders; imports neither torch nor Pillow."""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import TimmAbnError

__all__ = ['IMAGE_EXTENSIONS', 'Source', 'find_images', 'find_sources', 'say_links']

_logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (
    *('.avif', '.bmp', '.gif', '.jfif', '.jp2', '.jpeg', '.jpg', '.pbm', '.pgm', '.png', '.ppm', '.tga', '.tif'),
    *('.tiff', '.webp'),
)
# not to be explained when the output lies among the images
OUTPUT_ENDINGS = ('.overlay.png', '.map.png', '.compare.png')


@dataclasses.dataclass
class Source:
    """An image to explain.

    Attributes:
        path: The file.
        name: Path of its output, relative to the output folder, without an ending.
        named: Whether the user named the file, rather than a folder that holds it.
    """

    path: Path
    name: Path
    named: bool

    @property
    def folder(self) -> str:
        """Name of the folder that the file lies in."""
        return self.path.absolute().parent.name


def find_sources(paths: Iterable[Path]) -> list[Source]:
    """Return the images among files, taken whatever their name, and in folders, each with an output name of its own.

    An image that is named twice is one; several links to a file are several images. Both are said in a warning.

    Raises:
        TimmAbnError: A path does not exist, or a folder holds no images.
    """
    sources: dict[str, Source] = {}
    taken = set()
    named_again = 0
    for path in paths:
        if path.is_dir():
            files = find_images(path)
            names = [file.relative_to(path).with_suffix('') for file in files]
            if not files:
                raise TimmAbnError(f'there are no images in {path}.')
        elif path.exists():
            files, names = [path], [Path(path.stem)]
        else:
            raise TimmAbnError(f'there is no file or folder {path}.')
        for file, name in zip(files, names, strict=True):
            place = os.path.abspath(file)
            if place in sources:
                named_again += 1
                continue
            unique, number = name, 1
            while str(unique).casefold() in taken:
                number += 1
                unique = name.with_name(f'{name.name}-{number}')
            taken.add(str(unique).casefold())
            sources[place] = Source(file, unique, named=not path.is_dir())
    if named_again:
        _logger.warning(f'{named_again} images were named more than once and are used once.')
    say_links(sources)
    return list(sources.values())


def find_images(folder: str | Path, endings: Iterable[str] = IMAGE_EXTENSIONS) -> list[Path]:
    """Return the files in a folder, and in those below it, whose names end so, in the order of their paths.

    As in timm, links are followed, to folders too, but not round in a loop. Names that begin with a dot are no images:
    other programs keep their copies, thumbnails and notes there. Neither is what this package writes beside images. A
    folder that cannot be searched is named in a warning.
    """
    wanted, found = tuple(ending.lower() for ending in endings), []
    above = {str(folder): {os.path.realpath(folder)}}  # of each folder still to come, where the path leads through
    for place, folders, names in os.walk(folder, onerror=_say_unsearched, followlinks=True):
        passed = above.pop(place)
        inner = {name: os.path.realpath(os.path.join(place, name)) for name in folders if not name.startswith('.')}
        folders[:] = [name for name, real in inner.items() if real not in passed]
        above.update({os.path.join(place, name): passed | {inner[name]} for name in folders})
        found += [Path(place, name) for name in names if _is_input(place, name, wanted)]
    return sorted(found)


def _say_unsearched(error: OSError) -> None:
    _logger.warning(f'{error.filename} cannot be searched for images: {error.strerror}.')


def _is_input(folder: str, name: str, endings: tuple[str, ...]) -> bool:
    lowered = name.lower()
    if lowered.startswith('.') or not lowered.endswith(endings) or lowered.endswith(OUTPUT_ENDINGS):
        return False
    path = os.path.join(folder, name)
    return os.path.isfile(path) or os.path.islink(path)  # that a link leads nowhere is told where it is read


def say_links(paths: Iterable[str]) -> None:
    """Say in a warning how many paths lead to a file that another of them leads to."""
    files = []
    for path in paths:
        with contextlib.suppress(OSError):  # told where it is read
            status = os.stat(path)
            files.append((status.st_dev, status.st_ino))
    if len(set(files)) < len(files):
        _logger.warning(
            f'{len(files) - len(set(files))} of {len(files)} images are links to others, and count as images.'
        )
