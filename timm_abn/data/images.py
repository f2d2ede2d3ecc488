"""A model's own preprocessing of images, and maps laid back onto them.

A model sees a resized and centre-cropped image. ``Preprocessing`` remembers which part of the original this is, so that
a map can be laid over the pixels that it explains.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.data.transforms import CenterCropOrPad, MaybeToTensor
from timm.models import get_model_input_config
from torchvision.transforms import CenterCrop
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from ..errors import TimmAbnError
from ..maps.operations import blend_maps, upsample_maps
from ..records import record_of
from .reading import ImageError, read_image

__all__ = ['MOST_PIXELS', 'Box', 'Preprocessing', 'denormalize', 'draw_overlay', 'place_map']

MOST_PIXELS = 100_000_000  # in memory at once, as 8-bit RGB: 300 MB

Box = tuple[int, int, int, int]  # left, top, right and bottom in pixels, as in Pillow


def denormalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Undo the normalisation of a model's preprocessing: return images in [0, 1].

    Args:
        images: Normalised images, shape (B, C, H, W).
        mean: One value per channel, as in the model's ``pretrained_cfg``.
        std: One value per channel.

    Raises:
        TimmAbnError: ``mean`` or ``std`` does not have one value per channel.
    """
    if not images.shape[1] == len(mean) == len(std):
        raise TimmAbnError(
            f'mean and std must have one value for each of {images.shape[1]} channels, got {len(mean)} and {len(std)}.'
        )
    scale, shift = (torch.tensor(v, dtype=images.dtype, device=images.device).view(1, -1, 1, 1) for v in (std, mean))
    return (images * scale + shift).clamp(0, 1)


class Preprocessing:
    """A model's own preprocessing for evaluation, as in timm, that remembers which part of an image the model sees.

    Models with one channel see grey levels. If their configuration has mean and standard deviation for three channels
    (a backbone for colour images, created with ``in_chans=1``), these are averaged.

    Attributes:
        config: Arguments of timm's ``create_transform``: input size, interpolation, mean, std, crop.
        levels: Values that become black and white in images of more than 8 bits (``timm_abn.records``).
    """

    def __init__(self, model: torch.nn.Module) -> None:
        """
        Args:
            model: A timm model.

        Raises:
            TimmAbnError: The model takes neither 1 nor 3 channels.
        """
        input_size = get_model_input_config(model)['input_size']  # of this model, not of its pretrained weights
        self.channels = input_size[0]
        self.levels = record_of(model).levels
        if self.channels not in (1, 3):
            raise TimmAbnError(f'images have 1 (grey) or 3 (colour) channels, the model takes {self.channels}.')
        config: dict[str, Any] = resolve_model_data_config(model)
        self.config = dict(
            config,
            input_size=input_size,
            mean=_per_channel(config['mean'], self.channels),
            std=_per_channel(config['std'], self.channels),
        )
        steps = create_transform(**self.config).transforms
        first_tensor_step = next(index for index, step in enumerate(steps) if isinstance(step, MaybeToTensor))
        self._geometry, self._to_tensor = steps[:first_tensor_step], steps[first_tensor_step:]

    def read(self, path: str | Path | BinaryIO) -> Image.Image:
        """Read an image with the model's levels (``read_image``)."""
        return read_image(path, self.levels)

    def __call__(self, image: Image.Image) -> tuple[torch.Tensor, Box]:
        """Return the model's input, shape (C, H, W), and the box of the image that it shows.

        Where the preprocessing adds a border, the box is larger than the image.

        Args:
            image: RGB image of any size.

        Raises:
            ImageError: The image is so long and thin that resizing it would take gigabytes.
        """
        width, height = image.size
        shorter = max(self.config['input_size'][1:]) / self.config['crop_pct']
        keeps_shorter = self.config['crop_mode'] not in ('squash', 'border')
        if keeps_shorter and max(width, height) / min(width, height) * shorter**2 > MOST_PIXELS:
            raise ImageError(f'an image of {width} x {height} pixels is too long and narrow to resize for the model.')
        if self.channels == 1:
            image = image.convert('L')
        start, scale = [0.0, 0.0], [1.0, 1.0]  # of the box, in pixels of the original; and these to one of the present
        for step in self._geometry:
            before = image.size
            image = step(image)
            for axis in (0, 1):
                if isinstance(step, (CenterCrop, CenterCropOrPad)):
                    start[axis] += scale[axis] * _crop_offset(before[axis], image.size[axis])
                else:
                    scale[axis] *= before[axis] / image.size[axis]
        left, top = map(round, start)
        right, bottom = (round(first + pixels * size) for first, pixels, size in zip(start, scale, image.size))
        x: Any = image
        for step in self._to_tensor:
            x = step(x)
        return x, (left, top, max(right, left + 1), max(bottom, top + 1))


def draw_overlay(
    image: Image.Image,
    attention_map: torch.Tensor,
    box: Box,
    interpolation: str = 'bilinear',
    colormap: str = 'viridis',
) -> Image.Image:
    """Return an image with a map laid over the part of it that the model saw, as ``Explanation.overlay`` draws it.

    Args:
        image: RGB image.
        attention_map: Shape (1, 1, h, w), in [0, 1] (``timm_abn.maps.operations.normalize_maps``).
        box: The part of the image that the map covers.
        interpolation: 'bilinear' or 'bicubic'.
        colormap: 'viridis', 'inferno' or 'magma'; for values with both signs 'coolwarm', neutral in the middle.
    """
    seen = pil_to_tensor(image.crop(box))[None]  # black where the preprocessing added a border
    drawn = blend_maps(seen, upsample_maps(attention_map, seen.shape[2:], interpolation), colormap=colormap)
    overlay = image.copy()
    overlay.paste(to_pil_image(drawn[0]), box[:2])  # what lies outside of the image is cut off
    return overlay


def place_map(attention_map: torch.Tensor, box: Box, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Return the map in the size of the image, shape (H, W), 0 where the model did not see it.

    Args:
        attention_map: Shape (1, 1, h, w).
        box: The part of the image that the map covers.
        size: Width and height of the image, as in Pillow.
        interpolation: 'bilinear' or 'bicubic'.
    """
    left, top, right, bottom = box
    values = upsample_maps(attention_map, (bottom - top, right - left), interpolation)[0, 0]
    # a box may be larger than the image
    first_row, first_column = max(top, 0), max(left, 0)
    values = values[first_row - top : size[1] - top, first_column - left : size[0] - left]
    placed = torch.zeros(size[1], size[0])
    placed[first_row : first_row + values.shape[0], first_column : first_column + values.shape[1]] = values
    return placed


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def _crop_offset(before: int, after: int) -> int:
    # the rounding of torchvision's and timm's centre crops
    return round((before - after) / 2) if before >= after else -((after - before) // 2)
