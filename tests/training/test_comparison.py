"""The comparison on Fashion-MNIST, on a handful of images."""

import re

import numpy as np
import pytest
from timm_scripts import BOTH, ROOT, finish, start


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
