"""Sparseness: is a map a few places, or everywhere?"""

import torch

from .checks import check_maps

__all__ = ['sparseness']


def sparseness(maps: torch.Tensor) -> torch.Tensor:
    """Return the Gini index of the absolute values of maps, shape (B,), in [0, 1), float64.

        G = sum over i of (2 i - n - 1) |M|_(i) / (n * sum of |M|),   |M|_(1) <= ... <= |M|_(n)

    0: the same everywhere, which is right for a flat map; 1 - 1 / n: one place holds all. It is taken at the maps' own
    resolution. Chalasani et al., "Concise Explanations of Neural Networks using Adversarial Training", ICML 2020,
    section 2; the formula is that of Quantus 0.6, which first adds 1e-7 to all values.

    Args:
        maps: Shape (B, 1, h, w).

    Returns:
        NaN where a map is 0 everywhere, or holds a NaN or an infinity.

    Raises:
        TimmAbnError: The maps have the wrong shape.
    """
    check_maps(maps, len(maps))
    values = maps.detach().flatten(1).double().abs().sort(dim=1).values
    count = values.shape[1]
    weights = 2 * torch.arange(1, count + 1, dtype=values.dtype, device=values.device) - count - 1
    return (weights * values).sum(dim=1) / (count * values.sum(dim=1))
