"""The mean map of other images, against a plain loop over maps; and what follows class by class."""

import math

import pytest
import torch

from timm_abn.explain.evaluation.classes import OTHERS, contradictions, only_class, split_by_class, verdicts
from timm_abn.explain.evaluation.controls import MeanMaps
from timm_abn.explain.statistics import Interval, bootstrap_mean

CLASSES = [0] * 8 + [1] * 4  # of an image of class 1 there are three others


def make_maps():
    maps = torch.randn(12, 1, 3, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 13.0).view(
        -1, 1, 1, 1
    )
    maps[2] = 0.5
    maps[9, 0, 0, 0] = math.nan
    return maps


def mean_of_others(maps, index):
    same = [i for i in range(12) if i != index and CLASSES[i] == CLASSES[index] and i not in (2, 9)]
    others = same if len(same) >= 5 else [i for i in range(12) if i != index and i not in (2, 9)]
    total = 0
    for other in others:
        one_map = maps[other].double()
        total = total + (one_map - one_map.mean()) / one_map.std(correction=0)
    return total / len(others), len(same) < 5


def test_mean_maps_are_those_of_others():
    maps, controls = make_maps(), MeanMaps()
    for batch in (slice(0, 5), slice(5, 12)):
        controls.add(maps[batch], CLASSES[batch])
    for batch in (slice(0, 7), slice(7, 12)):
        found, of_all = controls.of_others(maps[batch], CLASSES[batch])
        for index, one_map, is_of_all in zip(range(12)[batch], found, of_all):
            expected, few = mean_of_others(maps, index)
            torch.testing.assert_close(one_map, expected, rtol=0, atol=1e-12)
            assert is_of_all == few == (index > 7)


def test_the_only_map_has_no_others():
    controls = MeanMaps()
    controls.add(make_maps()[:1], [0])
    found, of_all = controls.of_others(make_maps()[:1], [0])
    assert found.isnan().all() and of_all == [True]


def rows_of(gains, above=0.0):
    """Return a row for each gain, by class; intervals of gains that differ by little hold their mean."""
    rows = []
    for index, values in gains.items():
        for place, gain in enumerate(values):
            scores = dict(symmetric_relevance_gain=gain, above_mean_map=gain - above)
            rows.append(dict(image=f'{index}/{place}', target=index, **scores))
    return rows


def spread(mean, number=12):
    return [mean + 0.01 * (-1) ** place for place in range(number)]


def test_split_by_class():
    rows = rows_of({3: spread(0.4), 1: spread(-0.2, 10), 0: spread(0.1, 9), 2: spread(0.3, 3)})
    found = split_by_class(rows, seed=0)
    assert list(found) == [1, 3, OTHERS]
    assert found[3]['symmetric_relevance_gain'] == bootstrap_mean(spread(0.4), 0)
    assert found[OTHERS]['above_mean_map'] == bootstrap_mean([*spread(0.1, 9), *spread(0.3, 3)], 0)


@pytest.mark.parametrize(
    ('gains', 'only'),
    [
        ({0: spread(0.2), 1: spread(0.0), 2: spread(-0.1)}, 0),
        ({0: spread(0.2), 1: spread(0.1)}, None),
        ({0: spread(0.0), 1: spread(0.0)}, None),
        ({0: spread(0.2), 1: spread(0.0, 9)}, None),  # nothing is known of others
    ],
)
def test_only_class(gains, only):
    assert only_class(split_by_class(rows_of(gains), seed=0)) == only


def test_verdicts_and_contradictions():
    by_method = dict(
        attention=rows_of({0: spread(0.5), 1: spread(0.1)}, above=0.1),
        grad_cam=rows_of({0: spread(0.4), 1: spread(0.3)}, above=0.1),
        noise=rows_of({0: spread(0.0), 1: spread(0.0)}),
        random=rows_of({0: spread(0.3), 1: spread(0.45)}),
    )
    by_class = {method: split_by_class(rows, 0) for method, rows in by_method.items()}
    scores = {
        method: dict(
            classes_alike=Interval(math.nan, math.nan, math.nan, 0),
            **{
                name: bootstrap_mean([row[name] for row in rows])
                for name in ('symmetric_relevance_gain', 'above_mean_map')
            },
        )
        for method, rows in by_method.items()
    }
    names, settings = ['works', 'broken'], dict(layers=dict(grad_cam='layer4'), seed=0)
    found = verdicts(by_method, scores, by_class, settings, names)
    assert list(found) == ['attention', 'grad_cam', 'noise']
    assert 'for works alone' in found['attention'] and found['noise'].startswith('not above random')
    assert found['grad_cam'].startswith('above the mean map of its class by 0.25')
    both = verdicts(by_method, scores, dict(by_class, attention={}), settings, names)
    assert both['attention'].startswith(
        'above the mean map of its class, not told apart from Grad-CAM at layer4: -0.05 ['
    )
    for row in by_method['attention']:
        row['mean_map_of_all'] = True
    assert 'above the mean map of other images' in verdicts(by_method, scores, by_class, settings, names)['attention']
    assert contradictions(by_method, scores, names, 0) == [
        'attention or grad_cam: this depends on the class: SRG differs by 0.100 [0.100, 0.100] for works (12 images), '
        'by -0.200 [-0.200, -0.200] for broken (12)'
    ]
