"""Where a factor goes: what the second half of a backbone makes of one that its features are multiplied by.

A norm undoes a factor that is the same for all that it normalises: a layer norm over channels one for each place, a
group norm over channels and places a uniform one. Such factors are followed through a run of the second half on the
meta device, operator by operator, until something undoes or notices them. Each tensor is given a degree, the power of
the factor that it is multiplied by: features have 1, the mean of their squares 2, and what depends on them no longer 0.
"""

import math
from typing import Any

import torch
import torch.nn as nn
from torch.utils._python_dispatch import TorchDispatchMode

from .features import Crossing, Features, as_features

__all__ = ['ignores_features', 'ignores_places', 'is_behind_norms']

CHANGED = float('nan')  # degree of what depends on the factor in another way than by a power of it
NORMED = float('inf')  # degree of such, behind a norm: what a residual block with a norm at its end adds

_LAYOUTS = frozenset(
    'alias clone contiguous detach permute transpose t view _unsafe_view _reshape_alias unsqueeze squeeze expand '
    '_to_copy'.split()
)
# with a factor that is the same everywhere, as many of it come out of these as go in
_LINEAR = _LAYOUTS | frozenset(
    'select slice split split_with_sizes unbind cat stack roll constant_pad_nd flip sum mean neg relu leaky_relu '
    'avg_pool2d _adaptive_avg_pool2d max_pool2d_with_indices amax upsample_nearest2d upsample_bilinear2d '
    'upsample_bicubic2d add sub'.split()
)
_PRODUCTS = frozenset('mul mm bmm addmm baddbmm convolution'.split())
_BIASES = {'addmm': 0, 'baddbmm': 0, 'convolution': 2}
_POWERS = {'rsqrt': -0.5, 'sqrt': 0.5, 'reciprocal': -1.0, 'var': 2.0, 'std': 1.0}
_MOMENTS = frozenset(('mean', 'var', 'std'))
_NORMS = frozenset(('native_layer_norm', '_fused_rms_norm', 'native_group_norm'))
# what mixes the channels of a place, and nothing else
_PER_PLACE = _PRODUCTS - {'bmm', 'baddbmm', 'convolution'} | frozenset(
    'add sub neg clone detach alias view _unsafe_view relu gelu silu sigmoid tanh native_layer_norm pow rsqrt div '
    '_to_copy'.split()
)


class _Noticed(Exception):
    """The factor has an effect that nothing undoes."""


class _Follow(TorchDispatchMode):
    """Follows a factor through a run."""

    def __init__(self, features: torch.Tensor, degree: float = 1.0) -> None:
        super().__init__()
        self.features = features
        self.degrees: dict[int, float] = {id(features): degree}  # of each tensor, by id, where it is not 0
        self._kept: list[torch.Tensor] = [features]  # an id is only unique as long as its tensor lives

    def degree(self, value: Any) -> float:
        """Return the degree of an argument."""
        return self.degrees.get(id(value), 0.0) if isinstance(value, torch.Tensor) else 0.0

    def follow(self, operator: str, args: Any, degrees: list[float], results: list[torch.Tensor]) -> float:
        """Return the degree of the results of an operator, or raise ``_Noticed``; one argument has another than 0."""
        raise NotImplementedError

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat = [item for value in args for item in (value if isinstance(value, (list, tuple)) else [value])]
        degrees = [self.degree(value) for value in [*flat, *kwargs.values()]]
        degrees = [degree for degree in degrees if degree]
        result = func(*args, **kwargs)
        if not degrees:
            return result
        operator = func._schema.name.removeprefix('aten::')
        if operator.endswith('_') and (not isinstance(args[0], torch.Tensor) or args[0]._base is not None):
            raise _Noticed  # what is written to a view changes another tensor
        outputs = result if isinstance(result, (list, tuple)) else [result]
        results = [output for output in outputs if isinstance(output, torch.Tensor)]
        degree = self.follow(operator.removesuffix('_'), args, degrees, results)
        for tensor in results:
            self._kept.append(tensor)
            self.degrees[id(tensor)] = degree
        return result


class _Uniform(_Follow):
    """Follows a factor that is the same everywhere; what a residual block adds, and biases, are left out of account."""

    def follow(self, operator: str, args: Any, degrees: list[float], results: list[torch.Tensor]) -> float:
        if operator == 'native_batch_norm':
            raise _Noticed  # its statistics stay as they are; the common case need not be followed to its end
        if not all(map(math.isfinite, degrees)):
            return self._of_changed(operator, degrees)
        if operator in _NORMS and self.degree(args[0]):
            return 0.0
        if operator in _PRODUCTS:
            return sum(self.degree(arg) for index, arg in enumerate(args) if index != _BIASES.get(operator))
        power = _power(operator, args)
        if power is not None:
            return degrees[0] * power
        if operator in _LINEAR and len(set(degrees)) == 1:
            return degrees[0]
        return CHANGED

    def _of_changed(self, operator: str, degrees: list[float]) -> float:
        if operator in _NORMS:
            return NORMED
        if any(map(math.isnan, degrees)):
            return CHANGED
        if len(degrees) == 2 and operator == 'add':
            return min(degrees)  # the shortcut's
        return degrees[0] if degrees == [NORMED] and operator in _LAYOUTS | {'mul'} else CHANGED


class _OfPlaces(_Follow):
    """Follows a factor of each place of the image; the first tokens, which are none of the image, are not multiplied.

    Tokens remain apart from each other until something mixes them, so that the first may be all that is read.
    """

    def __init__(self, features: torch.Tensor, degree: float, num_prefix_tokens: int) -> None:
        super().__init__(features, degree)
        self.num_prefix_tokens = num_prefix_tokens

    def follow(self, operator: str, args: Any, degrees: list[float], results: list[torch.Tensor]) -> float:
        source, changed = args[0], any(degree != degree for degree in degrees)
        has_tokens = self.num_prefix_tokens > 0
        if has_tokens and operator in ('select', 'slice'):
            return self._of_some_tokens(operator, args, degrees[0], results)
        is_layout = operator in _LAYOUTS if not has_tokens else operator in _LAYOUTS & _PER_PLACE
        if is_layout and (not operator.endswith('view') or source.shape[-1] == results[0].shape[-1]):
            return degrees[0]
        if not changed:
            if operator in ('native_layer_norm', '_fused_rms_norm') and len(args[1]) == 1 and self.degree(source):
                return 0.0
            of_channels = (
                operator in _MOMENTS and len(args[1]) == 1 and (not has_tokens or args[1][0] % source.ndim == 2)
            )
            power = _power(operator, args) if of_channels or operator not in _MOMENTS else None
            if power is not None:
                return degrees[0] * power
            if operator == 'mul':
                return sum(map(self.degree, args[:2]))
            if operator == 'add' and all(not isinstance(arg, torch.Tensor) or not arg.ndim for arg in args[1:]):
                return degrees[0]  # the epsilon of a norm
        if has_tokens and operator in _PER_PLACE and not operator.endswith('view'):
            if not (operator.endswith('mm') and self.degree(args[-1])):
                return CHANGED
        raise _Noticed

    def _of_some_tokens(self, operator: str, args: Any, degree: float, results: list[torch.Tensor]) -> float:
        source, dim, *places = args
        if operator == 'slice' and results[0].shape == source.shape:
            return degree  # in some versions of PyTorch x[:, 0] begins with a slice of all images
        if source.ndim == self.features.ndim == 3 and dim == 1 and source.shape[1] == self.features.shape[1]:
            first, end = (places[0], places[0] + 1) if operator == 'select' else (places[0] or 0, places[1])
            if 0 <= first < end <= self.num_prefix_tokens:
                return 0.0
        raise _Noticed


def _power(operator: str, args: Any) -> float | None:
    if operator == 'pow' and isinstance(args[1], (int, float)):
        return float(args[1])
    if operator == 'mean':
        return 1.0
    return _POWERS.get(operator)


def _undoes(perception_branch: nn.Module, crossing: Crossing, follow_class: type[_Follow], *options: Any) -> bool:
    features, side_inputs = as_features(crossing)
    run = follow_class(torch.empty_like(features), *options)
    try:
        with torch.no_grad(), run:
            output = perception_branch(Features(run.features, side_inputs) if side_inputs else run.features)
    except _Noticed:
        return False
    return not run.degree(output)


def ignores_features(perception_branch: nn.Module, crossing: Crossing, num_prefix_tokens: int) -> bool:
    """Return whether a second half ignores a factor of each place that its features are multiplied by.

    The half is in evaluation mode, and it and what crosses the cut are on the meta device. The first tokens, which are
    none of the image, are not multiplied.
    """
    return _undoes(perception_branch, crossing, _OfPlaces, 1.0, num_prefix_tokens)


def ignores_places(perception_branch: nn.Module, crossing: Crossing, num_prefix_tokens: int) -> bool:
    """Return whether a second half reads class tokens alone, in the features or beside; see ``ignores_features``."""
    return _undoes(perception_branch, crossing, _OfPlaces, CHANGED, num_prefix_tokens)


def is_behind_norms(perception_branch: nn.Module, crossing: Crossing) -> bool:
    """Return whether all that a second half does to features is behind norms that undo a uniform factor.

    Residual blocks add to their input, so that the factor is not undone exactly. But what they add does not know of it,
    and counts little where a layer scale begins near zero. See ``ignores_features``.
    """
    return _undoes(perception_branch, crossing, _Uniform)
