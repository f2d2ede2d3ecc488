"""The command ``timm-abn benchmark``."""

import json

import pytest

from timm_abn.cli import main

TINY = ['--model', 'abn', '--model-kwargs', 'backbone=test_resnet', 'num_classes=5', '--device', 'cpu']


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr('timm_abn.benchmark.machine._SIZE', 16)
    monkeypatch.setattr('timm_abn.benchmark.measuring.SECONDS_OF_A_SAMPLE', 0)


def test_table_and_json(tmp_path, capsys):
    file = tmp_path / 'new' / 'costs.json'
    options = ['--modes', 'eager', 'channels_last', '--batch-size', '1', '2', '--img-size', '64', '--rounds', '2']
    assert main(['benchmark', *TINY, '--baseline', 'test_resnet', *options, '--out', str(file)]) == 0
    output = capsys.readouterr().out
    header = next(line for line in output.splitlines() if line.startswith('model '))
    assert [name in header for name in ('images/s', 'GMACs', 'of product', 'per GMAC', 'map +-')] == [True] * 5
    assert f'Written to: {file}' in output
    assert [path.name for path in file.parent.iterdir()] == ['costs.json']
    data = json.loads(file.read_text())
    assert data['baseline'] == 'test_resnet' and list(data['matrix_product_gflops']) == ['float32']
    assert len(data['cases']) == 8 and all(len(case['seconds']) == 2 for case in data['cases'])
    eager, plain = data['cases'][:2]
    assert (eager['model'], plain['model']) == ('abn', 'test_resnet')
    assert eager['macs_per_image'] > plain['macs_per_image'] and eager['map_difference'] == 0


def test_training_step(capsys):
    assert main(['benchmark', *TINY, '--modes', 'eager', '--batch-size', '2', '--train', '--rounds', '1']) == 0
    assert 'map +-' not in capsys.readouterr().out


@pytest.mark.parametrize(
    'arguments, message',
    [
        ([*TINY, '--modes', 'eager', 'fast'], "no mode is called 'fast'"),
        ([*TINY, '--modes', 'eager', 'eager'], '--modes must be different ones, got eager eager'),
        ([*TINY, '--batch-size', '0'], 'must be a whole number of 1 or more'),
        ([*TINY, '--modes', 'tf32'], 'no mode can be measured: tf32: TF32 takes a GPU'),
        ([*TINY, '--baseline', 'abn'], '--baseline must be another model than abn'),
        ([*TINY, '--baseline', 'resnet5'], 'resnet5 is no model; did you mean resnet50'),
        ([*TINY, '--out', 'costs.csv'], '--out must end in .json, got costs.csv'),
        ([*TINY[:-2], '--device', 'warp'], "cannot compute on 'warp'"),
        (['--model', 'abn_resnet5'], 'abn_resnet5 is no model; did you mean abn_resnet50'),
        (['--model', 'abn', '--model-kwargs', 'backbone=nothing'], "Unknown backbone 'nothing'"),
        (
            ['--model', 'abn', '--model-kwargs', 'backbone=test_vit', '--img-size', '8'],
            'abn takes no images of 8 x 8: ',
        ),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(['benchmark', *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and message in error
    assert not list(tmp_path.iterdir())
