"""What convolutions see beyond the border of an image; zeros tell them where it is, and attention maps show that."""

import torch.nn as nn

from ..errors import TimmAbnError

__all__ = ['set_padding_mode']


def set_padding_mode(module: nn.Module, padding_mode: str) -> None:
    """Let the convolutions in a module pad in another way.

    Zeros beyond the border are how convolutional networks know places (Islam, Jia, Bruce, arXiv 2001.08248). With
    'replicate', what a network makes of a constant image is constant. Max pools, which pad with what is never the
    maximum, stay as they are.

    Args:
        module: Its convolutions are changed.
        padding_mode: 'zeros' or 'replicate'.

    Raises:
        TimmAbnError: It has convolutions that pad by a rule of their own.
    """
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Conv2d) or all(length == 1 for length in layer.kernel_size):
            continue
        pads_as_torch = (
            type(layer).forward is nn.Conv2d.forward and type(layer)._conv_forward is nn.Conv2d._conv_forward
        )
        if not pads_as_torch or isinstance(layer.padding, str):
            raise TimmAbnError(
                f'padding_mode={padding_mode!r} needs convolutions that pad as torch.nn.Conv2d does, got '
                f"{type(layer).__name__} at {name!r}; padding_mode='zeros' fits."
            )
        if any(layer.padding):
            height, width = layer.padding
            layer.padding_mode = padding_mode  # type: ignore[assignment]
            # what torch derives from the padding when it builds a convolution, and reads in any other mode than 'zeros'
            layer._reversed_padding_repeated_twice = [width, width, height, height]
