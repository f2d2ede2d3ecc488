"""What the command line says is wrong."""

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .printing import visible

if TYPE_CHECKING:
    from timm_abn.data.sources import Source

__all__ = ['CommandError', 'reason_of', 'report_problems']


class CommandError(Exception):
    """The input of the user cannot be used; the message says why, in one line."""


def reason_of(error: Exception) -> str | None:
    """Return what went wrong in one line, where it is no mistake of ours: input, the disk, memory."""
    if isinstance(error, CommandError):
        return str(error)
    if isinstance(error, OSError):
        return f'{error.filename}: {error.strerror}' if error.filename else error.strerror or str(error)
    # of torch and its library on the CPU; on a GPU it has a class for it
    is_full = re.search("can't allocate memory|could not create a (primitive|memory)", str(error))
    if is_full or isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError':
        return 'out of memory; try smaller batches or images'
    if isinstance(error, ValueError):
        from timm_abn import TimmAbnError

        return str(error) if isinstance(error, TimmAbnError) else None
    return None


def report_problems(problems: 'Sequence[tuple[Source, str]]') -> int:
    """Print what is wrong with images, and return the exit code: 2 for one that was named, 1 for one of a folder."""
    for _, message in problems:
        print(f'timm-abn: error: {visible(message)}', file=sys.stderr)
    return 2 if any(source.named for source, _ in problems) else 1 if problems else 0
