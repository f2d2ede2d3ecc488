"""Several explanations of one prediction side by side: their maps and scores."""

import dataclasses
import math
from collections.abc import Mapping

import torch
import torch.nn as nn

from .metrics import STEPS, map_problems, predict, replacement_curves
from .metrics.predictions import Explainer, Targets, resolve_targets

__all__ = ['Comparison', 'MethodResult', 'compare_methods']


@dataclasses.dataclass(frozen=True)
class MethodResult:
    """Result of one method for an image.

    Attributes:
        method: Name of the method.
        map: Shape (1, 1, h, w), float32, on the CPU.
        low: Minimum of the map; NaN if it contains one.
        high: Maximum of the map.
        gain: Symmetric relevance gain, insertion minus deletion, in [-1, 1]; NaN if the map has a problem.
        deletion: Area under the deletion curve, in [0, 1].
        insertion: Area under the insertion curve.
        problem: Why the map is useless: it is flat, or contains NaN; empty if there is none.
        layer: Layer of the map, see ``timm_abn.explain.methods.Explainer``; '' if the method does not say.
        centred: Whether the map is returned minus its mean, to be drawn where it is above 0.
    """

    method: str
    map: torch.Tensor
    low: float
    high: float
    gain: float
    deletion: float
    insertion: float
    problem: str
    layer: str = ''
    centred: bool = False


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Results of several methods for one image.

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
    model: nn.Module,
    images: torch.Tensor,
    explainers: Mapping[str, Explainer],
    targets: Targets | None = None,
    steps: int = STEPS,
    batch_size: int = 64,
) -> list[Comparison]:
    """Explain images by several methods, and score each map (``timm_abn.explain.metrics.replacement_curves``).

    Args:
        model: The model, in evaluation mode.
        images: Normalised images, shape (B, C, H, W).
        explainers: Name -> function of images and targets that returns maps (B, 1, h, w)
            (``timm_abn.explain.methods.create_explainers``).
        targets: A class, or task, for each image; by default the most probable.
        steps: Steps of deletion and insertion, which replace pixels by the mean colour.
        batch_size: Images per forward pass.

    Returns:
        One per image.

    Raises:
        TimmAbnError: The model is in training mode, or an argument is invalid or has the wrong shape.
    """
    probabilities = predict(model, images, batch_size)
    predicted, probability = resolve_targets(probabilities)
    explained, target_probability = resolve_targets(probabilities, targets)
    columns = []
    for name, explainer in explainers.items():
        maps = explainer(images, explained).detach().float()
        layer, centred = getattr(explainer, 'layer', ''), getattr(explainer, 'centred', False)
        results = _results(name, model, images, maps, explained, steps, batch_size)
        columns.append([dataclasses.replace(result, layer=layer, centred=centred) for result in results])
    facts = zip(predicted.tolist(), probability.tolist(), explained.tolist(), target_probability.tolist())
    return [Comparison(*fact, results=tuple(column[index] for column in columns)) for index, fact in enumerate(facts)]


def _results(
    name: str,
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: torch.Tensor,
    steps: int,
    batch_size: int,
) -> list[MethodResult]:
    curves = replacement_curves(model, images, maps, targets, steps, batch_size=batch_size)
    scores = list(zip(*(area.tolist() for area in (curves.gain, curves.deletion, curves.insertion))))
    low, high = maps.flatten(1).amin(dim=1).tolist(), maps.flatten(1).amax(dim=1).tolist()
    # a flat map has an order, that of the pixels, and scores that say nothing of the method
    results = []
    for index, problem in enumerate(map_problems(maps)):
        gain, deletion, insertion = (math.nan,) * 3 if problem else scores[index]
        one = maps[index : index + 1].cpu()
        results.append(MethodResult(name, one, low[index], high[index], gain, deletion, insertion, problem))
    return results
