"""What takes the place of modules and methods, in one half of a backbone, that belong to the other half."""

from typing import Any

import torch
import torch.nn as nn

__all__ = ['OptionPassThrough', 'PassThrough', 'TuplePassThrough', 'is_passed', 'no_classifier', 'pass_through']


def pass_through(x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
    """Return ``x``: takes the place of a method (``forward_head``, ``_pos_embed``) that belongs to the other half."""
    return x


def no_classifier(*args: Any, **kwargs: Any) -> None:
    """Take the place of ``reset_classifier`` in the half that has no head."""


class PassThrough(nn.Module):
    """Identity for modules that are called with more than the features; returns its first argument."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return ``x``."""
        return x


class TuplePassThrough(nn.Module):
    """Identity for modules that return several tensors; returns what it is called with, options aside."""

    def forward(self, *args: Any, **options: Any) -> Any:
        """Return the arguments, of one argument that one."""
        return args if len(args) > 1 else args[0]


class OptionPassThrough(nn.Module):
    """Identity for blocks and heads of timm that take options, spelled out since TorchScript has no ``**kwargs``."""

    def forward(
        self,
        x: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        is_causal: bool = False,
        shared_rel_pos: torch.Tensor | None = None,
        shared_rel_pos_bias: torch.Tensor | None = None,
        rope: torch.Tensor | None = None,
        x_cls: torch.Tensor | None = None,
        pre_logits: bool = False,
    ) -> torch.Tensor:
        """Return ``x``."""
        return x


def is_passed(module: nn.Module) -> bool:
    """Return whether a module of a half stands for one of the other half."""
    if isinstance(module, nn.Sequential) and len(module):
        return all(map(is_passed, module))
    return isinstance(module, (nn.Identity, PassThrough, TuplePassThrough, OptionPassThrough))
