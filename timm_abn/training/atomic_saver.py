"""Checkpoint files of timm's saver that are always whole: old or new, never missing and never half-written."""

import os
import shutil
from typing import Any

from timm.utils import CheckpointSaver

__all__ = ['make_saver_atomic']


def make_saver_atomic() -> None:
    """Let ``timm.utils.CheckpointSaver`` put its files in place by renaming only; a second call changes nothing.

    timm removes the old file before it renames or links the new one, and copies where it cannot link.
    """
    CheckpointSaver._replace = _replace  # type: ignore[method-assign]
    CheckpointSaver._duplicate = _duplicate  # type: ignore[method-assign]


def _replace(self: Any, src: str, dst: str) -> None:
    os.replace(src, dst)


def _duplicate(self: Any, src: str, dst: str) -> None:
    partial = f'{dst}.partial'
    if os.path.exists(partial):
        os.remove(partial)
    try:
        os.link(src, partial)
    except (OSError, NotImplementedError):  # a file system without links
        shutil.copy2(src, partial)
    os.replace(partial, dst)
    if os.path.exists(partial):  # renaming a link to the same file does nothing
        os.remove(partial)
