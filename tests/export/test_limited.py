"""Work with a time limit, in processes of its own."""

import multiprocessing
import os
import signal
import time

import pytest

from timm_abn.export.errors import ExportError
from timm_abn.export.limited import OutOfTime, run_limited


def add(first, second, say):
    say('adding')
    return first + second


def sleep(seconds, say):
    say('sleeping')
    while seconds > 0:  # swallows whatever is raised in it
        try:
            time.sleep(0.1)
        except BaseException:
            pass
        seconds -= 0.1


def fail(error, say):
    raise error


def die(say):
    say('dying')
    os.kill(os.getpid(), signal.SIGKILL)


def test_result_and_phases():
    said = []
    assert run_limited(add, dict(first=1, second=2), 120, said.append) == 3
    assert said == ['adding'] and not multiprocessing.active_children()


@pytest.mark.parametrize('seconds', [0.1, pytest.param(30, marks=pytest.mark.slow)])
def test_time_is_kept(seconds):
    said = ['starting']
    start = time.monotonic()
    with pytest.raises(OutOfTime) as raised:
        run_limited(sleep, dict(seconds=300), seconds, said.append)
    assert time.monotonic() - start < seconds + 60
    assert str(raised.value) == said[-1] and not multiprocessing.active_children()


@pytest.mark.slow
def test_interrupted():
    def interrupt(phase):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_limited(sleep, dict(seconds=300), 120, interrupt)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    'error, raised',
    [
        (ExportError('no'), ExportError),
        pytest.param(FileNotFoundError(2, 'No such file', 'x'), FileNotFoundError, marks=pytest.mark.slow),
    ],
)
def test_errors_come_through(error, raised):
    with pytest.raises(raised, match=str(error).replace('[', r'\[')):
        run_limited(fail, dict(error=error), 120, print)


@pytest.mark.slow
def test_death_is_told():
    with pytest.raises(ExportError, match=r'died while dying \(exit code -9\)'):
        run_limited(die, {}, 120, print)
