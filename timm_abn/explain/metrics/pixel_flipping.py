"""Pixel flipping by patches: the prediction while the patches that a map points to are replaced, one after the other.

Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation", PLoS
ONE 10(7), 2015, section "Pixel-flipping"; by patches as in Samek et al., "Evaluating the Visualization of What a Deep
Neural Network Has Learned", 2017, section III. With patches of one pixel it is deletion with as many steps as pixels.
"""

from typing import Any

import torch
import torch.nn.functional as F

from ...maps.operations import upsample_maps
from .baselines import Baseline, make_baseline
from .checks import check_evaluation_mode, check_images, check_maps, check_positive
from .faithfulness import area_under_curve
from .predictions import Targets, predict, resolve_targets
from .replacement import rank_places, scores_of_replaced

__all__ = ['pixel_flipping', 'pixel_flipping_curve']


def pixel_flipping(
    model: Any,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    patch_size: int = 16,
    baseline: Baseline = 'mean',
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the area under the curve of flipped patches, shape (B,), in [0, 1]; lower is better.

    Args:
        model: See ``pixel_flipping_curve``.
        images: See ``pixel_flipping_curve``.
        maps: See ``pixel_flipping_curve``.
        targets: See ``pixel_flipping_curve``.
        patch_size: See ``pixel_flipping_curve``.
        baseline: See ``pixel_flipping_curve``.
        batch_size: See ``pixel_flipping_curve``.

    Raises:
        TimmAbnError: See ``pixel_flipping_curve``.
    """
    curves = pixel_flipping_curve(model, images, maps, targets, patch_size, baseline, batch_size)
    return area_under_curve(curves, torch.linspace(0, 1, curves.shape[1], dtype=torch.float64))


def pixel_flipping_curve(
    model: Any,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    patch_size: int = 16,
    baseline: Baseline = 'mean',
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the probability of the target after 0, 1, ... and all patches are replaced, shape (B, patches + 1).

    Patches are replaced in falling order of the mean of the upsampled map over their pixels, equal ones in the order of
    their index. At the right and lower border they are smaller where their size does not divide the image's.

    Args:
        model: Any classifier, in evaluation mode; see ``deletion_curve``.
        images: Normalised images, shape (B, C, H, W).
        maps: Shape (B, 1, h, w).
        targets: A class, or task, for each image; by default the most probable of the whole image.
        patch_size: Height and width of a patch in pixels.
        baseline: 'mean', 'black', 'blur' or a tensor (see ``make_baseline``).
        batch_size: How many images pass the model at once.

    Returns:
        A row is NaN if the map holds a NaN or an infinity.

    Raises:
        TimmAbnError: The model is in training mode, or an argument has no meaning or the wrong shape.
    """
    check_evaluation_mode(model)
    check_images(images)
    check_maps(maps, len(images))
    check_positive('patch_size', patch_size)
    check_positive('batch_size', batch_size)
    maps = maps.detach().to(images.device)
    height, width = images.shape[2:]
    ranks, patches = _patch_ranks(maps, (height, width), patch_size)
    targets, whole = resolve_targets(predict(model, images, batch_size), targets)
    replacements = make_baseline(baseline, model, images)
    counts = [*range(1, patches + 1)]
    scores = scores_of_replaced(model, images, replacements, ranks, counts, targets, batch_size)
    curves = torch.cat([whole[:, None], scores], dim=1)
    return curves.masked_fill(~maps.flatten(1).isfinite().all(dim=1)[:, None], float('nan'))


def _patch_ranks(maps: torch.Tensor, size: tuple[int, int], patch_size: int) -> tuple[torch.Tensor, int]:
    """Return the rank of the patch that each pixel lies in, shape (B, 1, H, W), and the number of patches."""
    pixels = upsample_maps(maps, size)
    means = F.avg_pool2d(pixels, patch_size, ceil_mode=True, count_include_pad=False)
    ranks = rank_places(means.flatten(1)).view(means.shape)
    rows, columns = (torch.arange(length, device=maps.device) // patch_size for length in size)
    return ranks[:, :, rows[:, None], columns], means[0].numel()
