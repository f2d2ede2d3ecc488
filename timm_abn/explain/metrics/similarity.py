"""How similar two maps of an image are: by the ranks of their positions, and by their highest positions."""

import torch

from ...errors import TimmAbnError
from .checks import usable_maps
from .replacement import rank_places

__all__ = ['rank_correlation', 'top_overlap']


def rank_correlation(maps: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return Spearman's rank correlation of pairs of maps, shape (B,), in [-1, 1], float64.

        rho = corr(rank(M), rank(M')),   equal values share the mean of their ranks

    Args:
        maps: Shape (B, 1, h, w).
        others: The same shape.

    Returns:
        NaN if either map is flat, or contains NaN or infinity.

    Raises:
        TimmAbnError: Shapes differ.
    """
    usable = _usable_pairs(maps, others)
    ranks, other_ranks = (_mean_ranks(values.detach().flatten(1).double()) for values in (maps, others))
    products = (ranks * other_ranks).sum(dim=1)
    norms = ranks.square().sum(dim=1).sqrt() * other_ranks.square().sum(dim=1).sqrt()
    return (products / norms).masked_fill(~usable, float('nan'))


def top_overlap(maps: torch.Tensor, others: torch.Tensor, share: float = 0.2) -> torch.Tensor:
    """Return the intersection over union of the highest positions of pairs of maps, shape (B,), in [0, 1], float64.

        IoU = |top(M) and top(M')| / |top(M) or top(M')|,   top: the round(share * h * w) highest, at least one

    Args:
        maps: Shape (B, 1, h, w). Among equal values the first count.
        others: The same shape.
        share: Share of the positions to compare. Two random maps have an IoU of about s / (2 - s) at share s.

    Returns:
        NaN if either map is flat, or contains NaN or infinity.

    Raises:
        TimmAbnError: Shapes differ, or ``share`` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise TimmAbnError(f'share must be in (0, 1], got {share}.')
    usable = _usable_pairs(maps, others)
    places = maps.shape[2] * maps.shape[3]
    count = max(round(share * places), 1)
    top, other_top = (rank_places(values.detach().flatten(1)) < count for values in (maps, others))
    overlaps = (top & other_top).sum(dim=1).double() / (top | other_top).sum(dim=1)
    return overlaps.masked_fill(~usable, float('nan'))


def _usable_pairs(maps: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    if maps.shape != others.shape or maps.ndim != 4:
        raise TimmAbnError(
            f'maps that are compared must have the same shape (B, 1, h, w), got {tuple(maps.shape)} and '
            f'{tuple(others.shape)}.'
        )
    return usable_maps(maps) & usable_maps(others)


def _mean_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return ranks from 1, those of equal values replaced by their mean, less the mean of all."""
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values, right=False)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to + 1).double() / 2 - (values.shape[1] + 1) / 2
