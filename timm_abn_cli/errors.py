"""What the command line says is wrong."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .printing import visible

if TYPE_CHECKING:
    from timm_abn.data.sources import Source

__all__ = ['CommandError', 'report_problems']


class CommandError(Exception):
    """The input of the user cannot be used; the message says why, in one line."""


def report_problems(problems: 'Sequence[tuple[Source, str]]') -> int:
    """Print what is wrong with images, and return the exit code: 2 for one that was named, 1 for one of a folder."""
    for _, message in problems:
        print(f'timm-abn: error: {visible(message)}', file=sys.stderr)
    return 2 if any(source.named for source, _ in problems) else 1 if problems else 0
