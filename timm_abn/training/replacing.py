"""Replacing functions of timm by versions that support ABNs."""

import functools
from collections.abc import Callable
from typing import Any

__all__ = ['replace']


def replace(owner: Any, name: str, override: Callable) -> None:
    """Replace a function of timm by one that gets it as its first argument; a second call replaces the replacement."""
    function = getattr(owner, name)
    function_of_timm = getattr(function, 'of_timm', function)

    @functools.wraps(function_of_timm)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        return override(function_of_timm, *args, **kwargs)

    replacement.of_timm = function_of_timm  # type: ignore[attr-defined]
    setattr(owner, name, replacement)
