"""Position bias (ours): how much of the maps is the same in all images, and thus not about them."""

import torch

from .checks import check_maps, usable_maps

__all__ = ['position_bias']


def position_bias(maps: torch.Tensor) -> float:
    """Return the share of the maps' spatial variance that their mean over the images explains, in [0, 1].

        bias = Var_places(mean over images of M) / mean over images of Var_places(M)

    The spatial mean of each map does not count. With C_i, map i minus its spatial mean, and C, the mean of all C_i, the
    denominator is the numerator plus the mean of (C_i - C)^2 over images and positions. So the quotient is a share: 0
    if the maps cancel each other, 1 if they are the same up to a constant each. Maps with more contrast have more
    weight. N maps that are independent of each other and of the position give 1 / N on average, not 0: use hundreds.

    What objects have in common (they are centred) counts, and so does the network's own bias. The latter comes from
    zero
    padding: without it all positions of a constant image are alike. With the packaged model, maps of constant images
    vary by 0.133 over positions, by 0.058 if only its feature extractor replicates borders, and by 0 if all of it does;
    the position bias on Fashion-MNIST is 0.175 and 0.141.

    Args:
        maps: Shape (N, 1, h, w).

    Returns:
        NaN if all maps are flat, or one of them contains NaN or infinity.

    Raises:
        TimmAbnError: The maps have the wrong shape.
    """
    check_maps(maps, len(maps))
    if not bool(usable_maps(maps).any()) or not bool(maps.isfinite().all()):
        return float('nan')
    maps = maps.detach().flatten(1).double()
    maps = maps - maps.mean(dim=1, keepdim=True)
    return (maps.mean(dim=0).square().mean() / maps.square().mean()).item()
