"""Running the experiments in this process, and a little of Fashion-MNIST."""

import sys

import numpy as np
import pytest
from own_scripts import load_script
from small_scenes import make_scenes


@pytest.fixture
def run(monkeypatch):
    """Run an experiment, and return the exit code."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, 'argv', [f'{module.__name__}.py', *map(str, arguments)])
        return load_script('experiments/results').run(module.main, module.parse_args())

    return run


@pytest.fixture
def run_and_read_error(run, capfd):
    """Run an experiment on what it must refuse; returns its one line."""

    def run_and_read_error(module, *arguments):
        capfd.readouterr()
        try:
            code = run(module, *arguments)
        except SystemExit as stop:  # of argparse, which puts the usage before it
            code = stop.code
        error = capfd.readouterr().err
        lines = [line for line in error.splitlines() if f'{module.__name__}.py: error: ' in line]
        assert code == 2 and len(lines) == 1 and 'Traceback' not in error
        return lines[0]

    return run_and_read_error


@pytest.fixture
def few_images(tmp_path):
    """A folder like that of Fashion-MNIST, with as many images as pixels tell apart."""
    folder = tmp_path / 'data' / 'FashionMNIST' / 'raw'
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, count in (('train', 256), ('t10k', 40)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, array in (('images-idx3', images), ('labels-idx1', labels)):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype='>i4').tobytes()
            (folder / f'{name}-{kind}-ubyte').write_bytes(header + array.tobytes())
    return tmp_path / 'data'


@pytest.fixture
def scenes(tmp_path):
    """The folder of three test scenes, which are noise."""
    return make_scenes(tmp_path / 'scenes')
