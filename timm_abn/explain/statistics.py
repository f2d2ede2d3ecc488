"""Means of scores with their uncertainty: bootstrap intervals over images (Efron & Tibshirani, 1993, chapter 13)."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ['Interval', 'bootstrap_mean']

SAMPLES = 2000
AT_ONCE = 10**6  # numbers drawn


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval; all NaN of no values."""

    mean: float
    low: float
    high: float
    number: int

    def __str__(self) -> str:
        return f'{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]' if self.number else '-'


def bootstrap_mean(values: Sequence[float], seed: int = 0, groups: Sequence[Hashable] | None = None) -> Interval:
    """Return the mean of values and its 95 % percentile interval.

    Groups are drawn with replacement, each with all of its values, by the same draws for each sequence with as many
    groups and the same seed, so that intervals of several methods belong together. NaN stand for what has no score, and
    are left out.

    Args:
        values: Of images, or of several things per image, such as its tasks or the mosaics that show it.
        seed: Of the draws.
        groups: What each value is of, such as the name of the image; by default each is of an image of its own.
    """
    present = np.asarray([value for value in values if value == value], dtype=np.float64)
    if not len(present):
        return Interval(float('nan'), float('nan'), float('nan'), 0)
    sums: np.ndarray = present
    counts: np.ndarray = np.ones(len(present))
    if groups is not None:
        own = [group for group, value in zip(groups, values, strict=True) if value == value]
        numbers = {group: number for number, group in enumerate(dict.fromkeys(own))}
        indices = [numbers[group] for group in own]
        sums, counts = np.bincount(indices, present), np.bincount(indices)
    generator = np.random.default_rng(seed)
    at_once = max(AT_ONCE // len(sums), 1)
    sizes = [min(at_once, SAMPLES - start) for start in range(0, SAMPLES, at_once)]
    draws = (generator.integers(0, len(sums), (size, len(sums))) for size in sizes)
    means = np.concatenate([sums[draw].sum(axis=1) / counts[draw].sum(axis=1) for draw in draws])
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(present.mean()), float(low), float(high), len(present))
