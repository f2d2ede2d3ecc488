"""Finding images, given as files or folders; imports neither torch nor Pillow."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from ..errors import TimmAbnError

__all__ = ['IMAGE_EXTENSIONS', 'Source', 'find_sources']

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


def find_sources(paths: Iterable[Path]) -> list[Source]:
    """Return the images among files, taken whatever their name, and in folders, each with an output name of its own.

    Raises:
        TimmAbnError: A path does not exist, or a folder holds no images.
    """
    sources: dict[Path, Source] = {}
    taken = set()
    for path in paths:
        if path.is_dir():
            files = [file for file in sorted(path.rglob('*')) if _is_input(file)]
            names = [file.relative_to(path).with_suffix('') for file in files]
            if not files:
                raise TimmAbnError(f'there are no images in {path}.')
        elif path.exists():
            files, names = [path], [Path(path.stem)]
        else:
            raise TimmAbnError(f'there is no file or folder {path}.')
        for file, name in zip(files, names, strict=True):
            if file.resolve() in sources:
                continue
            unique, number = name, 1
            while str(unique).casefold() in taken:
                number += 1
                unique = name.with_name(f'{name.name}-{number}')
            taken.add(str(unique).casefold())
            sources[file.resolve()] = Source(file, unique, named=not path.is_dir())
    return list(sources.values())


def _is_input(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(IMAGE_EXTENSIONS) and not name.endswith(OUTPUT_ENDINGS) and path.is_file()
