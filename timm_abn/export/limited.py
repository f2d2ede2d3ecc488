"""Work with a time limit: it runs in a process of its own, which is stopped when the time is up.

Work inside PyTorch cannot be stopped otherwise: it checks no flag, and swallows exceptions.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from tqdm import tqdm

from ..errors import TimmAbnError
from .errors import ExportError

__all__ = ['OutOfTime', 'run_limited']

Result = TypeVar('Result')


class OutOfTime(ExportError):
    """The work was stopped; the message names the phase it was in."""


def run_limited(
    function: Callable[..., Result], arguments: Mapping[str, Any], seconds: float, say: Callable[[str], None]
) -> Result:
    """Run a function in a new process, which ends with this call in any case, and return its result.

    Args:
        function: One of a module. It gets ``say`` besides its arguments, and reports its phases to it.
        arguments: Its arguments by name; these, and its result, can be pickled.
        seconds: How long it may take.
        say: Called with each phase.

    Raises:
        OutOfTime: It took longer.
        ExportError: The function raised a ``TimmAbnError``, with this message, or its process died.
        OSError: The function raised one.
    """
    # not forked: a fork of a process that has used torch may hang in its thread pools
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, function, dict(arguments)), daemon=True)
    process.start()
    sender.close()
    deadline, phase = time.monotonic() + seconds, 'starting'
    try:
        while receiver.poll(max(deadline - time.monotonic(), 0)):
            kind, value = receiver.recv()
            if kind == 'done':
                return value
            if kind == 'error':
                raise value
            phase = value
            say(phase)
        raise OutOfTime(phase)
    except EOFError:
        process.join()
        raise ExportError(f'the process that does it died while {phase} (exit code {process.exitcode})') from None
    finally:
        process.kill()
        process.join()
        receiver.close()


def _work(sender: Connection, function: Callable[..., object], arguments: Mapping[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the other one ends this one
    # its lock between processes, of which there are none, would be reported as leaked if this one is killed
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        result = function(**arguments, say=lambda text: sender.send(('say', text)))
    except TimmAbnError as error:
        sender.send(('error', ExportError(str(error))))
    except OSError as error:
        sender.send(('error', error))
    else:
        sender.send(('done', result))


def _end_with_parent() -> None:
    # a parent that is killed outright can end nobody, and this process may have minutes of work left
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
