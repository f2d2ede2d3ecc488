"""Scripts to test the launcher with: a small stand-in of ours, and timm's own where $TIMM_SCRIPTS names them."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / 'tests' / 'stand_in_timm'
TIMM = os.environ.get('TIMM_SCRIPTS')
NO_TIMM = "timm's own scripts are not here; name a checkout of its repository by $TIMM_SCRIPTS"

needs_timm_scripts = pytest.mark.skipif(not TIMM, reason=NO_TIMM)
BOTH = [pytest.param(STAND_IN, id='stand_in'), pytest.param(Path(TIMM or '.'), id='timm', marks=needs_timm_scripts)]

MODEL = ('--model', 'abn', '--model-kwargs', 'backbone=test_resnet')
SMALL = tuple(
    '--num-classes 3 --img-size 32 --batch-size 6 --epochs 1 --device cpu --workers 0 --opt momentum --lr 0.05 '
    '--warmup-epochs 0 --experiment run'.split()
)


def summary(folder):
    """Return the rows that timm's script wrote of a run."""
    with (folder / 'run' / 'summary.csv').open() as file:
        return list(csv.DictReader(file))


def start(*command, **environment):
    """Start a command of Python's in another process."""
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(filter(None, paths)), **environment),
    )


def start_training(*flags, processes=1):
    """Start the launcher of timm's train.py, by torchrun where there are several processes."""
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', processes]
    return start(*(torchrun if processes > 1 else []), ROOT / 'train_wrappers' / 'train.py', *flags)


def finish(process):
    """Return what a started command printed, once it has succeeded."""
    try:
        output = process.communicate(timeout=200)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, output
    return output
