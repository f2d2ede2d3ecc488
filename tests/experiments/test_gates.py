"""The scripts that gates are chosen by: what maps change in untrained networks, and in small ones that are trained."""

import json
import sys

import pytest
import torch
from own_scripts import load_script

from timm_abn.errors import TimmAbnError


@pytest.fixture
def measuring():
    return load_script('experiments/measure_gates')


@pytest.fixture
def comparing():
    return load_script('experiments/compare_gates')


def test_interval_of_a_share(measuring):
    z2 = 1.959964**2
    low, high = measuring.wilson_interval(10, 10)  # where all are in it: n / (n + z^2)
    assert (low, high) == (pytest.approx(10 / (10 + z2)), pytest.approx(1))
    assert measuring.wilson_interval(0, 10) == (pytest.approx(0, abs=1e-12), pytest.approx(1 - low))
    low, high = measuring.wilson_interval(5, 10)
    assert high - low == pytest.approx(2 * (z2 * (10 * 0.25 + z2 / 4)) ** 0.5 / (10 + z2))


def test_a_random_sample_of_what_can_be_cut(measuring, monkeypatch, capsys):
    names = ['test_resnet', 'test_vit', 'test_convnext', 'test_efficientnet', 'resnet10t', 'vgg11']
    tried = []

    def measure(name, gate):
        tried.append(name)
        if name == 'test_resnet':
            raise TimmAbnError('cannot be cut')
        return dict(split='x', gate='features', half='0.1', enough='no' if name == 'test_vit' else 'yes')

    monkeypatch.setattr(measuring, 'measure', measure)
    monkeypatch.setattr(measuring.timm, 'list_models', lambda **kwargs: list(names))

    def sample(number):
        tried.clear()
        monkeypatch.setattr(sys, 'argv', ['measure_gates.py', '--sample', str(number), '--seed', '3'])
        return measuring.main(), [name for name in tried if name != 'test_resnet']

    monkeypatch.setattr(measuring, 'MOST_PARAMETERS', 2e7)
    _, first = sample(2)
    code, found = sample(4)
    assert len(first) == 2 and found[:2] == first
    assert {*found} == {*names} - {'vgg11', 'test_resnet'}  # the former has 133 million parameters
    assert code == 1 and '3 of 4 names reach the goal: 0.750 [0.301, 0.954]' in capsys.readouterr().out


def test_effect_of_maps(measuring, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['measure_gates.py', 'test_resnet'])
    assert measuring.main() == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith('test_resnet split=layer3 gate=features reads=places uniform=') and 'enough=yes' in line


def test_every_cell_of_the_grid(comparing, tmp_path):
    paths = {cell.path(tmp_path, seed) for cell in comparing.CELLS for seed in comparing.SEEDS}
    assert len(paths) == 3 * len(comparing.CELLS) == 3 * 9
    for cell in comparing.CELLS:
        model = cell.create().eval()
        assert model.config.gate == cell.gate and model.config.mechanism == 'residual'
        assert model.explain(torch.zeros(1, 1, 32, 32)).attention_map.shape == (1, 1, 8, 8)


@pytest.mark.slow
def test_comparison_of_gates(run, comparing, few_images, monkeypatch, tmp_path):
    monkeypatch.setattr(comparing, 'CELLS', [cell for cell in comparing.CELLS if cell.backbone == 'ConvNeXt'])
    arguments = ['--data-dir', few_images, '--seeds', 0, 1, '--out', tmp_path]
    assert run(comparing, *arguments) == 0
    text = (tmp_path / 'table.md').read_text()
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| ConvNeXt')]
    assert [row[1] for row in rows] == ['features', 'centred (chosen)']
    # what follows the cut begins with a layer norm: no map changes anything, but distances to the mean do
    assert rows[0][4] == '0.000 [0.000, 0.000]' != rows[1][4]
    scores = json.loads((tmp_path / 'convnext-features-seed1.json').read_text())
    found = {metric for row in scores['rows'] for metric in row}
    assert found >= {'accuracy', 'effect, other', 'deletion', 'insertion'}
    monkeypatch.setattr(comparing, 'score', None)  # nothing is done again
    assert run(comparing, *arguments) == 0 and (tmp_path / 'table.md').read_text() == text
    monkeypatch.setattr(comparing, 'FIT', dict(comparing.FIT, lr=1))
    assert run(comparing, *arguments) == 2  # nor mixed with runs of other settings
