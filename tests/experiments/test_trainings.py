"""The comparisons on Fashion-MNIST, on a handful of images."""

import csv
import re

import numpy as np
import pytest
import timm
import torch
from timm_scripts import BOTH, ROOT, STAND_IN, finish, start
from torchvision.datasets import FashionMNIST

import timm_abn  # noqa: F401
from timm_abn.checkpoint_files import read_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize('scripts', BOTH)
def test_comparison(few_images, tmp_path, scripts):
    command = [
        ROOT / 'experiments' / 'compare_fashion_mnist.py',
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
        each = [float(value) for value in row.strip('| ').rpartition('| ')[2].split(', ')]
        assert mean == pytest.approx(np.mean(each), abs=0.01)
        assert deviation == pytest.approx(np.std(each, ddof=1), abs=0.01)
    assert output.count('begins') == 6
    assert finish(start(*command)).count('begins') == 0  # nothing is trained twice


@pytest.mark.nightly
def test_comparison_of_faithful_maps(few_images, tmp_path):
    """What the tables say is what the networks, built by hand from the checkpoints, do."""
    out = tmp_path / 'out'
    command = [
        ROOT / 'experiments' / 'compare_faithful_maps.py',
        *('--data-dir', few_images, '--out', out, '--timm-scripts', STAND_IN),
        *('--epochs', 1, '--seeds', 0, 1, '--limit', 4, '--steps', 2),
    ]
    output = finish(start(*command))
    assert output.count('begins') == 6
    predictions, maps = (out / 'table.md').read_text().split('\n\n')
    titles = ['ABN, hard and faithful', 'ABN, loss of the paper', 'ResNet-20']
    assert [line.split(' | ')[0].strip('| ') for line in predictions.splitlines()[2:]] == titles
    rows = [line.strip('| ').split(' | ')[:2] for line in maps.splitlines()[2:]]
    assert rows == [[title, method] for title in titles[:2] for method in ('attention', 'class_map', 'grad_cam')] + [
        [titles[2], 'grad_cam']
    ]
    scores = (out / 'scores.csv').read_text()
    hard = [accuracy_by_hand(out / f'abn-hard-and-faithful-seed{seed}', few_images, 0.3) for seed in (0, 1)]
    own = [row for row in csv.DictReader(scores.splitlines()) if row['model'] == titles[0] and row['accuracy']]
    assert np.mean([float(row['accuracy']) for row in own]) == pytest.approx(np.mean(hard))
    assert predictions.splitlines()[2].split(' | ')[1].startswith(f'{np.mean(hard):.3f} [')
    assert finish(start(*command)).count('begins') == 0
    assert (out / 'scores.csv').read_text() == scores


def accuracy_by_hand(folder, data_dir, hard_attention):
    state_dict, _ = read_checkpoint(folder / 'last.pth.tar')
    model = timm.create_model('abn_resnet20_cifar.fashion_mnist', mechanism='product', hard_attention=hard_attention)
    model.load_state_dict(state_dict)
    test = FashionMNIST(data_dir, train=False)
    images = (test.data[:, None] / 255 - 0.2860) / 0.3530
    with torch.no_grad():
        return (model.eval()(images).argmax(dim=1) == test.targets).float().mean().item()
