"""What convolutions see beyond the border of an image: zeros tell them where it is, which attention maps show."""

from typing import Any

import torch.nn as nn

from ..errors import TimmAbnError

__all__ = ['set_padding_mode']


def set_padding_mode(module: nn.Module, padding_mode: str) -> None:
    """Let the convolutions in a module pad in another way.

    Zeros beyond the border are how convolutional networks know places (Islam, Jia, Bruce, arXiv 2001.08248). With
    'replicate', what convolutions make of a constant image is constant. Max pools, which pad with what is never the
    maximum, stay as they are; position embeddings, and pools that are no modules, still know places.

    Raises:
        TimmAbnError: It has layers that pad by a rule of their own.
    """
    layer: Any
    for name, layer in module.named_modules():
        if not _pads(layer):
            continue
        if not _pads_as_torch(layer) or isinstance(layer.padding, str):
            raise TimmAbnError(
                f'padding_mode={padding_mode!r} needs layers that pad as torch.nn.Conv2d does, got '
                f"{type(layer).__name__} at {name!r}; padding_mode='zeros' fits."
            )
        height, width = layer.padding
        layer.padding_mode = padding_mode
        # what torch derives from the padding when it builds a convolution, and reads in any other mode than 'zeros'
        layer._reversed_padding_repeated_twice = [width, width, height, height]


def _pads(layer: Any) -> bool:
    """Return whether a layer counts what it adds beyond the border."""
    if isinstance(layer, nn.MaxPool2d) or (isinstance(layer, nn.AvgPool2d) and not layer.count_include_pad):
        return False
    kernel_size, padding = getattr(layer, 'kernel_size', None), getattr(layer, 'padding', None)
    if kernel_size is None or padding is None or _is_all(kernel_size, 1):
        return False
    return not _is_all(padding, 0) or (isinstance(layer, nn.Conv2d) and not _pads_as_torch(layer))


def _pads_as_torch(layer: Any) -> bool:
    kind: Any = type(layer)
    return (
        isinstance(layer, nn.Conv2d)
        and kind.forward is nn.Conv2d.forward
        and kind._conv_forward is nn.Conv2d._conv_forward
    )


def _is_all(value: Any, number: int) -> bool:
    return all(length == number for length in (value if isinstance(value, (tuple, list)) else (value,)))
