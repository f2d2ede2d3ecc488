"""Work with a time limit: it runs in a Python of its own, which ends with the call in any case.

Work inside PyTorch cannot be stopped otherwise: it checks no flag, and swallows exceptions. That Python knows nothing
of the script that called: it gets a line of JSON, and answers in lines of JSON.
"""

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .errors import CommandError, reason_of

__all__ = ['OutOfTime', 'run_limited']

# its folder of modules is that of the caller, and never where it happens to be started
_START = 'import sys; sys.path[:] = sys.argv[1:]; from timm_abn_cli.limited import work; work()'


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
    try:
        request = json.dumps(dict(function=function, arguments=arguments), default=_path_as_text)
    except TypeError as error:
        raise CommandError(f'an argument cannot be handed on: {error}') from None
    process = subprocess.Popen(
        [sys.executable, '-c', _START, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which ends the other
    )
    phase, is_late = 'starting', threading.Event()

    def stop() -> None:
        is_late.set()
        process.kill()

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        from timm_abn.progress import every_minute  # which the other Python imports meanwhile
        from timm_abn.staging import staged_file

        assert process.stdin is not None and process.stdout is not None
        with staged_file(file) as staged, every_minute(lambda: say(phase)):
            with contextlib.suppress(BrokenPipeError):
                print(request, json.dumps(str(staged)), sep='\n', file=process.stdin, flush=True)
            for line in process.stdout:
                kind, value = json.loads(line)
                if kind == 'done':
                    return value
                if kind == 'error':
                    raise CommandError(value)
                phase = value
                say(phase)
            if is_late.is_set():
                raise OutOfTime(phase)
            raise CommandError(f'the process that does it died while {phase} (exit code {process.wait()})')
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


def _path_as_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f'{value!r} is no number, text or list')


def work() -> None:
    """Do what ``run_limited`` of another process asks for, and end, with what is half written, as soon as that ends."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what libraries print is no answer

    def tell(kind: str, value: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # who asked is gone
            print(json.dumps([kind, value]), file=answers, flush=True)

    import timm_abn  # noqa: F401  while the other process does

    lines = sys.stdin.readline(), sys.stdin.readline()
    if not lines[1]:
        return
    request, file = json.loads(lines[0]), Path(json.loads(lines[1]))
    threading.Thread(target=_end_with_input, args=(file.parent,), daemon=True).start()
    try:
        module, _, name = request['function'].partition(':')
        function = getattr(importlib.import_module(module), name)
        tell('done', function(**request['arguments'], file=file, say=partial(tell, 'say')))
    except Exception as error:
        reason = reason_of(error)
        if reason is None:
            raise
        tell('error', reason)


def _end_with_input(folder: Path) -> None:
    sys.stdin.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
