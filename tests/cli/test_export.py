"""The command ``timm-abn export`` in processes of its own: how it ends when it takes too long, or is told to end."""

import functools
import os
import signal
import subprocess
import sys

import pytest

from timm_abn_cli import main
from timm_abn_cli.limited import OutOfTime

MODEL = 'abn_resnet20_cifar.fashion_mnist'
CODE = 'import sys, timm_abn_cli\nif __name__ == "__main__":\n    sys.exit(timm_abn_cli.entry_point())\n'


@pytest.fixture
def export(tmp_path):
    """Return what starts the command, as its own process group, in an empty folder."""
    (tmp_path / 'command.py').write_text(CODE)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    started = []

    def start(*args):
        command = [sys.executable, 'command.py', 'export', *args, '--out', 'new/model.pt2']
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # tests that run in the background of a shell would hand on that Ctrl-C is ignored
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def out_of_time(dynamic, phase='starting'):
    simpler = {
        (): 'you can',
        ('--dynamic',): 'try --dynamic batch (images of one size), or',
        ('--dynamic', 'batch'): 'try an export without --dynamic (one image of one size), or',
        ('--dynamic', 'size'): 'try an export without --dynamic (one image of one size), or',
    }
    return (
        f'timm-abn: error: {MODEL} was not exported within 0.2 s, stopped while {phase}; {simpler[dynamic]} allow '
        'more time (--timeout SECONDS)\n'
    )


@pytest.mark.parametrize('dynamic', [(), ('--dynamic',), ('--dynamic', 'batch'), ('--dynamic', 'size')])
def test_out_of_time_names_what_is_simpler(tmp_path, monkeypatch, capsys, dynamic):
    def late(*args):
        raise OutOfTime('tracing')

    monkeypatch.setattr('timm_abn_cli.export.run_limited', late)
    command = ['export', 'torch-export', '--model', MODEL, *dynamic, '--timeout', '0.2']
    assert main([*command, '--out', str(tmp_path / 'model.pt2')]) == 2
    assert capsys.readouterr().err == out_of_time(dynamic, 'tracing')


@pytest.mark.slow
def test_out_of_time_leaves_nothing(export, tmp_path):
    process = export('torch-export', '--model', MODEL, '--dynamic', '--timeout', '0.2')
    error = process.communicate()[1]
    assert process.returncode == 2 and error == out_of_time(('--dynamic',))
    assert [path.name for path in tmp_path.iterdir()] == ['command.py']


@pytest.mark.slow
@pytest.mark.parametrize('number, to_group', [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_told_to_end_it_leaves_nothing(export, tmp_path, number, to_group):
    process = export('torch-export', '--model', MODEL)
    said = process.stderr.readline()  # the child is at work
    assert said.endswith(f' s  loading {MODEL}\n')
    assert [path.name[:9] for path in (tmp_path / 'new').iterdir()] == ['.timm-abn']
    (os.killpg if to_group else os.kill)(process.pid, number)  # a terminal sends Ctrl-C to all processes
    rest = process.communicate()[1]
    assert process.returncode == 128 + number
    assert all(' s  ' in line for line in rest.splitlines()), rest
    assert [path.name for path in tmp_path.iterdir()] == ['command.py']


@pytest.mark.slow
def test_it_exports(export, tmp_path):
    process = export('torch-export', '--model', MODEL)
    said = process.communicate()[1].splitlines()
    assert process.returncode == 0, said
    phases = dict.fromkeys(line.split()[2] for line in said)  # said again each minute
    assert list(phases) == ['loading', 'tracing', 'converting,', 'comparing']
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['model.pt2']
