"""Means of scores with their uncertainty: bootstrap intervals over images (Efron & Tibshirani, 1993, chapter 13)."""

from typing import NamedTuple, Sequence

import numpy as np

__all__ = ['Interval', 'bootstrap_mean']

SAMPLES = 2000


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval; all NaN of no values."""

    mean: float
    low: float
    high: float
    number: int

    def __str__(self) -> str:
        return f'{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]' if self.number else '-'


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Interval:
    """Return the mean of values, one an image, and its 95 % percentile interval.

    Images are drawn with replacement, by the same draws for each sequence of the same length and seed, so that
    intervals of several methods belong together. NaN stand for images without a score, and are left out.

    Args:
        values: One an image.
        seed: Of the draws.
    """
    present = np.asarray([value for value in values if value == value], dtype=np.float64)
    if not len(present):
        return Interval(float('nan'), float('nan'), float('nan'), 0)
    generator = np.random.default_rng(seed)
    means = [present[generator.integers(0, len(present), len(present))].mean() for _ in range(SAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(present.mean()), float(low), float(high), len(present))
