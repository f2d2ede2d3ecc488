"""Rounds, medians and ratios."""

import pytest
import torch
from tiny_models import tiny_abn, tiny_backbone

from timm_abn.benchmark import measuring
from timm_abn.benchmark.measuring import Benchmark, Case, measure
from timm_abn.benchmark.modes import BenchmarkError, Mode, parse_mode
from timm_abn.benchmark.report import report, to_json

CPU = torch.device('cpu')


def case(model, seconds, num_macs, rates=(100.0, 200.0, 100.0)):
    empty = dict(num_parameters=7, weight_bytes=28, peak_bytes=2**20, logits_difference=None, map_difference=None)
    return Case(model, Mode(), (2, 3, 8, 8), num_macs=num_macs, seconds=list(seconds), rates=list(rates), **empty)


def test_figures_are_medians_of_what_a_round_holds():
    # the second round of a machine that was twice as slow, but for the matrix product
    slow, fast = case('abn', [2, 4, 2], 60), case('plain', [1, 2, 1], 40)
    assert slow.latency == 2 and slow.images_per_second == 1 and slow.gflops == pytest.approx(120e-9)
    assert slow.share_of_matrix_product == pytest.approx(60 * 2 / 2 / 100)
    assert slow.time_beside(fast) == 2
    assert slow.time_beside(fast, per_mac=True) == pytest.approx(2 * 40 / 60)


def test_the_baseline_is_that_of_the_same_mode_and_shape():
    mine, plain = case('abn', [2], 60), case('plain', [1], 40)
    other = case('plain', [9], 40)
    other.mode = parse_mode('bf16')
    benchmark = Benchmark([mine, other, plain], {}, {}, 'plain', False, {})
    assert benchmark.baseline_of(mine) is plain
    assert benchmark.baseline_of(plain) is None
    other.mode, other.shape = Mode(), (4, 3, 8, 8)
    assert Benchmark([mine, other], {}, {}, 'plain', False, {}).baseline_of(mine) is None


@pytest.fixture
def order(monkeypatch):
    """Make products small, and return the order in which what is timed runs."""
    monkeypatch.setattr('timm_abn.benchmark.machine._SIZE', 16)
    monkeypatch.setattr(measuring, 'SECONDS_OF_A_SAMPLE', 0)
    runs = []
    monkeypatch.setattr(measuring, 'timed', lambda run, device, repeats=1: runs.append(run) or 1.0)
    return runs


@pytest.mark.parametrize('training', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_case_runs_once_a_round(order, training):
    models = {'abn': tiny_abn('test_resnet'), 'plain': tiny_backbone('test_resnet').eval()}
    modes = [parse_mode(name) for name in ('eager', 'tf32', 'channels_last')]
    benchmark = measure(
        models, modes, CPU, batch_sizes=[1, 2], img_sizes=[64], rounds=3, training=training, baseline='plain'
    )
    assert benchmark.skipped == {'tf32': 'TF32 takes a GPU of compute capability 8.0 or higher'}
    found = [(case.mode.name, case.shape[0], case.model) for case in benchmark.cases]
    expected = [(m, b, name) for m in ('eager', 'channels_last') for b in (1, 2) for name in ('abn', 'plain')]
    assert found == expected  # what is compared runs side by side
    assert all(len(case.seconds) == len(case.rates) == 3 for case in benchmark.cases)
    timed = order[len(expected) :]  # the first tell how often to repeat
    rounds = [timed[i : i + 9] for i in range(1, len(timed), 9)]
    assert len(rounds) == 3 and all(len(set(runs)) == 9 for runs in rounds)
    assert len({runs[1] for runs in rounds}) == 3  # each round begins elsewhere
    for case in benchmark.cases:
        assert case.num_macs > 0 and case.peak_bytes > case.weight_bytes > 4 * case.num_parameters
        assert (case.map_difference is None) == (training or case.model == 'plain')
        assert (case.logits_difference is None) == training
    assert all(case.share_of_matrix_product == case.num_macs * case.shape[0] / 16**3 for case in benchmark.cases)

    text, data = report(benchmark), to_json(benchmark)
    assert 'skipped tf32: TF32 takes a GPU' in text and text.count('1.00x') >= 4
    assert ('map +-' in text) != training
    assert data['work'] == ('training step' if training else 'explanation')
    assert [entry['time_of_baseline'] for entry in data['cases']] == [1.0, None] * 4
    assert data['cases'][0]['shape'] == [1, 3, 64, 64]


def test_what_cannot_be_compiled_is_skipped(order, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError('no compiler. Read the manual')

    monkeypatch.setattr(torch, 'compile', lambda function, **kwargs: broken)
    models = {'tiny': tiny_abn('test_resnet')}
    benchmark = measure(models, [Mode(), parse_mode('compile')], CPU, [1], [64], rounds=1)
    assert [case.mode.name for case in benchmark.cases] == ['eager']
    assert benchmark.skipped == {'compile of tiny': 'no compiler'}
    with pytest.raises(BenchmarkError, match='^no mode can be measured: compile of tiny: no compiler$'):
        measure(models, [parse_mode('compile')], CPU, [1], [64], rounds=1)


def test_out_of_memory_is_one_line(order, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError('full')

    monkeypatch.setattr(measuring, 'peak_memory', full)
    with pytest.raises(BenchmarkError, match='^out of memory; try a smaller --batch-size'):
        measure({'tiny': tiny_abn('test_resnet')}, [Mode()], CPU, [1], [64], rounds=1)
