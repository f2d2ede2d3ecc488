"""The comparisons on Fashion-MNIST, on a handful of images."""

import csv
import json
import re

import numpy as np
import pytest
import timm
import torch
from timm_scripts import BOTH, ROOT, STAND_IN, finish, start
from torchvision.datasets import FashionMNIST

import timm_abn  # noqa: F401
from timm_abn.checkpoint_files import read_checkpoint


@pytest.mark.nightly
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
    (table,) = json.loads((tmp_path / 'out' / 'results.json').read_text())['tables']
    assert [row[0] for row in table['rows']] == ['ResNet-20', 'ABN-ResNet-20, product', 'ABN-ResNet-20, residual']
    for _, both, _, all_seeds in table['rows']:
        mean, deviation = map(float, re.fullmatch(r'(\d+\.\d\d) ± (\d+\.\d\d) %', both).groups())
        each = [float(value) for value in all_seeds.split(', ')]
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
        *('--epochs', 1, '--seeds', 0, 1, '--limit', 4, '--steps', 2, '--', '--weight-decay', '0.01'),
    ]
    output = finish(start(*command))
    assert output.count('begins') == 6 and 'weight_decay: 0.01' in (out / 'resnet-20-seed0' / 'args.yaml').read_text()
    maps, plain, predictions = json.loads((out / 'results.json').read_text())['tables']
    titles = ['ABN, hard and faithful', 'ABN, loss of the paper', 'ResNet-20']
    assert [row[0] for row in predictions['rows']] == titles
    assert [row[0] for row in maps['rows']][:3] == ['class map', 'attention map', 'Grad-CAM at the last stage']
    assert len(maps['rows']) == 8 and len(plain['rows']) == 4
    scores = (out / 'scores.csv').read_text()
    hard = [accuracy_by_hand(out / f'abn-hard-and-faithful-seed{seed}', few_images, 0.3) for seed in (0, 1)]
    own = [row for row in csv.DictReader(scores.splitlines()) if row['model'] == titles[0] and row['accuracy']]
    assert np.mean([float(row['accuracy']) for row in own]) == pytest.approx(np.mean(hard))
    assert predictions['rows'][0][1][0] == pytest.approx(np.mean(hard), abs=1e-4)
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
