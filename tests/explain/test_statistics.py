"""Bootstrap intervals against what is known of means."""

import math

import numpy as np
import pytest

from timm_abn.explain.statistics import bootstrap_mean


def test_interval_is_that_of_a_normal_distribution_for_many_values():
    values = np.random.default_rng(1).normal(3, 2, 5000)
    interval = bootstrap_mean(values)
    error = 1.96 * values.std() / 5000**0.5
    assert interval.mean == pytest.approx(values.mean(), abs=1e-12) and interval.number == 5000
    assert interval.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + error, abs=0.1 * error)


@pytest.mark.slow  # two hundred intervals
def test_coverage_of_small_samples():
    random = np.random.default_rng(0)
    intervals = [bootstrap_mean(random.normal(0, 1, 30), seed) for seed in range(200)]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.88 <= covered <= 0.98


def test_values_without_a_score_are_left_out():
    assert bootstrap_mean([1.0, math.nan, 3.0]).mean == 2 and bootstrap_mean([1.0, math.nan, 3.0]).number == 2
    empty = bootstrap_mean([math.nan])
    assert math.isnan(empty.mean) and empty.number == 0 and str(empty) == '-'
    assert bootstrap_mean([5.0]) == (5, 5, 5, 1) and str(bootstrap_mean([5.0])) == '5.000 [5.000, 5.000]'


def test_equal_draws_for_equal_seeds():
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_mean(values, 1) == bootstrap_mean(values, 1) != bootstrap_mean(values, 2)
