"""The scripts that the launcher is tested with: a small stand-in of ours, and timm's own where $TIMM_SCRIPTS names them."""
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm.data
import timm.utils
from PIL import Image

from timm_abn.task import extend_timm_tasks
from timm_abn.training.command import main

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / 'tests' / 'stand_in_timm'
TIMM = os.environ.get('TIMM_SCRIPTS')
NO_TIMM = "timm's own scripts are not here; name a checkout of its repository by $TIMM_SCRIPTS"

needs_timm_scripts = pytest.mark.skipif(not TIMM, reason=NO_TIMM)
BOTH = [pytest.param(STAND_IN, id='stand_in'), pytest.param(Path(TIMM or '.'), id='timm', marks=needs_timm_scripts)]

MODEL = ('--model', 'abn', '--model-kwargs', 'backbone=test_resnet')
SMALL = ('--num-classes', '3', '--img-size', '32', '--batch-size', '6', '--epochs', '1', '--device', 'cpu',
         '--workers', '0', '--opt', 'momentum', '--lr', '0.05', '--warmup-epochs', '0', '--experiment', 'run')


@pytest.fixture(scope='session')
def image_folder(tmp_path_factory):
    """Three colours, 24 images to train on and 9 to validate."""
    root = tmp_path_factory.mktemp('images')
    random = np.random.default_rng(0)
    for split, count in (('train', 8), ('validation', 3)):
        for label in range(3):
            folder = root / split / f'class{label}'
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 120, (40, 36, 3), dtype=np.uint8)
                pixels[..., label] += 80
                Image.fromarray(pixels).save(folder / f'{index}.png')
    return root


@pytest.fixture
def launch(monkeypatch):
    """Run the launcher in this process, on a process as new as can be."""
    def launch(name, *arguments, scripts=STAND_IN):
        monkeypatch.setattr(sys, 'argv', [str(ROOT / 'train_wrappers' / name)])
        return main(name, [*map(str, arguments), *(('--timm-scripts', str(scripts)) if scripts else ())])

    monkeypatch.setattr(sys, 'path', list(sys.path))
    for name in ('create_dataset', 'create_loader'):
        monkeypatch.setattr(timm.data, name, getattr(timm.data, name))
    monkeypatch.delenv('TIMM_SCRIPTS', raising=False)
    handlers = list(logging.root.handlers)
    yield launch
    logging.root.handlers[:] = handlers
    extend_timm_tasks(1.0)


def start(*command, **environment):
    """Start a command of Python's in another process."""
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    return subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(filter(None, paths)), **environment))


def finish(process):
    """Return what a started command printed, once it has succeeded."""
    try:
        output = process.communicate(timeout=200)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, output
    return output
