"""How a process ends that is told to, by Ctrl-C or SIGTERM: with 128 + the number, and without a traceback."""

import _thread
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

__all__ = ['ending_on_signals']

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Let signals end the block like an error, so that what is half written is removed; for the whole process."""
    for number in _NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as of a job in the background
            signal.signal(number, _end)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        for number in _NUMBERS:  # all is done but what the interpreter has to do
            if signal.getsignal(number) == _end:
                signal.signal(number, _exit)


def _end(number: int, frame: FrameType | None) -> None:
    if not _is_importing(frame):
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)
    # no import survives an exception in its middle: torch aborts, and what tries optional packages goes on
    spec = getattr(sys.modules.get('timm_abn'), '__spec__', None)
    if spec is None or spec._initializing:  # nothing is written before the library is there
        _exit(number, frame)
    _thread.start_new_thread(_send_again, (number,))


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == '<frozen importlib._bootstrap>':
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    time.sleep(0.05)
    os.kill(os.getpid(), number)


def _exit(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
