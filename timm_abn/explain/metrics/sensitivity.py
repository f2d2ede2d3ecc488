"""Max-sensitivity: how far does a map move when the image hardly does?"""

import torch

from ...errors import TimmAbnError
from .checks import check_images, check_positive, usable_maps
from .predictions import Explainer

__all__ = ['max_sensitivity']


def max_sensitivity(
    explainer: Explainer,
    images: torch.Tensor,
    targets: torch.Tensor,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the largest change of a map under small noise, relative to the map, shape (B,); lower is better.

        S = max over noise e, |e| <= radius in every value, of |M(x + e) - M(x)| / |M(x)|,   Euclidean norms

    Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019, Definition 2, by sampling (uniform
    noise), divided by the norm of the map as in Captum and Quantus.

    Args:
        explainer: Makes maps (B, 1, h, w) of images and targets.
        images: Normalised images, shape (B, C, H, W).
        targets: Class or task of each image, shape (B,); the same for the noisy ones.
        radius: Largest noise, in units of the normalised images.
        samples: How many draws; the maximum grows with them.
        seed: Of the noise, which does not depend on the batch size.
        batch_size: How many images the explainer is given at once.

    Returns:
        NaN where the map of the image, or of a noisy one, holds a NaN or an infinity, or where the former is flat.

    Raises:
        TimmAbnError: An argument has no meaning or the wrong shape.
    """
    check_images(images)
    check_positive('samples', samples)
    check_positive('batch_size', batch_size)
    if not radius > 0:
        raise TimmAbnError(f'radius must be positive, got {radius}.')
    maps = _explain(explainer, images, targets, batch_size)
    flattened = maps.flatten(1)
    largest = flattened.new_zeros(len(images))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(samples):
        noise = (2 * torch.rand(images.shape, generator=generator) - 1) * radius
        noisy = _explain(explainer, images + noise.to(images), targets, batch_size).flatten(1)
        changes = (noisy - flattened).norm(dim=1) / flattened.norm(dim=1)
        largest = torch.maximum(largest, changes)  # NaN stays
    return largest.masked_fill(~usable_maps(maps), float('nan'))


def _explain(explainer: Explainer, images: torch.Tensor, targets: torch.Tensor, batch_size: int) -> torch.Tensor:
    batches = zip(images.split(batch_size), targets.split(batch_size), strict=True)
    maps = torch.cat([explainer(batch, batch_targets).detach() for batch, batch_targets in batches])
    return maps if maps.dtype == torch.float64 else maps.float()
