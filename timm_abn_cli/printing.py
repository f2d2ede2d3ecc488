"""What is printed, made visible: names come from files and from the Hub, and a terminal obeys some characters."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

__all__ = ['visible', 'visible_output']

JOINERS = '\u200c\u200d'  # of scripts and emoji
ARROWS = {'\u2191': '^', '\u2193': 'v'}  # in tables, and what stands for them where they cannot be encoded


def visible(text: str, kept: str = '') -> str:
    r"""Return a text with escapes, such as ``\x1b``, in place of characters that do not print, but for those kept."""
    kept += JOINERS
    return text if text.isprintable() else ''.join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


class _VisibleStream:
    """A stream that writes what it can encode and a terminal only shows, and escapes of all else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or 'utf-8'
        shown = visible(text, '\n\r\t')
        for arrow, plain in ARROWS.items():
            if not arrow.encode(encoding, 'ignore'):
                shown = shown.replace(arrow, plain)
        self._stream.write(shown.encode(encoding, 'backslashreplace').decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def visible_output() -> Iterator[None]:
    """Let all that the block prints be visible, in any encoding."""
    streams: Any = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        for redirect, stream in zip((contextlib.redirect_stdout, contextlib.redirect_stderr), streams):
            if stream is not None:
                stack.enter_context(redirect(_VisibleStream(stream)))
        yield
