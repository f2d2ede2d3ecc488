"""What is measured of a batch of images: first their maps, then, of these and of controls, the curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn

from ...data.samples import Sample
from ...networks.network import AttentionBranchNet
from ...records import are_exclusive
from ..methods.floors import FLOORS
from ..metrics import (
    chance_corrected_energy,
    energy,
    iou,
    map_problems,
    pointing_game,
    predict,
    random_head,
    rank_correlation,
    replacement_curves,
    replacement_effects,
)
from ..metrics.predictions import Explainer, resolve_targets
from .controls import MeanMaps
from .results import FAITHFULNESS, LOCALISATION, NO_MASK

__all__ = ['batch_of', 'explain_batch', 'nothing', 'score_batch']

Row = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def batch_of(model: nn.Module, samples: Sequence[Sample]) -> torch.Tensor:
    """Return the images of samples, shape (B, C, H, W), where the model computes."""
    device = next((parameter.device for parameter in model.parameters()), torch.device('cpu'))
    return torch.stack([sample.image for sample in samples]).to(device)


def nothing() -> tuple[Tensors, dict[str, Any]]:
    """Return what is known of a batch of which no image can be read."""
    return {}, {'rows': []}


def explain_batch(
    model: nn.Module, samples: Sequence[Sample], methods: Mapping[str, Explainer], settings: Mapping[str, Any]
) -> tuple[Tensors, dict[str, Any]]:
    """Return the probabilities and maps of a batch; its rows, as far as maps alone tell, and its reliance."""
    images = batch_of(model, samples)
    probabilities = predict(model, images, settings['batch_size'])
    predicted = probabilities.argmax(dim=1).tolist()
    given = [own if sample.target is None else sample.target for own, sample in zip(predicted, samples)]
    targets, explained = resolve_targets(probabilities, given)
    maps = {method: _maps(explainer, images, targets) for method, explainer in methods.items()}
    own = {method: explainer for method, explainer in methods.items() if method not in FLOORS}
    alike = {}
    if probabilities.shape[1] > 1:
        others = probabilities.scatter(1, targets[:, None], -1).argmax(dim=1)
        alike = {method: rank_correlation(maps[method], _maps(own[method], images, others)) for method in own}
    with random_head(model, settings['seed']):
        randomised = {method: rank_correlation(maps[method], _maps(own[method], images, targets)) for method in own}
    rows = []
    for method, found in maps.items():
        columns = _localisation(found, samples)
        for name, correlations in (('classes_alike', alike), ('randomised', randomised)):
            if method in correlations:
                columns[name] = correlations[method]
        for index, (sample, problem) in enumerate(zip(samples, _problems(found, samples))):
            row = dict(image=sample.name, method=method, label=sample.label, predicted=predicted[index])
            row.update(target=given[index], probability=float(explained[index]))
            rows.append({**row, **{name: values[index].item() for name, values in columns.items()}, 'problem': problem})
    tensors = {f'{method}.maps': found.cpu().contiguous() for method, found in maps.items()}
    tensors['probabilities'] = probabilities.float().cpu().contiguous()
    given_targets = any(sample.target is not None for sample in samples)
    return tensors, dict(rows=rows, reliance=_reliance(model, images, samples, settings), given_targets=given_targets)


def score_batch(
    model: nn.Module,
    samples: Sequence[Sample],
    maps: Mapping[str, torch.Tensor],
    targets: list[int],
    controls: Mapping[str, MeanMaps],
    settings: Mapping[str, Any],
) -> tuple[Tensors, dict[str, Any]]:
    """Return the curves of the maps of each method, and the scores that follow from them and from those of controls."""
    images = batch_of(model, samples)
    options = [settings[name] for name in ('steps', 'baseline', 'patch_size', 'batch_size')]
    tensors: Tensors = {}
    rows: list[Row] = []
    for method, found in maps.items():
        curves = replacement_curves(model, images, found, targets, *options)
        tensors[f'{method}.curves'] = torch.stack([curves.deleted, curves.inserted]).cpu()
        columns = dict(zip(FAITHFULNESS, (curves.gain, curves.deletion, curves.insertion)))
        of_all = [False] * len(samples)
        if method in controls:
            mean_maps, of_all = controls[method].of_others(found, targets)
            control = replacement_curves(model, images, mean_maps.float(), targets, *options)
            columns['above_mean_map'] = curves.gain - control.gain
        for index, is_of_all in enumerate(of_all):
            scores = {name: values[index].item() for name, values in columns.items()}
            rows.append({**scores, 'mean_map_of_all': is_of_all})
    return tensors, dict(rows=rows)


def _maps(explainer: Explainer, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return explainer(images, targets).detach().float()


def _localisation(maps: torch.Tensor, samples: Sequence[Sample]) -> Tensors:
    """Return the scores of each map of a batch against the masks, if there are some."""
    if all(sample.mask is None for sample in samples):
        return {}
    empty = torch.zeros(samples[0].image.shape[1:], dtype=torch.bool)
    masks = torch.stack([empty if sample.mask is None else sample.mask for sample in samples])[:, None].to(maps.device)
    metrics = (pointing_game, energy, chance_corrected_energy, iou)
    return {name: metric(maps, masks) for name, metric in zip(LOCALISATION, metrics)}


def _problems(maps: torch.Tensor, samples: Sequence[Sample]) -> list[str]:
    """Return what is wrong with each map, or with its mask where others of the batch have one."""
    of_masks = [''] * len(samples)
    if any(sample.mask is not None for sample in samples):
        of_masks = [NO_MASK if s.mask is None else '' if s.mask.any() else 'empty mask' for s in samples]
    return [problem or of_mask for problem, of_mask in zip(map_problems(maps), of_masks)]


def _reliance(
    model: nn.Module, images: torch.Tensor, samples: Sequence[Sample], settings: Mapping[str, Any]
) -> dict[str, dict[str, list[float]]]:
    """Return what replacements of the map change for each image: replacement -> effect -> values."""
    if not isinstance(model, AttentionBranchNet) or model.attention_branch is None:
        return {}
    # of several tasks an image may be there once for each
    indices: dict[str, int] = {}
    for index, sample in enumerate(samples):
        indices.setdefault(sample.name, index)
    first = list(indices.values())
    labels = None
    if are_exclusive(model):
        known = [samples[index].label for index in first]
        labels = torch.tensor([-1 if label is None else label for label in known], device=images.device)
    effects, _ = replacement_effects(model, images[first], labels, settings['batch_size'], settings['seed'])
    found: dict[str, dict[str, list[float]]] = {}
    for replacement, columns in effects.items():
        found[replacement] = {name: values.tolist() for name, values in columns._asdict().items() if values is not None}
        if labels is not None:
            changes = columns.accuracy_change.masked_fill(labels < 0, math.nan)  # type: ignore[union-attr]
            found[replacement]['accuracy_change'] = changes.tolist()
    return found
