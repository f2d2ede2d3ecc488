"""Evaluations: what is written, how an interrupted one goes on, and what several processes make of it."""

import csv
import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_abn

from timm_abn import TimmAbnError
from timm_abn.explain.evaluation import Sample, evaluate
from timm_abn.explain.metrics import deletion, energy, insertion, pointing_game, position_bias

SIZE = (32, 32)
NUM_IMAGES = 11
ROOT = Path(__file__).parents[2]


def make_sample(index, masks=True):
    generator = torch.Generator().manual_seed(index)
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[: 4 + index, :10] = True
    return Sample(
        f'image{index}.png', torch.randn(3, *SIZE, generator=generator), label=index % 5, mask=mask if masks else None
    )


def make_samples(count=NUM_IMAGES, **kwargs):
    return [functools.partial(make_sample, index, **kwargs) for index in range(count)]


def explainers_of(model):
    def attention(images, targets):
        return model.explain(images).attention_map

    def gradient(images, targets):
        return images.mean(dim=1, keepdim=True)

    return dict(attention=attention, brightness=gradient)


@pytest.fixture(scope='module')
def model():
    return tiny_abn('test_resnet')


def evaluated(model, folder, samples=None, **kwargs):
    kwargs = {'steps': 8, 'batch_size': 4, 'explainers': explainers_of(model), **kwargs}
    explainers = kwargs.pop('explainers')
    return evaluate(model, make_samples() if samples is None else samples, explainers, folder, **kwargs)


def test_rows_are_the_metrics_of_each_image(model, tmp_path):
    evaluation = evaluated(model, tmp_path / 'out')
    samples = [sample() for sample in make_samples()]
    images = torch.stack([sample.image for sample in samples])
    masks = torch.stack([sample.mask for sample in samples])[:, None]
    with torch.no_grad():
        targets = model(images).argmax(dim=1)
    for method, explainer in explainers_of(model).items():
        maps = explainer(images, targets)
        rows = [row for row in evaluation.rows if row['method'] == method]
        assert [row['image'] for row in rows] == [sample.name for sample in samples]
        assert [row['predicted'] for row in rows] == targets.tolist()
        for name, expected in (
            ('deletion', deletion(model, images, maps, steps=8)),
            ('insertion', insertion(model, images, maps, steps=8)),
            ('energy', energy(maps, masks)),
            ('pointing_game', pointing_game(maps, masks)),
        ):
            found = torch.tensor([row[name] for row in rows])
            torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
            assert evaluation.scores[method][name].mean == pytest.approx(expected.mean().item(), abs=1e-5)
        assert evaluation.position_bias[method] == pytest.approx(position_bias(maps), abs=1e-6)
        assert evaluation.curves[method].shape == (2, 3, 9)
    differences = evaluation.differences['brightness']['deletion']
    means = [evaluation.scores[method]['deletion'].mean for method in ('brightness', 'attention')]
    assert (
        differences.mean == pytest.approx(means[0] - means[1], abs=1e-9) and 'attention' not in evaluation.differences
    )
    assert set(evaluation.reliance) == {'mean', 'other', 'shuffled', 'inverse', 'uniform', 'half'}
    assert 'accuracy_change' in evaluation.reliance['mean'] and not evaluation.problems


def test_files(model, tmp_path):
    evaluation = evaluated(model, tmp_path / 'out', make_samples(masks=False))
    rows = list(csv.DictReader((tmp_path / 'out' / 'scores.csv').open()))
    assert len(rows) == 2 * NUM_IMAGES and 'energy' not in rows[0]
    assert float(rows[3]['deletion']) == evaluation.rows[3]['deletion']
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['scores']['attention']['deletion']['mean'] == evaluation.scores['attention']['deletion'].mean
    assert summary['settings']['steps'] == 8 and set(summary['versions']) == {'timm', 'timm_abn', 'torch'}


def test_an_interrupted_evaluation_goes_on(model, tmp_path):
    expected = evaluated(model, tmp_path / 'whole')
    calls = []

    def counted(name, explainer):
        return lambda images, targets: calls.append(name) or explainer(images, targets)

    def dies(images, targets):
        if len(calls) >= 3:
            raise KeyboardInterrupt
        calls.append('dies')
        return explainers_of(model)['attention'](images, targets)

    own = explainers_of(model)
    with pytest.raises(KeyboardInterrupt):
        evaluated(model, tmp_path / 'out', explainers=dict(attention=dies, brightness=counted('b', own['brightness'])))
    done = sorted(path.name for path in (tmp_path / 'out' / 'parts').iterdir())
    assert done == ['000000.safetensors', '000001.safetensors'] and not (tmp_path / 'out' / 'scores.csv').exists()
    calls.clear()
    explainers = {name: counted(name, explainer) for name, explainer in own.items()}
    assert evaluated(model, tmp_path / 'out', explainers=explainers).rows == expected.rows
    assert calls == ['attention', 'brightness']  # one of the three batches was left


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(steps=9), 'holds an evaluation with steps=8, not 9: choose a new folder'),
        (dict(explainers={}), 'needs images and methods, got 11 and 0'),
        (dict(samples=[]), 'needs images and methods, got 0 and 2'),
        (dict(deletion_baseline='blur'), "deletion_baseline='mean', not 'blur'"),
    ],
)
def test_other_settings_are_refused(model, tmp_path, change, message):
    evaluated(model, tmp_path / 'out')
    with pytest.raises(TimmAbnError, match=message):
        evaluated(model, tmp_path / 'out', **change)


def test_other_weights_are_refused(model, tmp_path):
    evaluated(model, tmp_path / 'out')
    with pytest.raises(TimmAbnError, match='holds an evaluation with weights='):
        other = tiny_abn('test_resnet', mechanism='product')
        with torch.no_grad():
            next(other.parameters()).add_(1)
        evaluated(other, tmp_path / 'out')


def test_what_is_wrong_is_named_and_counted(model, tmp_path):
    def strange(images, targets):
        maps = torch.rand(len(images), 1, 4, 4)
        maps[0, 0, 0, 0] = math.nan
        maps[1] = 0.5
        return maps

    def unreadable():
        raise OSError('broken.png is cut off')

    samples = [*make_samples(3), functools.partial(make_sample, 3, masks=False), unreadable]
    evaluation = evaluated(model, tmp_path / 'out', samples, explainers=dict(strange=strange), batch_size=5)
    assert evaluation.problems == {
        'NaN or infinity in the map': 1,
        'flat map': 1,
        'no mask': 1,
        'OSError: broken.png is cut off': 1,
    }
    rows = evaluation.rows
    assert math.isnan(rows[0]['deletion']) and math.isnan(rows[1]['energy']) and math.isnan(rows[3]['energy'])
    assert not math.isnan(rows[1]['deletion']) and not math.isnan(rows[3]['insertion'])
    assert evaluation.scores['strange']['energy'].number == 1 and evaluation.scores['strange']['deletion'].number == 3


TWO = """
import sys
sys.path.insert(0, {tests!r}); sys.path.insert(0, {helpers!r})
import torch.distributed as dist
from pathlib import Path
from test_evaluation import evaluated, tiny_abn
dist.init_process_group('gloo')
result = evaluated(tiny_abn('test_resnet'), Path({folder!r}))
assert (result is None) == (dist.get_rank() == 1)
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason='PyTorch is built without distributed')
def test_two_processes_find_what_one_finds(model, tmp_path):
    here = Path(__file__).parent
    code = TWO.format(tests=str(here), helpers=str(here.parent / 'helpers'), folder=str(tmp_path / 'two'))
    (tmp_path / 'two.py').write_text(code)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    subprocess.run([*command, str(tmp_path / 'two.py')], check=True, env=environment, timeout=300)
    expected = evaluated(model, tmp_path / 'one').rows
    rows = list(csv.DictReader((tmp_path / 'two' / 'scores.csv').open()))
    assert [(row['image'], row['method']) for row in rows] == [(row['image'], row['method']) for row in expected]
    assert [float(row['deletion']) for row in rows] == pytest.approx([row['deletion'] for row in expected], abs=1e-5)
