"""The scripts that gates are chosen by: what maps change in untrained networks, and in small ones that are trained."""

import json
import sys

import pytest
import torch
from own_scripts import load_script
from timm_scripts import ROOT

from timm_abn.errors import TimmAbnError


@pytest.fixture
def measuring():
    return load_script('measure_gates')


@pytest.fixture
def comparing():
    return load_script('compare_gates')


def test_interval_of_a_share(measuring):
    z2 = 1.959964**2
    low, high = measuring.wilson_interval(10, 10)  # where all are in it: n / (n + z^2)
    assert (low, high) == (pytest.approx(10 / (10 + z2)), pytest.approx(1))
    assert measuring.wilson_interval(0, 10) == (pytest.approx(0, abs=1e-12), pytest.approx(1 - low))
    low, high = measuring.wilson_interval(5, 10)
    assert high - low == pytest.approx(2 * (z2 * (10 * 0.25 + z2 / 4)) ** 0.5 / (10 + z2))


def test_a_sample_goes_on_where_it_stopped(measuring, monkeypatch, tmp_path, capsys):
    names = ['test_resnet', 'test_vit', 'test_convnext', 'test_efficientnet', 'resnet10t', 'vgg11']
    tried = []

    def measure(name, gate, batch_size):
        tried.append(name)
        if name == 'test_resnet':
            raise TimmAbnError('cannot be cut')
        enough = 'no' if name == 'test_vit' else 'yes'
        values = dict(split='x', gate='features', reads='places', uniform='0.1', half='0.1', seconds='0.1')
        return dict(values, name=name, enough=enough)

    monkeypatch.setattr(measuring, 'measure', measure)
    monkeypatch.setattr(measuring.timm, 'list_models', lambda **kwargs: list(names))

    def sample(number):
        tried.clear()
        arguments = ['--sample', number, '--seed', 3, '--most-parameters', 2e7, '--csv', tmp_path / 'gates.csv']
        monkeypatch.setattr(sys, 'argv', ['measure_gates.py', *map(str, arguments)])
        return measuring.main()

    sample(2)
    first = [name for name in tried if name != 'test_resnet']
    assert len(first) == 2
    code = sample(4)
    assert not set(first) & set(tried) and 'vgg11' not in tried  # 133 million parameters
    assert {*first, *tried} - {'test_resnet'} == {*names} - {'vgg11', 'test_resnet'}
    assert code == 1 and '3 of 4 names reach the goal: 0.750 [0.301, 0.954]' in capsys.readouterr().out
    lines = (tmp_path / 'gates.csv').read_text().splitlines()
    assert len(lines) == 5 and lines[0].startswith('name,split,gate')


def test_every_cell_of_the_grid(comparing):
    runs = list(comparing.grid(comparing.SEEDS))
    assert len(runs) == len({run.path(ROOT) for run in runs}) == 2 * 3 * 9
    for run in runs:
        if run.data == comparing.FASHION_MNIST and run.seed == 0:
            model = comparing.create(run).eval()
            assert model.config['gate'] == run.gate and model.config['mechanism'] == 'residual'
            assert model.explain(torch.zeros(1, 1, 32, 32)).attention_map.shape == (1, 1, 8, 8)


@pytest.mark.slow
def test_maps_of_scenes_have_as_many_places(comparing):
    for run in comparing.grid([0]):
        if run.data == comparing.SCENES:
            model = comparing.create(run).eval()
            assert model.config['gate'] == run.gate and model.config['mechanism'] == 'product'
            assert model.explain(torch.zeros(1, 3, 64, 64)).attention_map.shape == (1, 4, 8, 8)


@pytest.mark.slow
def test_comparison_of_gates(comparing, few_images, monkeypatch, tmp_path):
    monkeypatch.setattr(comparing, 'BACKBONES', {'ConvNeXt': comparing.BACKBONES['ConvNeXt']})
    arguments = ['--data-dir', few_images, '--data', 'Fashion-MNIST', '--seeds', 0, 1, '--out', tmp_path]
    monkeypatch.setattr(sys, 'argv', ['compare_gates.py', *map(str, arguments)])
    assert comparing.main() == 0
    text = (tmp_path / 'table.md').read_text()
    rows = [line.split(' | ') for line in text.splitlines() if line.startswith('| ConvNeXt')]
    assert [row[1] for row in rows] == ['features', 'centred (chosen)']
    # what follows the cut begins with a layer norm: no map changes anything, but distances to the mean do
    assert rows[0][4] == '0.000 [0.000, 0.000]' != rows[1][4]
    scores = json.loads((tmp_path / 'fashion-mnist-convnext-features-seed1.json').read_text())
    assert {row['metric'] for row in scores['rows']} >= {'accuracy', 'effect, other', 'deletion', 'insertion'}
    monkeypatch.setattr(comparing, 'do', None)  # nothing is done again
    assert comparing.main() == 0 and (tmp_path / 'table.md').read_text() == text
