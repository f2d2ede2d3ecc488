"""Does the prediction depend on the pixels that a map points to? Deletion, insertion, symmetric relevance gain.

All three use the same replacement and the same order. Pixels, or square patches, are replaced in descending order of
the map, upsampled bilinearly; after step k of S exactly ``k * N // S`` of all N, equal values in the order of their
index. Insertion starts from an image that is replaced entirely, and restores pixels in the same order. The score is the
area under the probability of the target over the fraction f of pixels:

    area = sum over k of (f_k - f_(k-1)) * (p_k + p_(k-1)) / 2,   f_k = (k * N // S) / N

Deletion and insertion: Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models",
BMVC 2018, section 4.2 (they replace by the mean in one and by a blur in the other).

Symmetric relevance gain: Blücher, Vielhaben, Strodthoff, "Decoupling Pixel Flipping and Occlusion Strategy for
Consistent XAI Benchmarks", TMLR 2024, arXiv 2401.06654: the area when the least important pixels are deleted first,
minus the area when the most important are. The former uses the images of insertion, so the gain is insertion minus
deletion. For independent noise it is 0 in expectation, whatever replaces pixels; deletion and insertion depend on that.

Patches: Iida et al., "Patch insertion-deletion", 2022. A patch has the mean of the map.

A flat map also has an order, that of the index, and therefore a score: ``usable_maps`` tells which maps are flat. For a
map with NaN or infinity, all scores of that image are NaN.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from .baselines import Baseline, make_baseline
from .checks import check_evaluation_mode, check_images, check_maps, check_positive
from .imputation import impute_linearly
from .predictions import Targets, predict, resolve_targets
from .replacement import pixel_ranks, scores_of_replaced

__all__ = [
    'STEPS',
    'ReplacementCurves',
    'deletion',
    'insertion',
    'replaced_fractions',
    'replacement_curves',
    'symmetric_relevance_gain',
]

STEPS = 32
MOST_STEPS = 1000  # where an image has fewer pixels


class ReplacementCurves(NamedTuple):
    """Probabilities of the targets while images are replaced, and while they are restored.

    Attributes:
        deleted: After each step of deletion, starting from the whole image, shape (B, S + 1).
        inserted: After each step of insertion, up to the whole image, shape (B, S + 1).
        fractions: Of the pixels that are replaced, or inserted, after each step, shape (S + 1,), float64.
    """

    deleted: torch.Tensor
    inserted: torch.Tensor
    fractions: torch.Tensor

    @property
    def deletion(self) -> torch.Tensor:
        """The area under ``deleted``, shape (B,), in [0, 1]; lower is better."""
        return torch.trapezoid(self.deleted, self.fractions.to(self.deleted), dim=1)

    @property
    def insertion(self) -> torch.Tensor:
        """The area under ``inserted``, shape (B,), in [0, 1]; higher is better."""
        return torch.trapezoid(self.inserted, self.fractions.to(self.inserted), dim=1)

    @property
    def gain(self) -> torch.Tensor:
        """The symmetric relevance gain, shape (B,), in [-1, 1]; higher is better, 0 for noise."""
        return self.insertion - self.deletion


def symmetric_relevance_gain(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = STEPS,
    baseline: Baseline = 'mean',
    patch_size: int = 1,
    batch_size: int = 64,
) -> torch.Tensor:
    """Return insertion minus deletion, with one replacement, shape (B,), in [-1, 1]; higher is better, 0 for noise.

    Arguments, NaN and errors are those of ``replacement_curves``.
    """
    return replacement_curves(model, images, maps, targets, steps, baseline, patch_size, batch_size).gain


def deletion(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = STEPS,
    baseline: Baseline = 'mean',
    patch_size: int = 1,
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the area under the probability while an image is replaced, shape (B,), in [0, 1]; lower is better.

    Arguments, NaN and errors are those of ``replacement_curves``.
    """
    return replacement_curves(model, images, maps, targets, steps, baseline, patch_size, batch_size).deletion


def insertion(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = STEPS,
    baseline: Baseline = 'mean',
    patch_size: int = 1,
    batch_size: int = 64,
) -> torch.Tensor:
    """Return the area under the probability while an image is restored, shape (B,), in [0, 1]; higher is better.

    Arguments, NaN and errors are those of ``replacement_curves``.
    """
    return replacement_curves(model, images, maps, targets, steps, baseline, patch_size, batch_size).insertion


def replacement_curves(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: Targets | None = None,
    steps: int = STEPS,
    baseline: Baseline = 'mean',
    patch_size: int = 1,
    batch_size: int = 64,
) -> ReplacementCurves:
    """Return the curves of deletion and insertion; the whole and the empty image are predicted only once.

    Args:
        model: Any classifier, in evaluation mode, that takes images and returns logits (B, K). The probabilities are
            the softmax of the logits; for labels or tasks, which do not exclude each other, their sigmoids; for one
            logit those of no and yes, 1 - p and p (``timm_abn.records``).
        images: Normalised images, shape (B, C, H, W).
        maps: Shape (B, 1, h, w).
        targets: A class, or task, for each image; by default the most probable for the whole image.
        steps: Number of steps in which all pixels are replaced (S).
        baseline: What replaces them: 'mean', 'black', 'blur' or a tensor (see ``make_baseline``); or 'linear',
            interpolated from the remaining pixels, with a little noise (ROAD, Rong et al., ICML 2022).
        patch_size: Height and width, in pixels, of the patches that are replaced; it must divide those of the images.
        batch_size: Images per forward pass, whichever image they were made from.

    Returns:
        All NaN if the map contains NaN or infinity.

    Raises:
        TimmAbnError: The model is in training mode, or an argument is invalid or has the wrong shape.
    """
    check_evaluation_mode(model)
    check_images(images)
    check_maps(maps, len(images))
    check_positive('batch_size', batch_size)
    counts = _counts(steps, images.shape[2:], patch_size)
    maps = maps.detach().to(images.device)
    targets, whole = resolve_targets(predict(model, images, batch_size), targets)
    ranks = pixel_ranks(maps, images.shape[2:], patch_size)
    replacements = make_baseline(baseline, model, images)
    is_linear = isinstance(baseline, str) and baseline == 'linear'
    impute, impute_others = (impute_linearly, lambda x, kept: impute_linearly(x, ~kept)) if is_linear else (None, None)
    deleted = scores_of_replaced(model, images, replacements, ranks, counts[1:], targets, batch_size, impute)
    inserted = scores_of_replaced(model, replacements, images, ranks, counts[1:-1], targets, batch_size, impute_others)
    is_usable = maps.flatten(1).isfinite().all(dim=1, keepdim=True)
    deleted = torch.cat([whole[:, None], deleted], dim=1)
    inserted = torch.cat([deleted[:, -1:], inserted, whole[:, None]], dim=1)
    deleted, inserted = (curve.masked_fill(~is_usable, float('nan')) for curve in (deleted, inserted))
    return ReplacementCurves(deleted, inserted, replaced_fractions(steps, images.shape[2:], patch_size))


def replaced_fractions(steps: int, size: Sequence[int], patch_size: int = 1) -> torch.Tensor:
    """Return the fraction of pixels that are replaced after each step, from 0 to 1, shape (steps + 1,), float64.

    Args:
        steps: Number of steps.
        size: Height and width of the images.
        patch_size: That of the patches.

    Raises:
        TimmAbnError: ``steps`` is not 1 or more, or more than there are patches, or those do not fill the images.
    """
    counts = torch.tensor(_counts(steps, size, patch_size), dtype=torch.float64)
    return counts / counts[-1]


def _counts(steps: int, size: Sequence[int], patch_size: int) -> list[int]:
    """Return how many patches are replaced after each step."""
    check_positive('steps', steps)
    check_positive('patch_size', patch_size)
    height, width = size
    if height % patch_size or width % patch_size:
        raise TimmAbnError(f'patch_size must divide the size of the images, {height} x {width}, got {patch_size}.')
    patches = (height // patch_size) * (width // patch_size)
    most = max(patches, MOST_STEPS)
    if steps > most:
        what = 'pixels' if patch_size == 1 else 'patches'
        raise TimmAbnError(f'steps must be {most} or fewer for images of {patches} {what}, got {steps}.')
    return [step * patches // steps for step in range(steps + 1)]
