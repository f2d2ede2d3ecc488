"""The comparison on Fashion-MNIST, on a handful of images."""

import re

import numpy as np
import pytest

from .timm_scripts import BOTH, ROOT, finish, start


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


@pytest.mark.slow
@pytest.mark.parametrize('scripts', BOTH)
def test_comparison(few_images, tmp_path, scripts):
    command = [
        ROOT / 'scripts' / 'compare_fashion_mnist.py',
        '--data-dir',
        few_images,
        '--out',
        tmp_path / 'out',
        '--epochs',
        1,
        '--seeds',
        0,
        1,
        '--timm-scripts',
        scripts,
    ]
    output = finish(start(*command))
    rows = (tmp_path / 'out' / 'table.md').read_text().splitlines()[2:]
    assert [row.split(' | ')[0] for row in rows] == [
        '| ResNet-20',
        '| ABN-ResNet-20, product',
        '| ABN-ResNet-20, residual',
    ]
    for row in rows:
        mean, deviation = map(float, re.search(r'\| (\d+\.\d\d) ± (\d+\.\d\d) %', row).groups())
        each = [float(value) for value in row.split(' | ')[3].rstrip(' |').split(', ')]
        assert mean == pytest.approx(np.mean(each), abs=0.01)
        assert deviation == pytest.approx(np.std(each, ddof=1), abs=0.01)
    assert output.count('begins') == 6
    assert finish(start(*command)).count('begins') == 0  # nothing is trained twice
