"""Entries that checkpoints of a run hold besides those of timm's script: class names, crop, origin of weights."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from timm.utils import CheckpointSaver

from .replacing import replace

__all__ = ['record_in_checkpoints']


def record_in_checkpoints(entries: Mapping[str, Any]) -> None:
    """Let ``timm.utils.CheckpointSaver`` write entries among the arguments of the run; a second call replaces them.

    Args:
        entries: Names and plain values; those that are None are left out.
    """
    known = {key: value for key, value in entries.items() if value is not None}

    def build(timm_init: Callable) -> Callable:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            timm_init(self, *args, **kwargs)
            if self.args is not None:
                self.args = argparse.Namespace(**{**vars(self.args), **known})

        return __init__

    replace(CheckpointSaver, '__init__', build)
