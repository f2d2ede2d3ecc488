"""Deletion and insertion: does the prediction depend on the pixels that a map points to?

Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, section 4.2.
Pixels are replaced in falling order of the map, upsampled bilinearly; after step k of S, exactly ``k * H * W // S`` of
them, equal values in the order of their index. The score is the probability of the target, and the area under its curve
over the fraction of replaced pixels is the metric:

    AUC = sum over k of (f_k - f_(k-1)) * (p_k + p_(k-1)) / 2,   f_k = (k * H * W // S) / (H * W)

A flat map has an order, too, that of the index, and therefore a score: ``usable_maps`` tells which maps are flat. A map
with a NaN or an infinity has none: all scores of that image are NaN.
"""

from collections.abc import Sequence

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from .baselines import Baseline, make_baseline
from .checks import check_evaluation_mode, check_images, check_maps, check_positive
from .predictions import Targets, predict, resolve_targets
from .replacement import pixel_ranks, scores_of_replaced

__all__ = ['area_under_curve', 'deletion', 'deletion_and_insertion_curves', 'insertion', 'replaced_fractions']

MOST_STEPS = 1000  # where an image has fewer pixels


def deletion(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = 224,
    baseline: Baseline = 'mean',
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the area under the probability of the target while an image is replaced, shape (B,); lower is better.

    Args:
        model: Any classifier, in evaluation mode, that takes images and returns logits (B, K). The probabilities are
            the softmax of the logits; of labels or tasks, which do not exclude each other, their sigmoids; of one logit
            those of no and yes, 1 - p and p (``timm_abn.records``).
        images: Normalised images, shape (B, C, H, W).
        maps: Shape (B, 1, h, w).
        targets: A class, or task, for each image; by default the most probable of the whole image.
        steps: In how many steps all pixels are replaced (S).
        baseline: What replaces them: 'mean', 'black', 'blur' or a tensor (see ``make_baseline``).
        batch_size: How many images pass the model at once, whichever image they were made from.

    Returns:
        In [0, 1]; NaN if the map holds a NaN or an infinity.

    Raises:
        TimmAbnError: The model is in training mode, or an argument has no meaning or the wrong shape.
    """
    (curves,) = _curves(model, images, maps, targets, steps, [(baseline, False)], batch_size)
    return area_under_curve(curves, replaced_fractions(steps, images.shape[2:]))


def insertion(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = 224,
    baseline: Baseline = 'blur',
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the area under the probability of the target while a baseline is replaced, shape (B,); higher is better.

    All else is that of ``deletion``.
    """
    (curves,) = _curves(model, images, maps, targets, steps, [(baseline, True)], batch_size)
    return area_under_curve(curves, replaced_fractions(steps, images.shape[2:]))


def deletion_and_insertion_curves(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = 224,
    deletion_baseline: Baseline = 'mean',
    insertion_baseline: Baseline = 'blur',
    batch_size: int = 64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both curves, each of shape (B, steps + 1); the whole images are predicted, and pixels ranked, only once.

    Pixels are replaced by ``deletion_baseline``, and replace ``insertion_baseline``; all else is that of ``deletion``.
    Column k is the probability after step k.
    """
    ways = [(deletion_baseline, False), (insertion_baseline, True)]
    deleted, inserted = _curves(model, images, maps, targets, steps, ways, batch_size)
    return deleted, inserted


def replaced_fractions(steps: int, size: Sequence[int]) -> torch.Tensor:
    """Return the fraction of pixels that are replaced after each step, from 0 to 1, shape (steps + 1,), float64.

    Args:
        steps: Number of steps.
        size: Height and width of the images.

    Raises:
        TimmAbnError: ``steps`` is not 1 or more, or more than there are pixels.
    """
    height, width = size
    return torch.tensor(_counts(steps, height * width), dtype=torch.float64) / (height * width)


def area_under_curve(curves: torch.Tensor, fractions: torch.Tensor) -> torch.Tensor:
    """Return the areas under curves by the trapezoidal rule, shape (B,).

    Args:
        curves: Shape (B, S + 1).
        fractions: Where on the axis the columns lie, shape (S + 1,) (see ``replaced_fractions``).
    """
    return torch.trapezoid(curves, fractions.to(curves), dim=1)


def _curves(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None,
    steps: int,
    ways: Sequence[tuple[Baseline, bool]],
    batch_size: int,
) -> list[torch.Tensor]:
    """Return the scores on each way from an image to a baseline, or back (True), in the order of its map."""
    check_evaluation_mode(model)
    check_images(images)
    check_maps(maps, len(images))
    counts = _counts(steps, images[0, 0].numel())
    check_positive('batch_size', batch_size)
    maps = maps.detach().to(images.device)
    targets, whole = resolve_targets(predict(model, images, batch_size), targets)
    ranks = pixel_ranks(maps, images.shape[2:])
    finite = maps.flatten(1).isfinite().all(dim=1, keepdim=True)
    curves = []
    for baseline, is_inserted in ways:
        replacements = make_baseline(baseline, model, images)
        # the whole image, where deletion begins and insertion ends, is known
        if is_inserted:
            scores = scores_of_replaced(model, replacements, images, ranks, counts[:-1], targets, batch_size)
            curve = torch.cat([scores, whole[:, None]], dim=1)
        else:
            scores = scores_of_replaced(model, images, replacements, ranks, counts[1:], targets, batch_size)
            curve = torch.cat([whole[:, None], scores], dim=1)
        curves.append(curve.masked_fill(~finite, float('nan')))
    return curves


def _counts(steps: int, pixels: int) -> list[int]:
    """Return how many pixels are replaced after each step."""
    check_positive('steps', steps)
    most = max(pixels, MOST_STEPS)
    if steps > most:
        raise TimmAbnError(f'steps must be {most} or fewer for images of {pixels} pixels, got {steps}.')
    return [step * pixels // steps for step in range(steps + 1)]
