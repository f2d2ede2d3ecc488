"""The one reader of images: whatever this package decodes is opened here, within limits, and comes out as RGB, upright.

Pillow knows formats that it hands to other programs (PostScript to Ghostscript), whatever a file is called. Only those
are taken that are decoded in this process, and only as many pixels, bytes, scans and seconds as an honest image takes.
"""

import contextlib
import io
import logging
import os
import stat
import struct
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps

from ..errors import TimmAbnError
from ..progress import Progress
from ..records import Levels

__all__ = [
    'FORMATS',
    'MOST_BYTES',
    'ImageError',
    'check_image',
    'image_errors',
    'open_image',
    'read_image',
    'read_or_next',
    'to_rgb',
    'upright',
    'without_damaged',
]

FORMATS = ('JPEG', 'PNG', 'WEBP', 'TIFF', 'GIF', 'BMP', 'JPEG2000', 'AVIF', 'PPM', 'TGA')  # TGA takes nearly anything
MOST_BYTES = 2**29  # as many as the largest image has that Pillow takes by default, of 178 million pixels in colour
MOST_SCANS = 100  # of a JPEG, each of which passes over the whole image; as libtiff. Encoders write about ten
MOST_SECONDS = 60  # of work of the thread on one image, not of waiting for it

_MOST_TRIES = 10  # as timm
_ROWS = 256  # at once where pixels are converted: floats, or copies, of a whole image would take gigabytes
Place = str | Path | BinaryIO
_Item = TypeVar('_Item')
_logger = logging.getLogger(__name__)


class ImageError(TimmAbnError):
    """An image cannot be used; the message says why, in one line, also where a worker of a loader met it."""

    def __init__(self, message: str) -> None:
        if '\n' in message:  # torch makes an error of a worker anew, with the worker's traceback, which ends with ours
            message = message.rstrip().splitlines()[-1].rpartition(f'{type(self).__name__}: ')[2]
        super().__init__(message)


def read_image(path: Place, levels: Levels | None = None) -> Image.Image:
    """Read an image of any mode as 8-bit RGB, upright.

    The EXIF orientation is applied, transparency is laid on white, 16-bit and floating point images are scaled to 8 bit
    (see ``to_rgb``). Of several frames or pages the first is read. Colour profiles are not applied, as in timm.

    Args:
        path: File in one of ``FORMATS``, or what it holds, as a stream, which need not be one that can seek.
        levels: What is black and white in an image of more than 8 bits; by default the range of its type.

    Raises:
        ImageError: There is no such file, or it is not an image, damaged, or larger than the limits.
    """
    with open_image(path) as image:
        return to_rgb(image, levels)


@contextlib.contextmanager
def open_image(path: Place) -> Iterator[Image.Image]:
    """Open an image, whose pixels are not decoded yet; errors of the block become an ``ImageError`` that names it."""
    with _identified(path) as image:
        if image.format in ('JPEG', 'MPO'):
            _check_scans(image, path)
        yield image


@contextlib.contextmanager
def image_errors(path: Place) -> Iterator[None]:
    """Turn whatever goes wrong inside, where the file ``path`` is read, into an ``ImageError``."""
    try:
        yield
    except TimmAbnError:
        raise
    except Exception as error:  # on damaged files Pillow's decoders raise errors of a dozen types
        reason = getattr(error, 'strerror', None) or ' '.join(str(error).split()) or type(error).__name__
        raise ImageError(f'{_name(path)} cannot be read: {reason}') from None


def to_rgb(image: Image.Image, levels: Levels | None = None) -> Image.Image:
    """Convert an image of any mode of Pillow to RGB, upright; ``info['orientation']`` holds the one that it had.

    Transparent pixels become white. Grey levels beyond 8 bit are scaled, not clipped: 16-bit ones by 1/257, 12-bit ones
    of a TIFF by 255/4095. Integers of 32 bit (mode I) count as 8 bit if none is above 255, and as 16 bit if none is
    above 65,535; floats (mode F) count as [0, 1] if none is outside, else as [0, 255]. Values outside of all that are
    stretched from least to greatest.

    Args:
        image: Image of any mode.
        levels: What becomes black and white instead, of grey levels beyond 8 bit.
    """
    tags = getattr(image, 'tag_v2', {})  # lost by what follows
    orientation = _orientation(image)
    image = upright(image)
    if image.mode == 'F' or image.mode.startswith('I'):
        image = _to_8_bit(image, levels, tags)
    elif image.mode == 'LAB':
        lab, srgb = ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB')
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, 'LAB', 'RGB')) or image
    elif image.mode == 'La':
        image = image.convert('LA')
    if image.has_transparency_data:
        image = _on_white(image)
    image = image.convert('RGB')
    if orientation != 1:
        image.info['orientation'] = orientation
    return image


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say."""
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def check_image(path: str | Path) -> None:
    """Raise an ``ImageError`` if a file is damaged, as far as that is seen at little cost.

    Its header is read, the checksums of a PNG, and whether a JPEG has an end; files of other formats are decoded.
    """
    with _identified(path) as image:
        if image.format == 'PNG':
            return
        if image.format in ('JPEG', 'MPO') and image.fp is not None:
            place = image.fp.tell()
            image.fp.seek(-2, os.SEEK_END)
            if image.fp.read() == b'\xff\xd9':
                return
            image.fp.seek(place)  # what cameras write behind the end may hide that it is there
            _check_scans(image, path)
        image.load()


def without_damaged(
    items: Sequence[_Item], path_of: Callable[[_Item], str | Path], check: Callable[[str | Path], object] = check_image
) -> list[_Item]:
    """Return the items whose files ``check`` finds nothing wrong with; the others are named in warnings, and counted.

    ``check_image`` costs about a twentieth of reading the images, ``read_image`` as much, and misses nothing.
    """
    whole = []
    for item in Progress(items, 'check', 'image', shown=len(items) > 1000):
        try:
            check(path_of(item))
            whole.append(item)
        except ImageError as error:
            _logger.warning('%s', error)
    if len(whole) < len(items):
        _logger.warning(f'{len(items) - len(whole)} of {len(items)} images cannot be read and are left out.')
    return whole


def read_or_next(read: Callable[[int], _Item], index: int, length: int) -> _Item:
    """Read an item to train on; one that cannot be read is named in a warning, and the next takes its place."""
    for _ in range(_MOST_TRIES):
        try:
            return read(index)
        except ImageError as error:
            index = (index + 1) % length
            _logger.warning(f'{str(error).rstrip(".")}: image {index} takes its place.')
    return read(index)


@contextlib.contextmanager
def _identified(path: Place) -> Iterator[ImageFile.ImageFile]:
    with image_errors(path), contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, 'rb')) if isinstance(path, (str, Path)) else path
        stream: Any = _Timed(_checked_stream(file, path), path)
        image = _identify(stream, path)
        if image.format == 'PNG':
            image.verify()  # the checksums, which loading does not look at; the image is used up by it
            image = _identify(stream, path)
        yield image


def _checked_stream(file: BinaryIO, path: Place) -> BinaryIO:
    """Return a stream that can seek and is not too long: the file itself, or what a pipe or a device gives."""
    is_file = file.seekable()
    with contextlib.suppress(AttributeError, OSError):  # a stream that is of no file
        is_file = is_file and stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    stream = file if is_file else io.BytesIO()
    if is_file:
        stream.seek(0, os.SEEK_END)
    else:
        while stream.tell() <= MOST_BYTES and (block := file.read(2**20)):
            stream.write(block)
    if stream.tell() > MOST_BYTES:
        raise ImageError(f'{_name(path)} has more than {MOST_BYTES:,} bytes, the limit for images.')
    return stream


class _Timed:
    """A stream that ends the work on an image after ``MOST_SECONDS``: parsers and decoders ask for a little at once."""

    def __init__(self, stream: BinaryIO, path: Place) -> None:
        self._stream, self._path, self._end = stream, path, time.thread_time() + MOST_SECONDS

    def read(self, *size: int) -> bytes:
        if time.thread_time() > self._end:
            raise ImageError(f'{_name(self._path)} takes more than {MOST_SECONDS} seconds to read.')
        return self._stream.read(*size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _identify(stream: Any, path: Place) -> ImageFile.ImageFile:
    """Do what ``Image.open`` does with ``formats``, but for its warning of many pixels, whose filter threads share."""
    Image.init()
    stream.seek(0)
    prefix = stream.read(16)
    most = 2 * (Image.MAX_IMAGE_PIXELS or float('inf'))
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # how a plugin says that it is not
            if factory is None or (accept is not None and accept(prefix) is not True):
                continue
            stream.seek(0)
            image = factory(stream, '')
            if image.width * image.height > most:
                raise ImageError(f"{_name(path)} has more than {most:,} pixels, Pillow's limit; make it smaller first.")
            return image
    raise ImageError(f'{_name(path)} is not an image in a supported format: {", ".join(FORMATS)}.')


def _check_scans(image: Any, path: Place) -> None:
    place = image.fp.tell()
    image.fp.seek(0)
    scans = sum(block.count(b'\xff\xda') for block in iter(lambda: image.fp.read(2**20), b''))
    image.fp.seek(place)
    if scans > MOST_SCANS:
        raise ImageError(f'{_name(path)} is a JPEG with {scans:,} scans; at most {MOST_SCANS} are decoded.')


def _name(path: Place) -> str:
    return str(path if isinstance(path, (str, Path)) else getattr(path, 'name', None) or 'the image')


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # damaged EXIF data do not make the pixels unreadable
    return orientation if orientation in range(2, 9) else 1


def _on_white(image: Image.Image) -> Image.Image:
    on_white = Image.new('RGB', image.size)
    for top in range(0, image.height, _ROWS):
        rows = image.crop((0, top, image.width, min(top + _ROWS, image.height))).convert('RGBA')
        on_white.paste(Image.alpha_composite(Image.new('RGBA', rows.size, 'white'), rows), (0, top))
    return on_white


def _to_8_bit(image: Image.Image, levels: Levels | None, tags: Any) -> Image.Image:
    values = np.asarray(image)
    low, high = _range_of(values, image.mode, levels, tags)
    scaled = np.empty(values.shape, dtype=np.uint8)
    for first in range(0, len(values), _ROWS):
        rows = values[first : first + _ROWS].astype(np.float64)
        part = (np.nan_to_num(rows, posinf=high, neginf=low) - low) * (255 / (high - low or 1.0))
        scaled[first : first + _ROWS] = part.round().clip(0, 255)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow sees to where there are 8 bits
        scaled = 255 - scaled
    transparent = image.info.get('transparency')
    if isinstance(transparent, int):  # a PNG may name one grey level as transparent
        scaled[values == transparent] = 255
    return Image.fromarray(scaled)


_PHOTOMETRIC, _BITS_PER_SAMPLE = ExifTags.Base.PhotometricInterpretation, ExifTags.Base.BitsPerSample


def _range_of(values: np.ndarray, mode: str, levels: Levels | None, tags: Any) -> tuple[float, float]:
    """Return the values that become black and white."""
    if levels is not None and not levels.percent:
        return levels.low, levels.high
    if levels is None and mode.startswith('I;16'):
        white = 4095.0 if tags.get(_BITS_PER_SAMPLE) == (12,) else 65535.0
        if white > 4095 and 255 < values.max() <= 4095:
            warnings.warn(
                'the grey levels of a 16-bit image end below 4,096, so it is nearly black to the model: '
                'use --levels 0 4095.',
                stacklevel=2,
            )
        return 0.0, white
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    if levels is not None:
        low, high = np.percentile(finite, levels[:2])
        return float(low), float(high)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= (255 if mode == 'F' else 65535):
        return 0.0, next(most for most in (1.0 if mode == 'F' else 255.0, 255.0, 65535.0) if high <= most)
    return low, high
