"""Attention maps given in place of the predicted ones."""

import torch
import torch.fx

__all__ = ['check_attention', 'given_or_predicted', 'is_fx_proxy']


def check_attention(attention: torch.Tensor, expected: list[int]) -> None:
    """Raise ValueError unless ``attention`` has the shape ``expected``."""
    if list(attention.shape) != expected:
        raise ValueError(f'attention must have shape {expected}, got {list(attention.shape)}.')


@torch.jit.unused
def is_fx_proxy(attention: torch.Tensor | None) -> bool:
    """Return whether fx is tracing, so that it is not known yet whether an attention map will be given."""
    return isinstance(attention, torch.fx.Proxy)


def given_or_predicted(given: torch.Tensor | None, predicted: torch.Tensor) -> torch.Tensor:
    """Return the attention map that was given, if there is one, else the predicted."""
    if given is None:
        return predicted
    check_attention(given, list(predicted.shape))
    return given
