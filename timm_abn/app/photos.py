"""Photos that somebody uploads: what is taken, and in which size they are shown."""

import dataclasses
from pathlib import Path

from PIL import Image

from ..data.images import Box
from ..data.reading import ImageError, open_image, to_rgb
from ..records import Levels

__all__ = ['MOST_BYTES', 'MOST_PIXELS', 'Photo', 'read_photo', 'shown_size', 'to_shown_box']

MOST_BYTES = 25 * 2**20
MOST_PIXELS = 50_000_000
KEPT = 1024
SHOWN = 512  # pixels of the longer side: enough to paint on, and little to send


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """What is kept of a photo: its pixels, of which there may be 150 MB, are forgotten when a model has seen them."""

    name: str  # of the file, without a folder
    size: tuple[int, int]  # width and height, upright
    picture: Image.Image  # RGB, with a longer side of at most KEPT pixels

    @classmethod
    def of(cls, name: str, pixels: Image.Image) -> 'Photo':
        """Return what is kept of a photo with these pixels."""
        factor = KEPT / max(pixels.size)
        width, height = (max(1, round(length * factor)) for length in pixels.size)
        return cls(name, pixels.size, pixels.resize((width, height), reducing_gap=2.0) if factor < 1 else pixels)


def read_photo(path: str | Path, levels: Levels | None = None) -> tuple[Photo, Image.Image]:
    """Return what is kept of a file that was uploaded, and its pixels, if it is an image that is not too large.

    Raises:
        ImageError: It is too large, no image, or broken. The message is one line, which names the file without its
            folder.
    """
    path = Path(path)
    if path.stat().st_size > MOST_BYTES:
        size = path.stat().st_size / 2**20
        raise ImageError(f'{path.name} has {size:.1f} MB; at most {MOST_BYTES // 2**20} MB are taken.')
    try:
        with open_image(path) as image:
            width, height = image.size  # of the header: nothing is decoded yet
            if width * height > MOST_PIXELS:
                raise ImageError(
                    f'{path} has {width} x {height} pixels, {width * height / 1e6:.1f} million; at most '
                    f'{MOST_PIXELS // 10**6} million are taken.'
                )
            pixels = to_rgb(image, levels)
    except ImageError as error:  # visitors need not know the folder
        raise ImageError(str(error).replace(str(path), path.name)) from None
    return Photo.of(path.name, pixels), pixels


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height in which a photo is shown: small ones are enlarged, large ones reduced."""
    factor = SHOWN / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def to_shown_box(box: Box, size: tuple[int, int], shown: tuple[int, int]) -> Box:
    """Return a box of a photo of width and height ``size`` in the pixels in which it is shown."""
    across, down = shown[0] / size[0], shown[1] / size[1]
    left, top = round(box[0] * across), round(box[1] * down)
    return left, top, max(round(box[2] * across), left + 1), max(round(box[3] * down), top + 1)
