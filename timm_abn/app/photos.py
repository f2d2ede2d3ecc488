"""Photos that somebody uploads: what is taken, and in which size they are shown."""

import dataclasses
import io
from pathlib import Path

from PIL import Image

from ..data.images import Box
from ..data.reading import ImageError, Levels, open_image, read_image

__all__ = ['MOST_BYTES', 'MOST_PIXELS', 'Photo', 'read_photo', 'shown_size', 'to_shown_box']

MOST_BYTES = 25 * 2**20
MOST_PIXELS = 50_000_000
SHOWN = 512  # pixels of the longer side: enough to paint on, and little to send


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo, as it was uploaded: its pixels are decoded when they are needed, since they take up to 150 MB."""

    name: str  # of the file, without a folder
    content: bytes
    levels: Levels | None = None  # of the model that looks at it

    def pixels(self) -> Image.Image:
        """Return the photo, upright, as RGB."""
        return read_image(io.BytesIO(self.content), self.levels)


def read_photo(path: str | Path, levels: Levels | None = None) -> tuple[Photo, Image.Image]:
    """Return a file that was uploaded, and its pixels, if it is an image that is not too large.

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
        pixels = read_image(path, levels)
    except ImageError as error:  # visitors need not know the folder
        raise ImageError(str(error).replace(str(path), path.name)) from None
    return Photo(path.name, path.read_bytes(), levels), pixels


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height in which a photo is shown: small ones are enlarged, large ones reduced."""
    factor = SHOWN / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def to_shown_box(box: Box, size: tuple[int, int], shown: tuple[int, int]) -> Box:
    """Return a box of a photo of width and height ``size`` in the pixels in which it is shown."""
    across, down = shown[0] / size[0], shown[1] / size[1]
    left, top = round(box[0] * across), round(box[1] * down)
    return left, top, max(round(box[2] * across), left + 1), max(round(box[3] * down), top + 1)
