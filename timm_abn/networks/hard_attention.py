"""Hard attention: maps that keep their greatest values only, so that nothing elsewhere passes the gate."""

import math

import torch
import torch.nn.functional as F

__all__ = ['hard_sigmoid_maps', 'keep_greatest']


def keep_greatest(maps: torch.Tensor, share: float, map_scale: int = 1) -> torch.Tensor:
    """Return maps of which the greatest values stay as they are, and all others are exactly 0.

    Where maps are finer than the features, whole places of the features are kept, by the mean of the map over each: a
    map that is 0 somewhere then says that the feature there does not pass, and a feature passes nowhere else.

    The gradient is that of the maps as they were (straight-through; Bengio, Léonard, Courville, arXiv 1308.3432), so
    that places that are not kept can come back. Of equal values as many are kept as are needed, whichever come first.

    Args:
        maps: Shape (B, T, h, w), not negative.
        share: Share of the places that is kept, above 0 and at most 1; rounded up to whole places.
        map_scale: How many times as high and wide as the features the maps are.
    """
    means = maps.detach()
    if map_scale > 1:
        means = F.avg_pool2d(means, map_scale)
    flattened = means.flatten(2)
    count = max(int(math.ceil(share * flattened.shape[2] - 1e-6)), 1)  # 0.07 * 100 is a little more than 7
    places = flattened.topk(count, dim=2).indices
    kept = torch.zeros_like(flattened).scatter(2, places, 1.0).view_as(means)
    if map_scale > 1:
        kept = F.interpolate(kept, scale_factor=float(map_scale), mode='nearest')
    return maps + (maps * kept - maps).detach()


def hard_sigmoid_maps(logits: torch.Tensor, share: float, map_scale: int = 1) -> torch.Tensor:
    """Return the sigmoids of which the greatest are kept, all others exactly 0.

    They are compared in float32 at least: in bfloat16 the sigmoids of 7 and of 9 are both 1, so that under mixed
    precision most places that are kept would be equal, and those kept that come first.

    Args:
        logits: Shape (B, T, h, w).
        share: See ``keep_greatest``.
        map_scale: See ``keep_greatest``.
    """
    is_half = logits.dtype == torch.bfloat16 or logits.dtype == torch.float16
    maps = torch.sigmoid(logits.float() if is_half else logits)
    return keep_greatest(maps, share, map_scale).to(logits.dtype)
