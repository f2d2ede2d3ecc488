"""Evaluations: what is written, how an interrupted one goes on, and what several processes make of it."""

import csv
import dataclasses
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_abn

from timm_abn import TimmAbnError
from timm_abn.data.samples import Sample
from timm_abn.explain.evaluation import evaluate, join_evaluations
from timm_abn.explain.evaluation.batches import score_batch
from timm_abn.explain.evaluation.controls import MeanMaps
from timm_abn.explain.metrics import (
    deletion,
    energy,
    insertion,
    pointing_game,
    position_bias,
    predict,
    random_head,
    rank_correlation,
    reliance,
    symmetric_relevance_gain,
)
from timm_abn.explain.metrics.accuracy import uneven_scores
from timm_abn.explain.statistics import bootstrap_mean
from timm_abn.records import Record, set_record

SIZE = (32, 32)
NUM_IMAGES = 11
ROOT = Path(__file__).parents[3]


def make_sample(index, masks=True):
    generator = torch.Generator().manual_seed(index)
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[: 4 + index, :10] = True
    return Sample(
        f'image{index}.png', torch.randn(3, *SIZE, generator=generator), label=index % 5, mask=mask if masks else None
    )


def make_samples(count=NUM_IMAGES, **kwargs):
    return [make_sample(index, **kwargs) for index in range(count)]


def explainers_of(model):
    def attention(images, targets):
        return model.explain(images).attention_map

    def brightness(images, targets):
        return images.mean(dim=1, keepdim=True)

    return dict(attention=attention, brightness=brightness)


@pytest.fixture(scope='module')
def model():
    return tiny_abn('test_resnet')


def evaluated(model, folder, samples=None, **kwargs):
    kwargs = {'steps': 8, 'batch_size': 4, 'explainers': explainers_of(model), **kwargs}
    explainers = kwargs.pop('explainers')
    return evaluate(model, make_samples() if samples is None else samples, explainers, folder, **kwargs)


@pytest.fixture(scope='module')
def whole(model, tmp_path_factory):
    return evaluated(model, tmp_path_factory.mktemp('whole'))


def test_rows_are_the_metrics_of_each_image(model, whole):
    evaluation = whole
    samples = make_samples()
    images = torch.stack([sample.image for sample in samples])
    masks = torch.stack([sample.mask for sample in samples])[:, None]
    with torch.no_grad():
        targets = model(images).argmax(dim=1)
    assert list(evaluation.scores) == ['attention', 'brightness', 'random', 'centre']
    others = predict(model, images, 4).scatter(1, targets[:, None], -1).argmax(dim=1)
    for method, explainer in explainers_of(model).items():
        # in the same batches: rounding decides the order of equal places
        batches = list(zip(images.split(4), targets.split(4)))
        maps = torch.cat([explainer(*batch) for batch in batches])
        controls = MeanMaps()
        controls.add(maps, targets.tolist())
        mean_maps, of_all = controls.of_others(maps, targets.tolist())
        gain = symmetric_relevance_gain(model, images, maps, steps=8)
        control = symmetric_relevance_gain(model, images, mean_maps.float(), steps=8)
        with random_head(model, seed=0):
            randomised = torch.cat([explainer(*batch) for batch in batches])
        rows = [row for row in evaluation.rows if row['method'] == method]
        assert [row['image'] for row in rows] == [sample.name for sample in samples]
        assert [row['predicted'] for row in rows] == targets.tolist()
        for name, expected in (
            ('deletion', deletion(model, images, maps, steps=8)),
            ('insertion', insertion(model, images, maps, steps=8)),
            ('symmetric_relevance_gain', gain),
            ('above_mean_map', gain - control),
            ('classes_alike', rank_correlation(maps, explainer(images, others))),
            ('randomised', rank_correlation(maps, randomised)),
            ('energy', energy(maps, masks)),
            ('pointing_game', pointing_game(maps, masks)),
        ):
            found = torch.tensor([row[name] for row in rows])
            torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
            assert evaluation.scores[method][name].mean == pytest.approx(expected.mean().item(), abs=1e-5)
        assert evaluation.position_bias[method] == pytest.approx(position_bias(maps), abs=1e-6)
        assert evaluation.curves[method].shape == (2, 3, 9)
        assert [row['mean_map_of_all'] for row in rows] == of_all
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
    assert len(rows) == 4 * NUM_IMAGES and 'energy' not in rows[0]
    assert float(rows[3]['above_mean_map']) == evaluation.rows[3]['above_mean_map']
    assert float(rows[3]['deletion']) == evaluation.rows[3]['deletion']
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['scores']['attention']['deletion']['mean'] == evaluation.scores['attention']['deletion'].mean
    assert summary['verdicts'] == evaluation.verdicts and set(summary['verdicts']) == {'attention', 'brightness'}
    assert summary['by_class']['attention'] and summary['settings']['layers']['attention'] == ''
    assert summary['settings']['steps'] == 8 and set(summary['versions']) == {'timm', 'timm_abn', 'torch'}


class Interrupted(list):
    """Samples of which one ends the process while it is read."""

    def __getitem__(self, index):
        if index == 8:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def interrupted_after(batches):
    counter = itertools.count()

    def scored(*args):
        if next(counter) == batches:
            raise KeyboardInterrupt
        return score_batch(*args)

    return scored


def test_an_interrupted_evaluation_goes_on(model, whole, tmp_path, monkeypatch):
    calls = []

    def counted(name, explainer):
        return lambda images, targets: calls.append(name) or explainer(images, targets)

    explainers = {name: counted(name, explainer) for name, explainer in explainers_of(model).items()}
    with pytest.raises(KeyboardInterrupt):
        evaluated(model, tmp_path / 'out', Interrupted(make_samples()), explainers=explainers)
    done = sorted(path.name for path in (tmp_path / 'out' / 'maps').iterdir())
    assert done == ['000000.safetensors', '000001.safetensors'] and not (tmp_path / 'out' / 'scores.csv').exists()
    calls.clear()
    # one of the three batches was left: its maps, those of another class, and of another head
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('timm_abn.explain.evaluation.running.score_batch', interrupted_after(1))
        evaluated(model, tmp_path / 'out', explainers=explainers)
    assert sorted(calls) == ['attention'] * 3 + ['brightness'] * 3
    assert len(list((tmp_path / 'out' / 'curves').iterdir())) == 1
    calls.clear()
    assert words(evaluated(model, tmp_path / 'out', explainers=explainers).rows) == words(whole.rows)
    assert calls == []  # no map is made again


def words(value):
    """Return what NaN equals NaN in."""
    return json.dumps(value)


def half(side):
    def mine(images, targets):
        maps = torch.linspace(0, 1, 8).expand(len(images), 1, 8, 8)
        return maps.flip(-1) if side == 'left' else maps

    return dict(mine=mine)


def small(model, folder, samples=None, **kwargs):
    samples = make_samples(5) if samples is None else samples
    return evaluated(
        model, folder, samples, **{'explainers': half('left'), 'steps': 2, 'data': 'dir=mine, seed=1', **kwargs}
    )


@pytest.fixture(scope='module')
def finished(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp('finished')
    return folder, small(model, folder)


def changed(**change):
    first, *others = make_samples(5)
    return dict(samples=[dataclasses.replace(first, **change), *others])


def test_a_finished_evaluation_is_shown_again(model, finished, caplog):
    folder, before = finished
    again = small(tiny_abn('test_resnet'), folder)
    assert words(again.scores) == words(before.scores) and words(again.rows) == words(before.rows)
    (said,) = caplog.messages
    assert f'{folder} holds this evaluation, of 2' in said and said.endswith('it is shown again')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(explainers=half('right')), 'holds an evaluation with other code of the method mine'),
        (dict(explainers=dict(mine=lambda images, targets: images[:, :1])), 'other code of the method mine'),
        (
            changed(image=torch.zeros(3, *SIZE)),
            r'an evaluation from before image0.png changed \(1 differ\): choose a new folder',
        ),
        (changed(mask=torch.ones(SIZE, dtype=torch.bool)), 'from before image0.png changed'),
        (changed(label=3), 'from before image0.png changed'),
        (dict(samples=make_samples(5)[::-1]), 'from before image4.png changed'),
        (dict(samples=make_samples(4)), 'images=5, not 4'),
        (dict(steps=3), 'holds an evaluation with steps=2, not 3: choose a new folder'),
        (dict(baseline='blur'), "baseline='mean', not 'blur'"),
        (dict(grid=2), 'grid=None, not 2'),
        (dict(num_classes=6), 'other weights'),
        (dict(mechanism='product'), 'a network with other arguments'),
        (dict(pretrained_cfg_overlay=dict(crop_pct=0.5)), 'preparation.crop_pct='),
        (dict(record=Record('sigmoid')), "probabilities='softmax', not 'sigmoid'"),
        (dict(data='dir=x, seed=1'), "holds an evaluation with data='dir=mine', not 'dir=x': choose a new folder"),
    ],
)
def test_only_what_is_of_the_same_is_used_again(finished, change, message):
    of_call = ('samples', 'explainers', 'steps', 'baseline', 'data', 'grid')
    arguments = {key: change[key] for key in of_call if key in change}
    others = {key: value for key, value in change.items() if key not in (*of_call, 'record')}
    model = tiny_abn('test_resnet', **others)
    set_record(model, change.get('record', Record()))
    before = (finished[0] / 'scores.csv').read_bytes()
    with pytest.raises(TimmAbnError, match=message):
        small(model, finished[0], **arguments)
    assert (finished[0] / 'scores.csv').read_bytes() == before


@pytest.mark.parametrize(
    ('file', 'content'),
    [('settings.json', b''), ('maps/000001.safetensors', b''), ('curves/000001.safetensors', b'\0' * 400)],
)
def test_a_damaged_file_is_made_again(model, finished, tmp_path, file, content):
    shutil.copytree(finished[0], tmp_path / 'out')
    (tmp_path / 'out' / file).write_bytes(content)
    assert words(small(model, tmp_path / 'out').rows) == words(finished[1].rows)
    assert (tmp_path / 'out' / file).stat().st_size > 400
    if file == 'settings.json':  # nor is anything used that is of other settings
        (tmp_path / 'out' / file).write_bytes(content)
        assert words(small(model, tmp_path / 'out', explainers=half('right')).rows) != words(finished[1].rows)


def test_what_cannot_be_known_is_not_used_again(model, tmp_path, caplog):
    lock, calls = threading.Lock(), []

    def unknown(images, targets):
        with lock:
            calls.append(len(images))
        return images[:, :1]

    for _ in range(2):
        small(model, tmp_path / 'out', explainers=dict(unknown=unknown))
    assert calls == [4, 4, 4, 1, 1, 1] * 2
    assert caplog.messages == [f'the code of unknown cannot be known: nothing in {tmp_path / "out"} is used again']


def test_a_network_that_predicts_nan_is_refused(tmp_path):
    model = tiny_abn('test_resnet')
    with torch.no_grad():
        model.get_classifier().bias[0] = math.nan
    with pytest.raises(TimmAbnError, match='predicts NaN or infinity for 4 of 4 images: its weights hold some'):
        evaluated(model, tmp_path / 'out')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(explainers={}), 'needs images and methods, got 11 and 0'),
        (dict(samples=[]), 'needs images and methods, got 0 and 2'),
    ],
)
def test_nothing_to_evaluate_is_refused(model, tmp_path, change, message):
    with pytest.raises(TimmAbnError, match=message):
        evaluated(model, tmp_path / 'out', **change)


def test_what_is_wrong_is_named_and_counted(model, tmp_path):
    def strange(images, targets):
        maps = torch.rand(len(images), 1, 4, 4)
        maps[0, 0, 0, 0] = math.nan
        maps[1] = 0.5
        return maps

    class WithABrokenOne(list):
        def __getitem__(self, index):
            if index == 4:
                raise OSError('broken.png is cut off')
            return super().__getitem__(index)

    samples = WithABrokenOne([*make_samples(3), make_sample(3, masks=False), None])
    evaluation = evaluated(model, tmp_path / 'out', samples, explainers=dict(strange=strange), batch_size=5)
    assert evaluation.problems == {
        'NaN or infinity in the map': 1,
        'flat map': 1,
        'no mask': 3,  # of three methods
        'OSError: broken.png is cut off': 1,
    }
    rows = evaluation.rows[:4]
    assert math.isnan(rows[0]['deletion']) and math.isnan(rows[1]['energy']) and math.isnan(rows[3]['energy'])
    assert not math.isnan(rows[1]['deletion']) and not math.isnan(rows[3]['insertion'])
    assert evaluation.scores['strange']['energy'].number == 1 and evaluation.scores['strange']['deletion'].number == 3


TWO = """
import json, sys
sys.path.insert(0, {tests!r}); sys.path.insert(0, {helpers!r})
import torch.distributed as dist
from pathlib import Path
from test_running import evaluated, tiny_abn
dist.init_process_group('gloo')
for folder in (Path({folder!r}), None):
    result = evaluated(tiny_abn('test_resnet'), folder, data='mine')
    assert (result is None) == (dist.get_rank() == 1)
if result:  # without a folder
    rows = [[row['image'], row['method'], row['deletion']] for row in result.rows]
    Path({folder!r}, 'rows.json').write_text(json.dumps(dict(rows=rows, data=result.settings['data'])))
dist.destroy_process_group()
"""


@pytest.mark.nightly
@pytest.mark.skipif(not torch.distributed.is_available(), reason='PyTorch is built without distributed')
def test_two_processes_find_what_one_finds(whole, tmp_path):
    here = Path(__file__).parent
    code = TWO.format(tests=str(here), helpers=str(here.parents[1] / 'helpers'), folder=str(tmp_path / 'two'))
    (tmp_path / 'two.py').write_text(code)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
    subprocess.run([*command, str(tmp_path / 'two.py')], check=True, env=environment, timeout=300)
    expected = whole.rows
    rows = list(csv.DictReader((tmp_path / 'two' / 'scores.csv').open()))
    assert [(row['image'], row['method']) for row in rows] == [(row['image'], row['method']) for row in expected]
    assert [float(row['deletion']) for row in rows] == pytest.approx([row['deletion'] for row in expected], abs=1e-5)
    found = json.loads((tmp_path / 'two' / 'rows.json').read_text())
    assert found['data'] == 'mine'
    assert found['rows'] == [[row['image'], row['method'], float(row['deletion'])] for row in rows]


def test_accuracy_reliance_and_classes_are_of_all_images(model, tmp_path):
    blind = [dataclasses.replace(sample, label=None) for sample in make_samples(4, masks=False)]
    samples = [*make_samples(8, masks=False), *blind]
    evaluation = evaluated(model, tmp_path / 'out', samples)
    images = torch.stack([sample.image for sample in samples])
    labels = torch.tensor([index % 5 for index in range(8)])
    with torch.no_grad():
        right = model(images[:8]).argmax(dim=1) == labels
    assert evaluation.accuracy.mean == pytest.approx(right.float().mean().item()) and evaluation.accuracy.number == 8
    assert evaluation.classes_without_examples == []
    with torch.no_grad():
        of_labelled = model(images[:8]).softmax(dim=1)
    assert evaluation.uneven == pytest.approx(uneven_scores(labels.tolist(), of_labelled), abs=1e-6)
    assert set(evaluation.uneven) == {'balanced_accuracy', 'area_under_roc'}  # two of a class, or one
    found = [reliance(model, batch, batch_size=4, seed=0) for batch in images.split(4)]
    for name in ('mean', 'other', 'shuffled', 'inverse', 'uniform', 'half'):
        expected = sum(row[name].effect for row in found) / 3
        assert evaluation.reliance[name]['effect'].mean == pytest.approx(expected, rel=1e-4)
        assert evaluation.reliance[name]['effect'].number == 12
        assert evaluation.reliance[name]['accuracy_change'].number == 8
    only = evaluated(model, tmp_path / 'three', make_samples(3, masks=False))
    assert only.classes_without_examples == [3, 4]


def test_a_cancelled_map_is_found(tmp_path):
    model = tiny_abn('test_resnet')
    with torch.no_grad():
        model.get_classifier().weight.zero_()
    # features of a ReLU that are all dead do not know of any map
    model.forward_features = types.MethodType(lambda self, x, attention=None: torch.ones(len(x), 96, 2, 2), model)
    evaluation = evaluated(model, tmp_path / 'out', make_samples(4))
    assert len(evaluation.findings) == 1 and 'ignores the attention map' in evaluation.findings[0]


def test_targets_of_samples_are_explained(tmp_path):
    network = tiny_abn('test_resnet', num_classes=3, multi_task=True)
    pairs = [(index, target) for index in range(3) for target in (2, 0)]
    samples = [dataclasses.replace(make_sample(index), label=None, target=target) for index, target in pairs]
    evaluation = evaluated(network, tmp_path / 'out', samples, explainers=['attention'], batch_size=4)
    images = torch.stack([make_sample(index).image for index, _ in pairs])
    masks = torch.stack([make_sample(index).mask for index, _ in pairs])[:, None]
    targets = torch.tensor([target for _, target in pairs])
    explanation = network.explain(images)
    maps = explanation.attention_map[torch.arange(6), targets][:, None]
    rows = evaluation.rows[:4] + evaluation.rows[12:14]  # of attention, of both batches
    assert [row['target'] for row in rows] == targets.tolist()
    expected = energy(maps, masks)
    assert [row['energy'] for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)
    probabilities = explanation.logits.sigmoid()[torch.arange(6), targets]
    assert [row['probability'] for row in rows] == pytest.approx(probabilities.tolist(), abs=1e-5)
    assert set(evaluation.targets['attention']) == {0, 2}
    assert evaluation.targets['attention'][2]['energy'].mean == pytest.approx(expected[::2].mean().item(), abs=1e-5)
    # three images with two rows each: intervals come from drawing images
    row = evaluation.scores['attention']['energy']
    assert row.number == 6
    assert row.low == pytest.approx(bootstrap_mean(expected.tolist(), 0, [0, 0, 1, 1, 2, 2]).low, abs=1e-5)


def test_masks_in_some_batches_only(model, tmp_path):
    samples = [*make_samples(4, masks=False), *make_samples(4)]
    evaluation = evaluated(model, tmp_path / 'out', samples)
    assert evaluation.problems['no mask'] == 16 and evaluation.scores['attention']['energy'].number == 4
    header, *lines = (tmp_path / 'out' / 'scores.csv').read_text().splitlines()
    assert {line.count(',') for line in lines} == {header.count(',')} and header.endswith('mean_map_of_all,problem')


def test_nothing_is_written_without_a_folder(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluation = evaluate(model, make_samples(2), ['attention', 'centre'], steps=4, data='two images')
    assert list(evaluation.scores) == ['attention', 'centre', 'random'] and not list(tmp_path.iterdir())
    assert evaluation.settings['data'] == 'two images'


def test_what_a_killed_process_left_is_removed(model, finished):
    for folder in (finished[0], finished[0] / 'maps'):
        (folder / '.timm-abn-partial-x').mkdir()
        (folder / '.timm-abn-partial-x' / '000000.safetensors').write_text('half')
    small(model, finished[0])
    assert not list(finished[0].rglob('.*'))


def test_baseline_is_paired_by_image(whole, tmp_path):
    other, own = tiny_abn('test_resnet', mechanism='product'), whole
    baseline = evaluated(other, tmp_path / 'other', explainers=['grad_cam'])
    joined = join_evaluations(own, 'plain', baseline)
    names = [*own.scores, 'plain: grad_cam', 'plain: random', 'plain: centre']
    assert list(joined.scores) == names == list(joined.curves) == list(joined.settings['layers'])
    assert list(joined.verdicts) == ['attention', 'brightness', 'plain: grad_cam'] == list(joined.by_class)
    first = [row['deletion'] for row in own.rows if row['method'] == 'attention']
    of_grad_cam = [row['deletion'] for row in baseline.rows if row['method'] == 'grad_cam']
    differences = [value - other for value, other in zip(of_grad_cam, first, strict=True)]
    expected = bootstrap_mean(differences, 0)
    assert joined.differences['plain: grad_cam']['deletion'] == expected
    assert len(joined.rows) == 7 * NUM_IMAGES and joined.rows[-1]['method'] == 'plain: centre'
    fewer = evaluated(other, tmp_path / 'fewer', make_samples(5), explainers=['grad_cam'])
    with pytest.raises(TimmAbnError, match='for different images'):
        join_evaluations(own, 'plain', fewer)
