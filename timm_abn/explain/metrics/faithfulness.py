"""Deletion and insertion: does the prediction depend on the pixels that a map points to?

Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, section 4.2.
Pixels are replaced in falling order of the map, upsampled bilinearly; after step k of S, exactly ``k * H * W // S`` of
them, equal values in the order of their index. The score is the probability of the target, and the area under its curve
over the fraction of replaced pixels is the metric:

    AUC = sum over k of (f_k - f_(k-1)) * (p_k + p_(k-1)) / 2,   f_k = (k * H * W // S) / (H * W)

A flat map has an order, too, that of the index, and therefore a score: ``usable_maps`` tells which maps are flat. A map
with a NaN or an infinity has none: all scores of that image are NaN.
"""

from typing import Any, NamedTuple

import torch

from .baselines import Baseline, make_baseline
from .checks import check_evaluation_mode, check_images, check_maps, check_positive
from .predictions import Targets, predict, resolve_targets
from .replacement import pixel_ranks, scores_of_replaced

__all__ = [
    'area_under_curve',
    'deletion',
    'deletion_and_insertion_curves',
    'deletion_curve',
    'insertion',
    'insertion_curve',
    'replaced_fractions',
]


def deletion(
    model: Any,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = 224,
    baseline: Baseline = 'mean',
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the area under the deletion curve, shape (B,), in [0, 1]; lower is better.

    Args:
        model: See ``deletion_curve``.
        images: See ``deletion_curve``.
        maps: See ``deletion_curve``.
        targets: See ``deletion_curve``.
        steps: See ``deletion_curve``.
        baseline: See ``deletion_curve``.
        batch_size: See ``deletion_curve``.

    Raises:
        TimmAbnError: See ``deletion_curve``.
    """
    curves = deletion_curve(model, images, maps, targets, steps, baseline, batch_size)
    return area_under_curve(curves, replaced_fractions(steps, images.shape[2:]))


def insertion(
    model: Any,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = 224,
    baseline: Baseline = 'blur',
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the area under the insertion curve, shape (B,), in [0, 1]; higher is better.

    Args:
        model: See ``deletion_curve``.
        images: See ``deletion_curve``.
        maps: See ``deletion_curve``.
        targets: See ``deletion_curve``.
        steps: See ``deletion_curve``.
        baseline: See ``deletion_curve``.
        batch_size: See ``deletion_curve``.

    Raises:
        TimmAbnError: See ``deletion_curve``.
    """
    curves = insertion_curve(model, images, maps, targets, steps, baseline, batch_size)
    return area_under_curve(curves, replaced_fractions(steps, images.shape[2:]))


def deletion_curve(
    model: Any,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = 224,
    baseline: Baseline = 'mean',
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the probability of the target while an image is replaced by its baseline, shape (B, steps + 1).

    Args:
        model: Any classifier, in evaluation mode, that takes images and returns logits (B, K). The probabilities are
            the softmax of the logits, of a multi-task ABN their sigmoids.
        images: Normalised images, shape (B, C, H, W).
        maps: Shape (B, 1, h, w).
        targets: A class, or task, for each image; by default the most probable of the whole image.
        steps: In how many steps all pixels are replaced (S).
        baseline: 'mean', 'black', 'blur' or a tensor (see ``make_baseline``).
        batch_size: How many images pass the model at once, whichever image they were made from.

    Returns:
        Column k is the score after step k; a row is NaN if the map holds a NaN or an infinity.

    Raises:
        TimmAbnError: The model is in training mode, or an argument has no meaning or the wrong shape.
    """
    walk = _prepare(model, images, maps, targets, steps, batch_size)
    return walk.delete(make_baseline(baseline, model, images))


def insertion_curve(
    model: Any,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = 224,
    baseline: Baseline = 'blur',
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the probability of the target while a baseline is replaced by its image, shape (B, steps + 1).

    Args:
        model: See ``deletion_curve``.
        images: See ``deletion_curve``.
        maps: See ``deletion_curve``.
        targets: See ``deletion_curve``.
        steps: See ``deletion_curve``.
        baseline: See ``deletion_curve``.
        batch_size: See ``deletion_curve``.

    Returns:
        See ``deletion_curve``.

    Raises:
        TimmAbnError: See ``deletion_curve``.
    """
    walk = _prepare(model, images, maps, targets, steps, batch_size)
    return walk.insert(make_baseline(baseline, model, images))


def deletion_and_insertion_curves(
    model: Any,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = 224,
    deletion_baseline: Baseline = 'mean',
    insertion_baseline: Baseline = 'blur',
    batch_size: int = 64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both curves, each of shape (B, steps + 1); the whole images are predicted, and pixels ranked, only once.

    Args:
        model: See ``deletion_curve``.
        images: See ``deletion_curve``.
        maps: See ``deletion_curve``.
        targets: See ``deletion_curve``.
        steps: See ``deletion_curve``.
        deletion_baseline: What replaces the image.
        insertion_baseline: What the image replaces.
        batch_size: See ``deletion_curve``.

    Raises:
        TimmAbnError: See ``deletion_curve``.
    """
    walk = _prepare(model, images, maps, targets, steps, batch_size)
    return (
        walk.delete(make_baseline(deletion_baseline, model, images)),
        walk.insert(make_baseline(insertion_baseline, model, images)),
    )


def replaced_fractions(steps: int, size: tuple[int, ...]) -> torch.Tensor:
    """Return the fraction of pixels that are replaced after each step, from 0 to 1, shape (steps + 1,), float64.

    Args:
        steps: Number of steps.
        size: Height and width of the images.

    Raises:
        TimmAbnError: ``steps`` is not 1 or more.
    """
    check_positive('steps', steps)
    height, width = size
    return torch.tensor(_counts(steps, height * width), dtype=torch.float64) / (height * width)


def area_under_curve(curves: torch.Tensor, fractions: torch.Tensor) -> torch.Tensor:
    """Return the areas under curves by the trapezoidal rule, shape (B,).

    Args:
        curves: Shape (B, S + 1).
        fractions: Where on the axis the columns lie, shape (S + 1,) (see ``replaced_fractions``).
    """
    return torch.trapezoid(curves, fractions.to(curves), dim=1)


class _Walk(NamedTuple):
    """A way from an image to a baseline, or back, in the order of a map."""

    model: Any
    images: torch.Tensor
    ranks: torch.Tensor
    finite: torch.Tensor
    targets: torch.Tensor
    whole: torch.Tensor  # scores of whole images, where deletion begins and insertion ends
    counts: list[int]
    batch_size: int

    def delete(self, baseline: torch.Tensor) -> torch.Tensor:
        scores = self._scores(self.images, baseline, self.counts[1:])
        return self._only_finite(torch.cat([self.whole[:, None], scores], dim=1))

    def insert(self, baseline: torch.Tensor) -> torch.Tensor:
        scores = self._scores(baseline, self.images, self.counts[:-1])
        return self._only_finite(torch.cat([scores, self.whole[:, None]], dim=1))

    def _scores(self, start: torch.Tensor, end: torch.Tensor, counts: list[int]) -> torch.Tensor:
        return scores_of_replaced(self.model, start, end, self.ranks, counts, self.targets, self.batch_size)

    def _only_finite(self, curves: torch.Tensor) -> torch.Tensor:
        return curves.masked_fill(~self.finite[:, None], float('nan'))


def _prepare(
    model: Any,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None,
    steps: int,
    batch_size: int,
) -> _Walk:
    check_evaluation_mode(model)
    check_images(images)
    check_maps(maps, len(images))
    check_positive('steps', steps)
    check_positive('batch_size', batch_size)
    maps = maps.detach().to(images.device)
    height, width = images.shape[2:]
    targets, whole = resolve_targets(predict(model, images, batch_size), targets)
    return _Walk(
        model=model,
        images=images,
        ranks=pixel_ranks(maps, (height, width)),
        finite=maps.flatten(1).isfinite().all(dim=1),
        targets=targets,
        whole=whole,
        counts=_counts(steps, height * width),
        batch_size=batch_size,
    )


def _counts(steps: int, pixels: int) -> list[int]:
    return [step * pixels // steps for step in range(steps + 1)]
