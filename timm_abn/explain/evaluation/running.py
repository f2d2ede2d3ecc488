"""Evaluating explanations batch by batch.

The results of a batch are one file, written whole or not at all. An evaluation that was interrupted continues after the
last of them, and several processes take turns at the batches: in both cases the outcome is that of one process, since
no batch depends on those before it.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from huggingface_hub.utils import tqdm
from safetensors.torch import save_file

from ...data.samples import Sample, read_samples
from ...errors import TimmAbnError
from ...hub.state_dicts import fingerprint_of
from ...networks.network import AttentionBranchNet
from ...records import are_exclusive, num_answers
from ...staging import staged_files
from ..methods import create_explainer
from ..metrics import (
    area_under_curve,
    chance_corrected_energy,
    deletion_and_insertion_curves,
    energy,
    iou,
    map_problems,
    pointing_game,
    predict,
    replaced_fractions,
    replacement_effects,
)
from ..metrics.predictions import Explainer, resolve_targets
from ..processes import rank_and_size, shared_scratch_folder, wait_for_all
from .results import FAITHFULNESS, LOCALISATION, NO_MASK, Evaluation, put_together, write_evaluation

__all__ = ['evaluate', 'weights_fingerprint']


def evaluate(
    model: nn.Module,
    samples: Sequence[Sample],
    methods: Sequence[str] | Mapping[str, Explainer],
    folder: str | Path | None = None,
    steps: int = 224,
    deletion_baseline: str = 'mean',
    insertion_baseline: str = 'blur',
    batch_size: int = 32,
    seed: int = 0,
    data: str = '',
) -> Evaluation | None:
    """Score explanations of a model's predictions, and write ``scores.csv`` and ``summary.json``.

    Under ``torch.distributed`` each process takes its share of the batches.

    Args:
        model: The model, in evaluation mode, on the device to compute on.
        samples: Any sequence of samples, such as ``load_samples`` returns; an error that one raises while it is read is
            a problem of this image alone.
        methods: Names of methods of explanation (``timm_abn.explain.methods.EXPLAINERS``), or name -> any function of
            images and targets that returns maps (B, 1, h, w). Differences are to the first one.
        folder: Where results go. An evaluation with the same settings that was interrupted there is resumed. None
            to leave nothing behind; several processes must then be of one machine.
        steps: Of deletion and insertion.
        deletion_baseline: What replaces pixels: 'mean', 'black' or 'blur'.
        insertion_baseline: What pixels replace.
        batch_size: Images at once, and at most as many changed images.
        seed: Of the bootstrap, and of what reliance draws.
        data: What the samples are, for the record; an evaluation of others in the same folder is refused.

    Returns:
        None in processes other than the first.

    Raises:
        TimmAbnError: The folder holds an evaluation with other settings, or an argument has no meaning.
    """
    if not isinstance(methods, Mapping):
        methods = {name: create_explainer(name, model) for name in methods}
    if not len(samples) or not methods:
        raise TimmAbnError(f'an evaluation needs images and methods, got {len(samples)} and {len(methods)}.')
    settings = dict(
        weights=weights_fingerprint(model),
        images=len(samples),
        data=data,
        methods=list(methods),
        steps=steps,
        deletion_baseline=deletion_baseline,
        insertion_baseline=insertion_baseline,
        batch_size=batch_size,
        seed=seed,
    )
    rank, world_size = rank_and_size()
    with shared_scratch_folder() if folder is None else contextlib.nullcontext(Path(folder)) as place:
        _begin(place, settings, rank)
        parts = [place / 'parts' / f'{index:06}.safetensors' for index in range(-(-len(samples) // batch_size))]
        own = [index for index in range(rank, len(parts), world_size) if not parts[index].is_file()]
        for index in tqdm(own, desc='evaluate', unit='batch', disable=None if rank == 0 else True):
            problems: list[str] = []
            members = range(len(samples))[index * batch_size : (index + 1) * batch_size]
            read = read_samples(samples, members, problems)
            tensors, facts = _evaluate_batch(model, read, methods, settings) if read else ({}, {'rows': []})
            with staged_files(parts[index].parent) as staging:
                facts['unreadable'] = problems
                save_file(tensors, staging / parts[index].name, metadata={'facts': json.dumps(facts)})
        wait_for_all()
        if rank:
            return None
        num_classes = num_answers(model) if are_exclusive(model) else 0  # else labels are no classes
        evaluation = put_together(parts, settings, num_classes)
        write_evaluation(place, evaluation)
        return evaluation


def weights_fingerprint(model: nn.Module) -> str:
    """Return a fingerprint of the weights of a model: the beginning of the SHA-256 of its state dict."""
    return fingerprint_of(model.state_dict())[:16]


def _begin(folder: Path, settings: Mapping[str, Any], rank: int) -> None:
    """Compare the settings with those of an evaluation that was begun before, and record them."""
    path = folder / 'settings.json'
    before = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else settings
    for key, value in settings.items():
        if before.get(key) != value:
            found = f'{key}={before.get(key)!r}, not {value!r}'
            raise TimmAbnError(f'{folder} holds an evaluation with {found}: choose a new folder.')
    wait_for_all()  # all have compared before anything is written
    if rank == 0:
        for left in (folder / 'parts').glob('.partial-*'):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with staged_files(folder) as staging:
            (staging / path.name).write_text(json.dumps(settings, indent=1), encoding='utf-8')
    wait_for_all()


def _evaluate_batch(
    model: nn.Module,
    samples: Sequence[Sample],
    methods: Mapping[str, Explainer],
    settings: Mapping[str, Any],
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the curves and maps of a batch, and its rows and reliance."""
    device = next((parameter.device for parameter in model.parameters()), torch.device('cpu'))
    images = torch.stack([sample.image for sample in samples]).to(device)
    probabilities = predict(model, images, settings['batch_size'])
    predicted = probabilities.argmax(dim=1).tolist()
    given = [own if sample.target is None else sample.target for own, sample in zip(predicted, samples)]
    targets, explained = resolve_targets(probabilities, given)
    rows: list[dict[str, Any]] = []
    tensors = dict(probabilities=probabilities.float().cpu().contiguous())
    for method, explainer in methods.items():
        maps = explainer(images, targets).detach().float()
        baselines = settings['deletion_baseline'], settings['insertion_baseline']
        curves = torch.stack(
            deletion_and_insertion_curves(
                model, images, maps, targets, settings['steps'], *baselines, settings['batch_size']
            )
        )
        tensors[f'{method}.maps'], tensors[f'{method}.curves'] = maps.cpu().contiguous(), curves.cpu().contiguous()
        for index, scores in enumerate(_scores(maps, curves, samples)):
            sample = samples[index]
            row = dict(image=sample.name, method=method, label=sample.label, predicted=predicted[index])
            rows.append({**row, 'target': given[index], 'probability': float(explained[index]), **scores})
    given_targets = any(sample.target is not None for sample in samples)
    reliance = _reliance(model, images, samples, settings)
    return tensors, dict(rows=rows, reliance=reliance, given_targets=given_targets)


def _scores(maps: torch.Tensor, curves: torch.Tensor, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return the scores of each map of a batch, and what is wrong with it."""
    size = samples[0].image.shape[1:]
    fractions = replaced_fractions(curves.shape[2] - 1, size)
    columns = {name: area_under_curve(curve, fractions) for name, curve in zip(FAITHFULNESS, curves)}
    has_masks = any(sample.mask is not None for sample in samples)
    if has_masks:
        empty = torch.zeros(size, dtype=torch.bool)
        masks = torch.stack([empty if sample.mask is None else sample.mask for sample in samples])[:, None]
        for name, metric in zip(LOCALISATION, (pointing_game, energy, chance_corrected_energy, iou)):
            columns[name] = metric(maps, masks.to(maps.device))
    rows = []
    for index, (sample, problem) in enumerate(zip(samples, map_problems(maps))):
        if not problem and has_masks:
            problem = NO_MASK if sample.mask is None else '' if sample.mask.any() else 'empty mask'
        rows.append({**{name: values[index].item() for name, values in columns.items()}, 'problem': problem})
    return rows


def _reliance(
    model: nn.Module,
    images: torch.Tensor,
    samples: Sequence[Sample],
    settings: Mapping[str, Any],
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
