"""Images to train on, and the launcher, for the tests of this folder."""

import logging
import sys

import numpy as np
import pytest
import timm.data
from PIL import Image

from timm_abn.task import extend_timm_tasks
from timm_abn.training.command import main

from .timm_scripts import ROOT, STAND_IN


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
