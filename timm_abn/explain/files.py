"""Files of images in batches, as a model sees them, and the files of their maps."""

import contextlib
import dataclasses
import errno
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..data.images import MOST_PIXELS, Box, Preprocessing, draw_overlay, place_map
from ..data.reading import ImageError
from ..data.sources import Source
from ..maps.colormaps import DIVERGING_COLORMAP
from ..maps.operations import centre_maps, normalize_maps
from ..staging import staged_files

__all__ = ['Drawing', 'Prepared', 'format_range', 'long_names', 'prepared_batches', 'range_of', 'write_maps']

Range = tuple[float, float]


@dataclasses.dataclass
class Prepared:
    """An image that was read and preprocessed.

    Attributes:
        source: Where it comes from.
        image: The original, as RGB.
        x: The model's input, shape (C, H, W).
        box: The part of the original that the input shows.
    """

    source: Source
    image: Image.Image
    x: torch.Tensor
    box: Box


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Which maps are drawn, and how.

    Attributes:
        shown: 'attention'; 'class' for the map of one class, less its mean over the places, of which is drawn what is
            above 0; 'contrast' for that of one class less the mean of the other classes'; 'product' of the attention
            map and a class map (``Explanation.explaining_map``).
        class_index: The class; None for the most probable one of each image, and of a multi-task network for its most
            probable tasks.
        scale: 'own' for the range of each map, 'common' for that of all maps, 'absolute' for that of a sigmoid, [0, 1].
        interpolation: 'bilinear' or 'bicubic'.
        colormap: 'viridis', 'inferno' or 'magma'; contrasts have 'coolwarm' whatever it says.
        from_zero: Whether what is above 0 is drawn alone, as it is of class maps, and of maps of attached networks.
        map_format: Of the map beside the overlay: 'npy' for its values, 'png' as shown, in grey; None for no such file.
    """

    shown: str = 'attention'
    class_index: int | None = None
    scale: str = 'own'
    interpolation: str = 'bilinear'
    colormap: str = 'viridis'
    map_format: str | None = None
    from_zero: bool = False

    @property
    def colors(self) -> str:
        """The colour map that is drawn with."""
        return DIVERGING_COLORMAP if self.shown == 'contrast' else self.colormap


def prepared_batches(
    sources: Iterable[Source], preprocessing: Preprocessing, batch_size: int, problems: list[tuple[Source, str]]
) -> Iterator[list[Prepared]]:
    """Read images and yield them in batches, smaller ones where large photos would fill the memory.

    Images that cannot be used are added to ``problems``, with the reason.
    """
    batch: list[Prepared] = []
    pixels = 0
    for source in sources:
        try:
            image = preprocessing.read(source.path)
            batch.append(Prepared(source, image, *preprocessing(image)))
        except ImageError as error:
            message = str(error).rstrip('.')
            problems.append((source, message if str(source.path) in message else f'{source.path}: {message}'))
            continue
        pixels += image.width * image.height
        if len(batch) == batch_size or pixels > MOST_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def write_maps(
    folder: Path,
    prepared: Prepared,
    maps: Mapping[str, torch.Tensor],
    drawing: Drawing,
    value_range: Range | None = None,
) -> None:
    """Write the overlays of an image, and the maps if asked for.

    Args:
        folder: Where to.
        prepared: The image.
        maps: What its files are called after the image -> a map, shape (1, 1, h, w).
        drawing: How.
        value_range: Values that have the first and the last colour; None for the range of each map, which 'coolwarm'
            takes to be symmetric around 0.
    """
    name = prepared.source.name
    with staged_files(folder / name.parent) as staging:
        for ending, values in maps.items():
            _write_map(staging / f'{name.name}{ending}', prepared, values, drawing, value_range)


@contextlib.contextmanager
def long_names(source: Source, problems: list[tuple[Source, str]]) -> Iterator[None]:
    """Add to ``problems`` that the name of an image is too long to call the files after it that the block writes."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        problems.append((source, f'{source.path} has too long a name to name files after it.'))


def _write_map(
    path: Path, prepared: Prepared, values: torch.Tensor, drawing: Drawing, value_range: Range | None
) -> None:
    own = range_of(values)
    if value_range is None and drawing.colors == DIVERGING_COLORMAP:
        shown, limit = centre_maps(values), max(map(abs, own))
        color_range = (-limit, limit)
    else:
        color_range = value_range or ((0.0, max(own[1], 0.0)) if drawing.from_zero else own)
        shown = normalize_maps(values, color_range)
    overlay = draw_overlay(prepared.image, shown, prepared.box, drawing.interpolation, drawing.colors)
    info = PngInfo()
    info.add_text('timm-abn map range', format_range(*own))
    info.add_text('timm-abn colour range', format_range(*color_range))
    # a photo of 24 megapixels: four times faster than by default, and a quarter larger
    overlay.save(f'{path}.overlay.png', compress_level=1, pnginfo=info)
    if drawing.map_format is None:
        return
    placed = values if drawing.map_format == 'npy' else shown
    placed = place_map(placed, prepared.box, prepared.image.size, drawing.interpolation)
    if drawing.map_format == 'npy':
        np.save(f'{path}.map.npy', placed.numpy())
    else:
        Image.fromarray((placed * 255).round().byte().numpy()).save(f'{path}.map.png')


def range_of(values: torch.Tensor) -> Range:
    """Return the least and the greatest value of a map; NaN if it holds one."""
    return values.min().item(), values.max().item()


def format_range(least: float, greatest: float) -> str:
    """Return a range in words, with three digits."""
    return f'{least:.3g} to {greatest:.3g}'
