"""Work with a time limit, in processes of its own, whatever the one is that asks for it."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from timm_abn_cli.errors import CommandError
from timm_abn_cli.limited import OutOfTime, run_limited

WORK = """
import os, signal, time

def add(first, second, file, say):
    say('adding')
    print('no answer')
    file.write_text(str(first + second))
    return first + second

def sleep(seconds, file, say):
    file.write_text('x')
    say('sleeping')
    while seconds > 0:  # swallows whatever is raised in it
        try:
            time.sleep(0.1)
        except BaseException:
            pass
        seconds -= 0.1

def fail(file, say):
    from timm_abn import TimmAbnError  # with torch, which takes seconds
    raise TimmAbnError('no')

def version(file, say):
    import torch
    file.touch()
    return torch.__version__

def find(file, say):
    open('missing')

def die(file, say):
    say('dying')
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return what runs one of the functions above, whose file appears in the folder ``out``."""
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'limited_work.py').write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path / 'work')

    def run(name, limit=300, say=print, **arguments):
        return run_limited(f'limited_work:{name}', arguments, tmp_path / 'out' / 'sum', limit, say)

    return run


def children():
    listed = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(os.getpid())], capture_output=True, text=True).stdout
    return [pid for pid in listed.split() if os.path.exists(f'/proc/{pid}/cmdline')]


@pytest.mark.slow
def test_result_files_and_phases(run, tmp_path):
    said = []
    assert run('add', say=said.append, first=1, second=2) == 3
    assert said == ['adding'] and not children()
    assert [path.read_text() for path in (tmp_path / 'out').iterdir()] == ['3']


@pytest.mark.parametrize('seconds', [0.1, pytest.param(8, marks=pytest.mark.slow)])
def test_time_is_kept(run, tmp_path, seconds):
    said = ['starting']
    start = time.monotonic()
    with pytest.raises(OutOfTime) as raised:
        run('sleep', seconds, said.append, seconds=300)
    assert time.monotonic() - start < seconds + 60
    assert str(raised.value) == said[-1] and not children() and not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_interrupted(run, tmp_path):
    def interrupt(phase):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run('sleep', say=interrupt, seconds=300)
    assert not children() and not (tmp_path / 'out').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'message'),
    [('fail', '^no$'), ('find', '^missing: No such file'), ('die', r'died while dying \(exit code -9\)')],
)
def test_what_goes_wrong_is_one_line(run, tmp_path, name, message):
    with pytest.raises(CommandError, match=message):
        run(name)
    assert not list((tmp_path / 'out').glob('*')) and not children()


def test_what_cannot_be_handed_on(run):
    with pytest.raises(CommandError, match=r'cannot be handed on: \{1\} is no number, text or list'):
        run('add', first={1}, second=2)


CALL = "run_limited('limited_work:version', {}, Path('file'), 300, print)"
IMPORTS = 'from pathlib import Path; from timm_abn_cli.limited import run_limited'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('script', 'arguments'),
    [
        (f'print("once"); {IMPORTS}; print({CALL})', ['script.py']),
        (f'print("once"); {IMPORTS}; print({CALL})', ['-']),
        (
            f"""
            import multiprocessing; {IMPORTS}
            if __name__ == '__main__':
                with multiprocessing.get_context('spawn').Pool(1) as pool:
                    print('once')
                    print(pool.apply({CALL.replace('(', ', (', 1)}))
            """,
            ['script.py'],
        ),
    ],
    ids=['without a guard', 'from standard input', 'in a pool'],
)
def test_the_script_that_calls_is_not_run_again(run, tmp_path, script, arguments):
    code = textwrap.dedent(script)
    (tmp_path / 'script.py').write_text(code)
    (tmp_path / 'torch.py').write_text('1 / 0')  # what lies where one happens to be is not imported
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), PYTHONSAFEPATH='1')
    done = subprocess.run(
        [sys.executable, *arguments], input=code, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert (
        done.returncode == 0 and lines[0] == 'once' and lines[-1] == torch.__version__ and lines.count('once') == 1
    ), done.stderr
    assert 'Traceback' not in done.stderr and (tmp_path / 'file').is_file()


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_who_asked(run, tmp_path, number):
    call = (
        "run_limited('limited_work:sleep', dict(seconds=300), Path('new/file'), 300, partial(print, file=sys.stderr))"
    )
    code = f'import sys; from functools import partial; {IMPORTS}; {call}'
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    parent = subprocess.Popen(
        [sys.executable, '-c', code], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert parent.stderr.readline() == 'sleeping\n'
    os.kill(parent.pid, number)
    parent.communicate()  # until the child has closed its standard error
    assert [path.name for path in tmp_path.iterdir() if path.name != 'new'] == ['work'] and not list(
        tmp_path.glob('new/*')
    )
