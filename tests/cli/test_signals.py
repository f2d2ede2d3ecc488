"""Told to end at any moment a command ends with 128 + the signal, and without a traceback."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest

# a slow module as torch is one, which tries an optional package, and would go on without it
CODE = """
import sys, time
from timm_abn_cli.signals import ending_on_signals
with ending_on_signals():
    print('begun', flush=True)
    import slow_module
    print('imported', flush=True)
    try:
        time.sleep(60)
    finally:
        print('removed', flush=True)
"""
SLOW = """
import time
def wait():
    try:
        print('importing', flush=True)
        for _ in range(600): time.sleep(0.1)
    except BaseException:
        print('swallowed', flush=True)
"""


def run(tmp_path, number, until, modules):
    (tmp_path / 'waiting.py').write_text(SLOW)
    for name, text in modules.items():
        (tmp_path / f'{name}.py').write_text(text)
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, '-c', CODE],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=paths),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # tests that run in the background of a shell would hand on that Ctrl-C is ignored
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    said = []
    while until not in said:
        said.append(process.stdout.readline().strip())
        assert said[-1], process.communicate()
    time.sleep(0.1)
    start = time.monotonic()
    process.send_signal(number)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number and error == '' and time.monotonic() - start < 10
    return output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_while_importing_it_ends_at_once(tmp_path, number):
    assert run(tmp_path, number, 'importing', dict(slow_module='import waiting; waiting.wait()')) == ''


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_later_what_is_half_done_is_removed(tmp_path, number):
    assert run(tmp_path, number, 'imported', dict(slow_module='')) == 'removed\n'


def test_an_import_in_the_middle_of_the_work_comes_to_its_end(tmp_path):
    slow = 'import sys, time; print("importing", flush=True); time.sleep(0.5); print("whole", flush=True)'
    modules = dict(timm_abn='', slow_module='import timm_abn, sys, slower', slower=slow)
    assert run(tmp_path, signal.SIGTERM, 'importing', modules).startswith('whole\n')
