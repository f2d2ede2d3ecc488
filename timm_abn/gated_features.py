"""Features gated by several attention maps at once, without a copy of the features for each map.

A 1x1 convolution mixes channels, a map scales places, and the two can change order: ``conv(features * map)`` is
``conv(features) * map``. The convolutions that begin the perception branch, such as the first of a bottleneck block and
the one of its shortcut, therefore run once for all tasks.
"""

from typing import Any, Callable, Dict, Optional, Tuple, Type

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ['GatedFeatures', 'gate_each']


def gate_each(features: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Return features times each of the factors, shape (B * T, C, h, w), the T results of an image in succession.

    Args:
        features: Shape (B, C, h, w).
        factors: Shape (B, T, h, w).
    """
    return (features.unsqueeze(1) * factors.unsqueeze(2)).flatten(0, 1)


class GatedFeatures(torch.Tensor):
    """Stands for ``gate_each(features, factors)``, which is computed when an operation asks for it.

    Only 1x1 convolutions do not: they run on ``features``, and what comes out is gated. As an argument of a backbone it
    is an ordinary tensor of shape (B * T, C, h, w); whatever is computed from it is a plain ``torch.Tensor``.
    """

    _features: torch.Tensor
    _factors: torch.Tensor
    _convolved: Dict[Tuple, torch.Tensor]
    _gated: Optional[torch.Tensor]

    @staticmethod
    def create(features: torch.Tensor, factors: torch.Tensor, convolved: Dict[Tuple, torch.Tensor]) -> 'GatedFeatures':
        """Return gated features.

        Args:
            features: Shape (B, C, h, w).
            factors: Shape (B, T, h, w).
            convolved: Keeps what the convolutions make of ``features``, for all that are given the same dictionary.
        """
        shape = (features.shape[0] * factors.shape[1], *features.shape[1:])
        gated = features.detach().new_empty(1).expand(shape).as_subclass(GatedFeatures)
        gated._features, gated._factors, gated._convolved, gated._gated = features, factors, convolved, None
        return gated

    @classmethod
    def __torch_function__(
        cls,
        func: Callable,
        types: Tuple[Type, ...],
        args: Tuple[Any, ...] = (),
        kwargs: Optional[Dict[str, Any]] = None,
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _DESCRIPTIONS:
                return func(*args, **kwargs)
            if func is F.conv2d and isinstance(args[0], GatedFeatures) and _is_pointwise(*args[1:], **kwargs):
                return args[0]._convolve(*args[1:], **kwargs)
            return func(*_compute(args), **_compute(kwargs))

    def _compute(self) -> torch.Tensor:
        if self._gated is None:
            self._gated = gate_each(self._features, self._factors)
        return self._gated

    def _convolve(
        self,
        weight: torch.Tensor,
        bias: Optional[torch.Tensor] = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        strides = (stride, stride) if isinstance(stride, int) else tuple(stride)
        key = (id(weight), strides, groups)
        convolved = self._convolved.get(key)
        if convolved is None:
            convolved = F.conv2d(self._features, weight, None, strides, groups=groups)
        if isinstance(weight, nn.Parameter):  # others may be made for this one call, and their ids used again
            self._convolved[key] = convolved
        factors = self._factors[:, :, :: strides[0], :: strides[1]].to(convolved.dtype)
        gated = gate_each(convolved, factors)
        return gated if bias is None else gated + bias.to(gated.dtype)[:, None, None]


# what backbones ask of a tensor without looking at its values
_DESCRIPTIONS = {
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.is_floating_point,
    *(getattr(torch.Tensor, name).__get__ for name in ('shape', 'ndim', 'dtype', 'device', 'layout', 'is_cuda')),
}


def _is_pointwise(
    weight: torch.Tensor,
    bias: Optional[torch.Tensor] = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    return tuple(weight.shape[2:]) == (1, 1) and padding in (0, (0, 0), [0, 0], 'valid')


def _compute(value: Any) -> Any:
    """Return arguments of a function with plain tensors in the place of gated features."""
    if isinstance(value, GatedFeatures):
        return value._compute()
    if isinstance(value, (tuple, list)):
        return type(value)(_compute(entry) for entry in value)
    if isinstance(value, dict):
        return {key: _compute(entry) for key, entry in value.items()}
    return value
