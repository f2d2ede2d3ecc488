"""Methods that TorchScript does not compile."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ['ignored_by_torchscript']

Function = TypeVar('Function', bound=Callable[..., Any])


def ignored_by_torchscript(function: Function) -> Function:
    """Return a method that a scripted module leaves out: ``torch.jit.ignore``, but with the type of the method."""
    ignored: Function = torch.jit.ignore(function)
    return ignored
