"""What modules return while something runs, for families whose halves do not compute the way timm's methods expect."""

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn as nn

from ..errors import TimmAbnError

__all__ = ['maps_of', 'noting']


@contextlib.contextmanager
def noting(modules: Mapping[int, nn.Module]) -> Iterator[dict[int, Any]]:
    """Yield a dictionary that collects the outputs of modules, by their keys, when they run in this thread."""
    noted: dict[int, Any] = {}
    thread = threading.get_ident()

    def note(key: int, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            noted[key] = output

    handles = [module.register_forward_hook(functools.partial(note, key)) for key, module in modules.items()]
    try:
        yield noted
    finally:
        for handle in handles:
            handle.remove()


def maps_of(output: Any, channels: int, reduction: int, images: torch.Tensor) -> torch.Tensor:
    """Return the maps, shape (B, C, h, w), that a stage of a backbone makes of images, or raise TimmAbnError.

    The stage returns maps, NHWC maps or tokens, or several tensors of which one is that; each place is ``reduction``
    pixels high and wide.
    """
    for tensor in output if isinstance(output, (tuple, list)) else [output]:
        if not isinstance(tensor, torch.Tensor) or channels not in (tensor.shape[1], tensor.shape[-1]):
            continue
        if tensor.ndim == 4:
            return tensor if tensor.shape[1] == channels else tensor.permute(0, 3, 1, 2)
        height, width = (round(size / reduction) for size in images.shape[2:])
        if tensor.ndim == 3 and tensor.shape[1] >= height * width:  # tokens of the image come last
            tokens = tensor[:, tensor.shape[1] - height * width :]
            return tokens.transpose(1, 2).unflatten(2, (height, width))
    raise TimmAbnError(f'a stage of {channels} channels at 1/{reduction} of the image makes no maps that can be found.')
