"""Work with a time limit: it runs in a Python of its own, which ends with the call in any case.

Work inside PyTorch cannot be stopped otherwise: it checks no flag, and swallows exceptions. That Python knows nothing
of the script that called: it gets a line of JSON, and answers in lines of JSON. Who asks need not import the library.
"""

import contextlib
import importlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from .errors import CommandError

__all__ = ['OutOfTime', 'run_limited']

# its folder of modules is that of the caller, and never where it happens to be started
_START = 'import sys; sys.path[:] = sys.argv[1:]; from timm_abn_cli.limited import work; work()'
_PATIENCE = 20  # seconds for removing what is half written
_MINUTE = 60.0


class OutOfTime(Exception):
    """The work was stopped; the message names the phase it was in."""


def run_limited(
    function: str, arguments: Mapping[str, Any], file: Path, seconds: float, say: Callable[[str], None]
) -> Any:
    """Run a function in a new process and return its result; the file that it writes appears when it has succeeded.

    Args:
        function: 'module:name'. Besides its arguments it gets ``file``, where to write, and ``say``, to which it
            reports its phases.
        arguments: Its arguments by name; these, and its result, are JSON, and paths become text.
        file: Where that file appears in the end (``staged_file``).
        seconds: How long it may take.
        say: Called with each phase, and again each minute that it lasts.

    Raises:
        OutOfTime: It took longer.
        CommandError: The function raised an error of the user, or its process died; the message is one line.
    """
    request = dict(function=function, arguments=arguments, file=file)
    try:
        line = json.dumps(request, default=_path_as_text)
    except TypeError as error:
        raise CommandError(f'an argument cannot be handed on: {error}') from None
    process = subprocess.Popen(
        [sys.executable, '-c', _START, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which ends the other
    )
    assert process.stdin is not None and process.stdout is not None
    deadline, phase, partial = time.monotonic() + seconds, 'starting', None
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, answers))
    reader.start()
    try:
        process.stdin.write(f'{line}\n')
        process.stdin.flush()
        while True:
            left = deadline - time.monotonic()
            try:
                answer = answers.get(timeout=max(min(left, _MINUTE), 0))
            except queue.Empty:
                if left <= _MINUTE:
                    raise OutOfTime(phase) from None
                say(phase)
                continue
            if not answer:
                raise CommandError(f'the process that does it died while {phase} (exit code {process.wait()})')
            kind, value = json.loads(answer)
            if kind == 'done':
                return value
            if kind == 'error':
                raise CommandError(value)
            if kind == 'partial':
                partial = value
            else:
                phase = value
                say(phase)
    except BrokenPipeError:
        raise CommandError(f'the process that does it died while {phase} (exit code {process.wait()})') from None
    finally:
        _end(process)
        reader.join()
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed


def _read(lines: Iterable[str], answers: 'queue.SimpleQueue[str]') -> None:
    for line in lines:
        answers.put(line)
    answers.put('')


def _end(process: subprocess.Popen[str]) -> None:
    """End a process: it stops, and removes what it has not finished, when nobody writes to it any more."""
    assert process.stdin is not None
    try:
        process.stdin.close()
        process.wait(_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        pass
    finally:
        process.kill()
        process.wait()


def _path_as_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f'{value!r} is no number, text or list')


def work() -> NoReturn:
    """Do what ``run_limited`` of another process asks for, until that closes the standard input of this one."""
    request = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what libraries print is no answer

    def tell(kind: str, value: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # who asked is gone
            print(json.dumps([kind, value]), file=answers, flush=True)

    os._exit(_work(request, tell))


def _work(request: Mapping[str, Any], tell: Callable[[str, object], None]) -> int:
    events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    has_begun = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        if not has_begun.is_set():  # nothing is written yet, and importing cannot be interrupted
            os._exit(1)
        events.put(('ended', None))

    threading.Thread(target=watch, daemon=True).start()
    from timm_abn.staging import staged_file

    module, _, name = request['function'].partition(':')
    function = getattr(importlib.import_module(module), name)

    def call(staged: Path) -> None:
        try:
            events.put(('done', function(**request['arguments'], file=staged, say=lambda text: tell('say', text))))
        except BaseException as error:
            events.put(('error', error))

    has_begun.set()
    threading.stack_size(2**26)  # of some systems that of threads is too small to trace in
    try:
        with staged_file(request['file']) as staged:
            tell('partial', str(staged.parent))
            threading.Thread(target=call, args=(staged,), daemon=True).start()
            kind, value = events.get()
            if kind == 'error':
                raise value
            if kind == 'ended':
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        return 1
    except Exception as error:
        return _tell_error(error, tell)
    tell(kind, value)
    return 0


def _tell_error(error: Exception, tell: Callable[[str, object], None]) -> int:
    from timm_abn import TimmAbnError

    if isinstance(error, OSError):
        tell('error', f'{error.filename}: {error.strerror}' if error.filename else str(error))
    elif isinstance(error, TimmAbnError):
        tell('error', str(error))
    elif isinstance(error, MemoryError):
        tell('error', 'out of memory')
    else:
        raise error
    return 2
