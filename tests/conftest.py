"""Fixtures of several modules."""

import gc

import numpy as np
import pytest
from celeba_files import write_celeba
from hub_server import TOKEN, running_hub
from huggingface_hub import constants, file_download
from PIL import Image


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Yield a Hub on this machine, which huggingface_hub asks in the place of the real one; nobody is logged in."""
    with running_hub() as server:
        monkeypatch.setattr(constants, 'ENDPOINT', server.endpoint)
        template = f'{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
        for module in (constants, file_download):  # older versions have it by name
            monkeypatch.setattr(module, 'HUGGINGFACE_CO_URL_TEMPLATE', template, raising=False)
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
        monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'token'))
        monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True, raising=False)  # there is none before 0.32
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
        monkeypatch.delenv('HF_TOKEN', raising=False)
        yield server


@pytest.fixture
def logged_in(monkeypatch):
    """Log in to the Hub."""
    monkeypatch.setenv('HF_TOKEN', TOKEN)


@pytest.fixture
def celeba(tmp_path):
    """CelebA with five images."""
    return write_celeba(tmp_path / 'celeba')


@pytest.fixture
def compcars(tmp_path):
    """Two makers (7 and 100) and three models; each image is grey, with a car of its own colour in the box."""
    cars = {'train': ['7/30/2010/a.jpg', '7/9/2011/b.jpg', '100/12/unknown/c.jpg'], 'test': ['100/12/2012/d.jpg']}
    for split, names in cars.items():
        lists = tmp_path / 'train_test_split' / 'classification'
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f'{split}.txt').write_text('\n'.join(names) + '\n')
        for name in names:
            pixels = np.full((40, 60, 3), 128, dtype=np.uint8)
            pixels[9:29, 19:49] = (200, 40, 40)
            image, label = tmp_path / 'image' / name, (tmp_path / 'label' / name).with_suffix('.txt')
            image.parent.mkdir(parents=True, exist_ok=True)
            label.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(image, quality=95)
            label.write_text('4\n1\n20 10 49 29\n')
    return tmp_path


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


LONGEST = {
    'test_comparison_of_human_masks',
    'test_killed_and_resumed',
    'test_mypy_of_a_program',
    'test_small_models_pass',
}


def pytest_collection_modifyitems(items):
    """Begin with the longest, so that no process is left alone with one of them in the end."""
    items.sort(key=lambda item: item.name.partition('[')[0] not in LONGEST)


def pytest_collection_finish():
    """Collect garbage less often, and never among what was imported: it took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
