"""Checkpoints of timm's script: always whole (old or new, never missing or half-written), with entries of ours."""

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.utils import CheckpointSaver

from ..staging import synchronise
from .replacing import replace

__all__ = ['extend_timm_saver']


def extend_timm_saver(**entries: Any) -> None:
    """Let ``timm.utils.CheckpointSaver`` put files in place by renaming only, and record entries among the arguments.

    timm removes the old file before it renames or links the new one, and copies where it cannot link. Entries are plain
    values, those that are None are left out; a second call replaces them.
    """
    CheckpointSaver._replace = _replace  # type: ignore[method-assign]
    CheckpointSaver._duplicate = _duplicate  # type: ignore[method-assign]
    known = {key: value for key, value in entries.items() if value is not None}

    def init(timm_init: Callable, self: CheckpointSaver, *args: Any, **kwargs: Any) -> None:
        timm_init(self, *args, **kwargs)
        if self.args is not None:
            self.args = argparse.Namespace(**{**vars(self.args), **known})

    replace(CheckpointSaver, '__init__', init)


def _replace(self: CheckpointSaver, src: str, dst: str) -> None:
    synchronise(Path(src))
    os.replace(src, dst)
    synchronise(Path(dst).parent)


def _duplicate(self: CheckpointSaver, src: str, dst: str) -> None:
    partial = f'{dst}.partial'
    if os.path.exists(partial):
        os.remove(partial)
    try:
        os.link(src, partial)
    except (OSError, NotImplementedError):  # a file system without links
        shutil.copy2(src, partial)
    synchronise(Path(partial))
    os.replace(partial, dst)
    synchronise(Path(dst).parent)
    if os.path.exists(partial):  # renaming a link to the same file does nothing
        os.remove(partial)
