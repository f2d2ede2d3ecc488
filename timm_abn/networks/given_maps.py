"""Attention maps given in place of the predicted ones, in the type and on the device of these."""

import math

import torch
import torch.fx

from ..errors import TimmAbnError

__all__ = ['check_attention', 'check_values', 'given_or_predicted', 'is_fx_proxy']


def check_attention(attention: torch.Tensor, expected: list[int]) -> None:
    """Raise ValueError unless ``attention`` has the shape ``expected``; values would make a GPU wait."""
    if list(attention.shape) != expected:
        raise ValueError(f'attention must have shape {expected}, got {list(attention.shape)}.')


def check_values(attention: torch.Tensor, map_kind: str) -> None:
    """Raise TimmAbnError unless values of a map could be predicted ones: finite, and in the range of their kind."""
    low, high = dict(sigmoid=(0.0, 1.0), sum_log=(0.0, math.inf), raw=(-math.inf, math.inf))[map_kind]
    if not bool((attention.isfinite() & (attention >= low) & (attention <= high)).all()):
        bounds = 'finite' if map_kind == 'raw' else 'in [0, 1]' if map_kind == 'sigmoid' else 'finite and not negative'
        found = f'{attention.min().item():.4g} to {attention.max().item():.4g}'
        raise TimmAbnError(f'the values of attention must be {bounds}, got {found}.')


@torch.jit.unused
def is_fx_proxy(attention: torch.Tensor | None) -> bool:
    """Return whether fx is tracing, so that it is not known yet whether an attention map will be given."""
    return isinstance(attention, torch.fx.Proxy)


def given_or_predicted(given: torch.Tensor | None, predicted: torch.Tensor) -> torch.Tensor:
    """Return the attention map that was given, if there is one, else the predicted."""
    if given is None:
        return predicted
    check_attention(given, list(predicted.shape))
    return given.to(predicted)
