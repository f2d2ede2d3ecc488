"""Localisation: does a map lie on the object that a mask marks?

Maps are upsampled bilinearly to the size of the masks. Where there is nothing to measure - an empty mask, a flat map, a
NaN or an infinity in the map - the result of that image is NaN, never a zero or an error: callers name and count them.
"""

import torch

from ...errors import TimmAbnError
from ...maps.operations import upsample_maps
from .checks import check_masks, usable_maps

__all__ = ['chance_corrected_energy', 'energy', 'iou', 'pointing_game']


def pointing_game(maps: torch.Tensor, masks: torch.Tensor, tolerance: float = 0) -> torch.Tensor:
    """Return 1 where the maximum of a map lies on the mask, or near it, else 0, shape (B,).

        hit = min over pixels q of the mask of |p - q| <= tolerance,   p = argmax of the map

    If several maxima are equal, the first counts. (Quantus 0.6 counts a hit if any of them lies on the mask.)

    Zhang et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018, section 4.2.

    Args:
        maps: Shape (B, 1, h, w).
        masks: Shape (B, 1, H, W), bool.
        tolerance: Largest Euclidean distance of the maximum to the mask in pixels; Zhang's is 15 at a size of 224.

    Raises:
        TimmAbnError: An argument has the wrong shape or type, or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise TimmAbnError(f'tolerance must be 0 or more pixels, got {tolerance}.')
    pixels, inside, valid = _aligned(maps, masks)
    width = masks.shape[3]
    maximum = pixels.argmax(dim=1, keepdim=True)
    places = torch.arange(pixels.shape[1], device=pixels.device)
    distances = (places // width - maximum // width) ** 2 + (places % width - maximum % width) ** 2
    hits = ((distances <= tolerance**2) & inside).any(dim=1)
    return _or_nan(hits.to(pixels.dtype), valid)


def energy(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the share of a map's positive values that lies on the mask, shape (B,), in [0, 1].

        E = sum over pixels p of the mask of max(M_p, 0) / sum over all pixels p of max(M_p, 0)

    Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR Workshops 2020,
    section 4.3 ("energy-based pointing game"). For non-negative maps it is the relevance mass accuracy of Arras et al.,
    2022. Large masks give high values with any map: see ``chance_corrected_energy``.

    Args:
        maps: Shape (B, 1, h, w). A map without any positive value gives NaN.
        masks: Shape (B, 1, H, W), bool.

    Raises:
        TimmAbnError: An argument has the wrong shape or type.
    """
    pixels, inside, valid = _aligned(maps, masks)
    positive = pixels.clamp(min=0)
    return _or_nan((positive * inside).sum(dim=1) / positive.sum(dim=1), valid)


def chance_corrected_energy(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the energy corrected for the area of the mask, shape (B,), at most 1.

        C = (E - A) / (1 - A),   A = area of the mask / area of the image

    A is the energy of a constant map, or of one with random positions. 1: all of the map lies on the mask; 0: no more
    than by chance; negative: the map avoids the mask. The form is that of Cohen's kappa (1960).

    Args:
        maps: Shape (B, 1, h, w). A map without any positive value gives NaN.
        masks: Shape (B, 1, H, W), bool. One that covers the image gives NaN.

    Raises:
        TimmAbnError: An argument has the wrong shape or type.
    """
    share = energy(maps, masks)
    area = masks.flatten(1).to(share.dtype).mean(dim=1)
    return _or_nan((share - area) / (1 - area), area < 1)


def iou(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of the mask and the map at its best threshold, shape (B,).

        IoU = max over t of |{p: M_p >= t} and mask| / |{p: M_p >= t} or mask|

    All values of the map are tried, separately for each image. Choe et al., "Evaluating Weakly Supervised Object
    Localization Methods Right", CVPR 2020, section 4, show why a threshold must not be fixed; they choose it for a set.

    Args:
        maps: Shape (B, 1, h, w).
        masks: Shape (B, 1, H, W), bool.

    Raises:
        TimmAbnError: An argument has the wrong shape or type.
    """
    pixels, inside, valid = _aligned(maps, masks)
    values, order = pixels.sort(dim=1, descending=True)
    intersections = inside.gather(1, order).cumsum(dim=1)
    sizes = torch.arange(1, pixels.shape[1] + 1, device=pixels.device)
    unions = sizes + inside.sum(dim=1, keepdim=True) - intersections
    ratios = intersections.to(pixels.dtype) / unions.to(pixels.dtype)
    # no threshold lies between equal values
    is_last = torch.ones_like(inside)
    is_last[:, :-1] = values[:, :-1] > values[:, 1:]
    return _or_nan(ratios.masked_fill(~is_last, 0).amax(dim=1), valid)


def _aligned(maps: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return maps and masks as rows of pixels, and which of them can be compared."""
    check_masks(maps, masks)
    masks = masks.to(maps.device)
    pixels = upsample_maps(maps.detach(), masks.shape[2:]).flatten(1)
    inside = masks.flatten(1)
    return pixels, inside, usable_maps(maps) & inside.any(dim=1)


def _or_nan(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    return values.masked_fill(~valid.to(values.device), float('nan'))
