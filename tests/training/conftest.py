"""Images to train on, and the launcher, for the tests of this folder."""

import json
import logging
import sys

import pytest
import timm.data
import torch.distributed as dist
import yaml
from timm_scripts import MODEL, ROOT, SMALL, STAND_IN

from timm_abn.training.command import main
from timm_abn.training.task import extend_timm_tasks

SHOWS = """
import json, sys  # and it knows '--task'
config = sys.argv[sys.argv.index('--config') + 1] if '--config' in sys.argv else None
print(json.dumps([sys.argv[1:], open(config).read() if config else '']))
"""


@pytest.fixture(autouse=True)
def as_timm_has_it(monkeypatch):
    """Put back what tests replace in timm, and the loss of the paper."""
    for owner, name in ((timm.data, 'create_dataset'), (timm.data, 'create_loader'), (dist, 'init_process_group')):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    yield
    extend_timm_tasks()


@pytest.fixture
def launch(monkeypatch):
    """Run the launcher in this process, on a process as new as can be."""

    def launch(name, *arguments, scripts=STAND_IN):
        monkeypatch.setattr(sys, 'argv', [str(ROOT / 'train_wrappers' / name)])
        return main(name, [*map(str, arguments), *(('--timm-scripts', str(scripts)) if scripts else ())])

    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.delenv('TIMM_SCRIPTS', raising=False)
    handlers = list(logging.root.handlers)
    yield launch
    logging.root.handlers[:] = handlers


@pytest.fixture
def train(launch, image_folder, tmp_path):
    """Run the launcher of train.py on images of three colours."""

    def train(*flags, model=MODEL, **options):
        run = [*model, *SMALL, '--data-dir', image_folder, '--output', tmp_path, *flags]
        return launch('train.py', *run, **options)

    return train


@pytest.fixture
def shown(launch, tmp_path, capfd):
    """Return what timm's script would be given: its arguments, and the config."""
    for name in ('train.py', 'validate.py'):
        (tmp_path / name).write_text(SHOWS)

    def shown(*flags, script='train.py'):
        weights = ['--pretrained-path', 'x'] if script == 'validate.py' else []
        assert launch(script, *flags, *weights, scripts=tmp_path) == 0
        arguments, config = json.loads(capfd.readouterr().out.splitlines()[-1])
        return arguments, yaml.safe_load(config) or {}

    return shown
