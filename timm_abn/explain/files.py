"""From files of images to files of overlays and maps, batch by batch."""

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from PIL import Image

from ..maps.operations import normalize_maps
from ..staging import staged_files
from .images import MOST_PIXELS, Box, ImageError, Preprocessing, draw_overlay, place_map, read_image
from .sources import Source

__all__ = ['Drawing', 'Prepared', 'prepared_batches', 'task_stems', 'write_maps']


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
    """How maps are drawn and written.

    Attributes:
        interpolation: 'bilinear' or 'bicubic'.
        colormap: 'viridis', 'inferno' or 'magma'.
        map_format: Of the map beside the overlay: 'npy' for its values, 'png' as shown, in grey; None for no such file.
    """

    interpolation: str = 'bilinear'
    colormap: str = 'viridis'
    map_format: Optional[str] = None


def prepared_batches(
    sources: Iterable[Source],
    preprocessing: Preprocessing,
    batch_size: int,
    problems: List[Tuple[Source, str]],
) -> Iterator[List[Prepared]]:
    """Read images and yield them in batches.

    Args:
        sources: The images.
        preprocessing: That of the model.
        batch_size: Images per batch; fewer where large photos would fill the memory.
        problems: Images that cannot be used are added here, with the reason.
    """
    batch: List[Prepared] = []
    pixels = 0
    for source in sources:
        try:
            image = read_image(source.path)
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
    attention_maps: torch.Tensor,
    tasks: Mapping[int, str],
    drawing: Drawing,
) -> List[Path]:
    """Write the overlay of an image, and the map if asked for, and return the path of the overlay.

    Of a multi-task network there are several.

    Args:
        folder: Where to.
        prepared: The image.
        attention_maps: Shape (1, 1, h, w), or (1, T, h, w) of a network with a map a task.
        tasks: Indices of the tasks whose maps are drawn of a multi-task network, and what their files are called.
        drawing: How.
    """
    name = prepared.source.name
    maps: Dict[str, torch.Tensor] = {name.name: attention_maps}
    if attention_maps.shape[1] > 1:
        maps = {f'{name.name}.{stem}': attention_maps[:, index : index + 1] for index, stem in tasks.items()}
    with staged_files(folder / name.parent) as staging:
        for stem, attention_map in maps.items():
            _write_map(staging / stem, prepared, attention_map, drawing)
    return [folder / name.parent / f'{stem}.overlay.png' for stem in maps]


def _write_map(path: Path, prepared: Prepared, attention_map: torch.Tensor, drawing: Drawing) -> None:
    shown = normalize_maps(attention_map)
    overlay = draw_overlay(prepared.image, shown, prepared.box, drawing.interpolation, drawing.colormap)
    # a photo of 24 megapixels: four times faster than by default, and a quarter larger
    overlay.save(f'{path}.overlay.png', compress_level=1)
    if drawing.map_format is None:
        return
    values = attention_map if drawing.map_format == 'npy' else shown
    placed = place_map(values, prepared.box, prepared.image.size, drawing.interpolation)
    if drawing.map_format == 'npy':
        np.save(f'{path}.map.npy', placed.numpy())
    else:
        Image.fromarray((placed * 255).round().byte().numpy()).save(f'{path}.map.png')


def task_stems(names: Sequence[str]) -> List[str]:
    """Return what to call the files of each task: its name, and its index if others would be called the same.

    Args:
        names: Names of all tasks.
    """
    stems = [re.sub(r'\W+', '_', name)[:_LONGEST_STEM] for name in names]
    counts = Counter(stem.casefold() for stem in stems)  # some file systems do not tell a from A
    return [stem if counts[stem.casefold()] == 1 else f'{stem}.{index}' for index, stem in enumerate(stems)]


_LONGEST_STEM = 40  # characters; names of files end at 255 bytes
