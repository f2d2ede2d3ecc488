"""Rows that are made once, and tables of them."""

import math

import pytest
from own_scripts import load_script

from timm_abn.errors import TimmAbnError


@pytest.fixture
def results():
    return load_script('experiments/results')


def test_rows_are_made_once_and_not_mixed_with_those_of_other_settings(results, tmp_path):
    path, made = tmp_path / 'new' / 'rows.json', []

    def make():
        made.append(1)
        return results.as_rows(dict(deletion=[0.1, 0.2], insertion=[0.3, 0.4]), method='x')

    rows = results.once(path, dict(steps=4), make)
    assert rows == [
        dict(method='x', image=0, deletion=0.1, insertion=0.3),
        dict(method='x', image=1, deletion=0.2, insertion=0.4),
    ]
    assert results.once(path, dict(steps=4), make) == rows and len(made) == 1
    with pytest.raises(TimmAbnError, match='of a run with other settings'):
        results.once(path, dict(steps=5), make)


def test_means_of_seeds(results):
    rows = [dict(seed=0, top1=1.0), dict(seed=1, top1=0.0), dict(seed=0, top1=0.5), dict(seed=1, top1=math.nan)]
    assert results.means(rows, 'top1', of='seed') == {0: 0.75, 1: 0.0}
    assert results.spread([1.0, 3.0], 1) == '2.0 ± 1.4' and results.spread([2.0]) == '2.000'
    assert results.spread([]) == results.deviation([1.0]) == ''
