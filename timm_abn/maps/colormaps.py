"""Colour maps as tables of 256 colours."""

import functools

import torch

from ..errors import TimmAbnError
from .choices import COLORMAPS

__all__ = ['COLORMAPS', 'colormap_table']


@functools.cache
def colormap_table(name: str) -> torch.Tensor:
    """Return the 256 colours of a colour map, a key of ``COLORMAPS``, shape (256, 3), type uint8, sRGB."""
    if name not in COLORMAPS:
        raise TimmAbnError(f'colormap must be one of {", ".join(map(repr, COLORMAPS))}, got {name!r}.')
    anchors = torch.tensor(list(bytes.fromhex(COLORMAPS[name])), dtype=torch.float32).reshape(1, -1, 3)
    table = torch.nn.functional.interpolate(anchors.mT, size=256, mode='linear', align_corners=True)
    return table[0].T.round().to(torch.uint8)
