"""Several explanations of one prediction side by side: their maps, and what the prediction says of each."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from .metrics import area_under_curve, deletion_and_insertion_curves, predict, replaced_fractions, usable_maps
from .metrics.predictions import Explainer, Targets, resolve_targets

__all__ = ['Comparison', 'MethodResult', 'compare_methods']


@dataclasses.dataclass(frozen=True)
class MethodResult:
    """What one method says of an image.

    Attributes:
        method: Name of the method.
        map: Shape (1, 1, h, w), float32, on the CPU.
        low: Least value of the map; NaN if it holds one.
        high: Greatest value of the map.
        deletion: Area under the deletion curve, in [0, 1]; NaN of a map with a problem.
        insertion: Area under the insertion curve.
        problem: Why the map says nothing: it is flat, or holds a NaN; empty if there is none.
    """

    method: str
    map: torch.Tensor
    low: float
    high: float
    deletion: float
    insertion: float
    problem: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What several methods say of one image.

    Attributes:
        predicted: The most probable class, or task.
        probability: Its probability.
        target: The class, or task, that is explained.
        target_probability: Its probability.
        results: One per method.
    """

    predicted: int
    probability: float
    target: int
    target_probability: float
    results: tuple[MethodResult, ...]


def compare_methods(
    model: Any,
    images: torch.Tensor,
    explainers: Mapping[str, Explainer],
    targets: Targets | None = None,
    steps: int = 32,
    batch_size: int = 64,
) -> list[Comparison]:
    """Explain images by several methods, and score each map by deletion and insertion.

    Args:
        model: The model, in evaluation mode.
        images: Normalised images, shape (B, C, H, W).
        explainers: Name -> function of images and targets that returns maps (B, 1, h, w)
            (``timm_abn.explain.methods.create_explainers``).
        targets: A class, or task, for each image; by default the most probable.
        steps: Of deletion, to the mean colour, and of insertion, from a blur (``timm_abn.explain.metrics``).
        batch_size: How many images pass the model at once.

    Returns:
        One per image.

    Raises:
        TimmAbnError: The model is in training mode, or an argument has no meaning or the wrong shape.
    """
    probabilities = predict(model, images, batch_size)
    predicted, probability = resolve_targets(probabilities)
    explained, target_probability = resolve_targets(probabilities, targets)
    columns = [
        _results(name, model, images, explainer(images, explained).detach().float(), explained, steps, batch_size)
        for name, explainer in explainers.items()
    ]
    facts = zip(predicted.tolist(), probability.tolist(), explained.tolist(), target_probability.tolist())
    return [Comparison(*fact, results=tuple(column[index] for column in columns)) for index, fact in enumerate(facts)]


def _results(
    name: str,
    model: Any,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: torch.Tensor,
    steps: int,
    batch_size: int,
) -> list[MethodResult]:
    curves = deletion_and_insertion_curves(model, images, maps, targets, steps, batch_size=batch_size)
    fractions = replaced_fractions(steps, images.shape[2:])
    usable, finite = usable_maps(maps), maps.flatten(1).isfinite().all(dim=1)
    # a flat map has an order, that of the pixels, and scores that say nothing of the method
    deletion, insertion = (
        area_under_curve(curve, fractions).masked_fill(~usable, float('nan')).tolist() for curve in curves
    )
    low, high = maps.flatten(1).amin(dim=1).tolist(), maps.flatten(1).amax(dim=1).tolist()
    problems = [
        '' if is_usable else 'flat map' if is_finite else 'NaN or infinity in the map'
        for is_usable, is_finite in zip(usable.tolist(), finite.tolist())
    ]
    own = maps.cpu().split(1)
    rows = zip(own, low, high, deletion, insertion, problems, strict=True)
    return [MethodResult(name, *row) for row in rows]
