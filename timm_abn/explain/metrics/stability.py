"""Stability: do several trainings of one network give the same maps?"""

import itertools
from collections.abc import Callable, Sequence

import torch

from ...errors import TimmAbnError
from .similarity import rank_correlation, top_overlap

__all__ = ['rank_stability', 'stability']

MapsOfRuns = torch.Tensor | Sequence[torch.Tensor]


def stability(maps_of_runs: MapsOfRuns, share: float = 0.2) -> float:
    """Return how far runs agree on where to look: mean IoU of the highest 20 % of their maps, in [0, 1].

    The mean goes over all pairs of runs and all images (see ``top_overlap``). Random maps would give about 0.11.

    Args:
        maps_of_runs: Maps of the same images by each run, shape (R, B, 1, h, w), or R of (B, 1, h, w).
        share: Which part of the places is compared.

    Returns:
        Pairs in which a map is flat, or holds a NaN or an infinity, are left out (``usable_maps`` tells which); NaN if
        none is left.

    Raises:
        TimmAbnError: There are fewer than two runs, or their maps differ in shape.
    """
    return _mean_over_pairs(maps_of_runs, lambda maps, others: top_overlap(maps, others, share))


def rank_stability(maps_of_runs: MapsOfRuns) -> float:
    """Return how far runs agree on the order of places: mean rank correlation of their maps, in [-1, 1].

    Args:
        maps_of_runs: See ``stability``.

    Returns:
        See ``stability``.

    Raises:
        TimmAbnError: See ``stability``.
    """
    return _mean_over_pairs(maps_of_runs, rank_correlation)


def _mean_over_pairs(
    maps_of_runs: MapsOfRuns,
    similarity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> float:
    if len(maps_of_runs) < 2:
        raise TimmAbnError(f'maps of two or more runs are needed to compare them, got {len(maps_of_runs)}.')
    pairs = [similarity(maps, others) for maps, others in itertools.combinations(maps_of_runs, 2)]
    return torch.cat(pairs).nanmean().item()
