"""Replacing functions of timm by versions that support ABNs."""

import functools
from collections.abc import Callable
from typing import Any

__all__ = ['replace']


def replace(owner: Any, name: str, build: Callable[[Callable], Callable]) -> None:
    """Replace a function of timm by ``build`` of it; a second call replaces the first replacement."""
    function = getattr(owner, name)
    function_of_timm = getattr(function, 'of_timm', function)
    replacement = functools.wraps(function_of_timm)(build(function_of_timm))
    replacement.of_timm = function_of_timm  # type: ignore[attr-defined]
    setattr(owner, name, replacement)
