"""Evaluating explanations batch by batch.

The results of a batch are one file, written whole or not at all. An evaluation that was interrupted continues after the
last of them, and several processes take turns at the batches: in both cases the outcome is that of one process, since
no batch depends on those before it.
"""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from huggingface_hub.utils import tqdm
from safetensors.torch import save_file

from ...data.samples import Sample
from ...errors import TimmAbnError, one_line
from ...networks.network import AttentionBranchNet
from ...staging import staged_files
from ..methods import create_explainer
from ..metrics import (
    area_under_curve,
    chance_corrected_energy,
    deletion_and_insertion_curves,
    energy,
    iou,
    pointing_game,
    predict,
    replaced_fractions,
    replacement_effects,
    usable_maps,
)
from ..metrics.predictions import Explainer, resolve_targets
from .results import FAITHFULNESS, LOCALISATION, NO_MASK, Evaluation, put_together, write_evaluation

__all__ = ['evaluate', 'weights_fingerprint']


def evaluate(
    model: nn.Module,
    samples: Sequence[Callable[[], Sample]],
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
        samples: Functions that read one image each; an error that one raises is a problem of this image alone.
        methods: Names of methods of explanation (``timm_abn.explain.methods.EXPLAINERS``), or name -> any function of
            images and targets that returns maps (B, 1, h, w). Differences are to the first one.
        folder: Where results go. An evaluation with the same settings that was interrupted there is resumed. None
            to write nothing.
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
    if folder is None:
        with tempfile.TemporaryDirectory(prefix='timm-abn-') as scratch:
            return evaluate(
                model, samples, methods, Path(scratch), steps, deletion_baseline, insertion_baseline, batch_size, seed
            )
    if not isinstance(methods, Mapping):
        methods = {name: create_explainer(name, model) for name in methods}
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
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
    if not samples or not methods:
        raise TimmAbnError(f'an evaluation needs images and methods, got {len(samples)} and {len(methods)}.')
    folder = Path(folder)
    _begin(folder, settings, rank)
    parts = [folder / 'parts' / f'{index:06}.safetensors' for index in range(-(-len(samples) // batch_size))]
    own = [index for index in range(rank, len(parts), world_size) if not parts[index].is_file()]
    for index in tqdm(own, desc='evaluate', unit='batch', disable=None if rank == 0 else True):
        batch = samples[index * batch_size : (index + 1) * batch_size]
        tensors, facts = _evaluate_batch(model, batch, methods, settings)
        with staged_files(parts[index].parent) as staging:
            # JSON has no NaN
            text = json.dumps(_without_nan(facts), allow_nan=False)
            save_file(tensors, staging / parts[index].name, metadata={'facts': text})
    if dist.is_initialized():
        dist.barrier()
    if rank:
        return None
    evaluation = put_together(parts, settings, _num_classes(model))
    write_evaluation(folder, evaluation, settings)
    return evaluation


def _num_classes(model: Any) -> int:
    """Return the number of classes that images can be of; 0 of several tasks, which are none."""
    return 0 if getattr(getattr(model, 'attention_branch', None), 'num_maps', 1) > 1 else model.num_classes


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def weights_fingerprint(model: nn.Module) -> str:
    """Return a fingerprint of the weights of a model: the beginning of the SHA-256 of its state dict.

    Args:
        model: The model.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _begin(folder: Path, settings: Mapping[str, Any], rank: int) -> None:
    """Compare the settings with those of an evaluation that was begun before, and record them."""
    path = folder / 'settings.json'
    if path.is_file():
        before = json.loads(path.read_text(encoding='utf-8'))
        differing = [key for key in settings if before.get(key) != settings[key]]
        if differing:
            key = differing[0]
            found = f'{key}={before.get(key)!r}, not {settings[key]!r}'
            raise TimmAbnError(f'{folder} holds an evaluation with {found}: choose a new folder.')
    if dist.is_initialized():
        dist.barrier()  # all have compared before anything is written
    if rank == 0:
        for left in (folder / 'parts').glob('.partial-*'):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with staged_files(folder) as staging:
            (staging / path.name).write_text(json.dumps(settings, indent=1), encoding='utf-8')
    if dist.is_initialized():
        dist.barrier()


def _evaluate_batch(
    model: nn.Module,
    batch: Sequence[Callable[[], Sample]],
    methods: Mapping[str, Explainer],
    settings: Mapping[str, Any],
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the curves and maps of a batch, and its rows and reliance."""
    facts: dict[str, Any] = dict(rows=[], reliance={}, unreadable=[], given_targets=False)
    read: list[Sample] = []
    for sample in batch:
        try:
            read.append(sample())
        except Exception as error:  # of whatever reads the image: a problem of this image, which the others do not have
            facts['unreadable'].append(one_line(error))
    if not read:
        return {}, facts
    device = next((parameter.device for parameter in model.parameters()), torch.device('cpu'))
    images = torch.stack([sample.image for sample in read]).to(device)
    probabilities = predict(model, images, settings['batch_size'])
    predicted = probabilities.argmax(dim=1)
    given = [predicted[index] if sample.target is None else sample.target for index, sample in enumerate(read)]
    targets, explained = resolve_targets(probabilities, torch.tensor([int(target) for target in given]))
    tensors: dict[str, torch.Tensor] = {}
    for method, explainer in methods.items():
        maps = explainer(images, targets).detach().float()
        curves = torch.stack(_curves(model, images, maps, targets, settings))
        tensors[f'{method}.maps'], tensors[f'{method}.curves'] = maps.cpu().contiguous(), curves.cpu().contiguous()
        scores = _scores(maps, curves, read, settings, images)
        for index, (image, row) in enumerate(zip(read, scores)):
            prediction = dict(predicted=int(predicted[index]), target=int(targets[index]))
            known = dict(image=image.name, method=method, label=image.label, **prediction)
            facts['rows'].append({**known, 'probability': float(explained[index]), **row})
    facts['given_targets'] = any(sample.target is not None for sample in read)
    facts['reliance'] = _reliance(model, images, read, settings)
    return tensors, facts


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
    if model.attention_branch.num_maps == 1:
        known = [samples[index].label for index in first]
        labels = torch.tensor([-1 if label is None else label for label in known], device=images.device)
    effects, _ = replacement_effects(model, images[first], labels, settings['batch_size'], settings['seed'])
    columns = {
        replacement: {name: values for name, values in found._asdict().items() if values is not None}
        for replacement, found in effects.items()
    }
    for found in columns.values():
        if labels is not None:
            found['accuracy_change'] = found['accuracy_change'].masked_fill(labels < 0, math.nan)
    return {
        replacement: {name: values.tolist() for name, values in found.items()} for replacement, found in columns.items()
    }


def _curves(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: torch.Tensor,
    settings: Mapping[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    return deletion_and_insertion_curves(
        model,
        images,
        maps,
        targets,
        settings['steps'],
        settings['deletion_baseline'],
        settings['insertion_baseline'],
        settings['batch_size'],
    )


def _scores(
    maps: torch.Tensor,
    curves: torch.Tensor,
    samples: Sequence[Sample],
    settings: Mapping[str, Any],
    images: torch.Tensor,
) -> list[dict[str, Any]]:
    """Return the scores of each map of a batch, and what is wrong with it."""
    fractions = replaced_fractions(settings['steps'], images.shape[2:])
    columns = {name: area_under_curve(curve, fractions) for name, curve in zip(FAITHFULNESS, curves)}
    masks = [sample.mask for sample in samples]
    if any(mask is not None for mask in masks):
        empty = torch.zeros(images.shape[2:], dtype=torch.bool)
        stacked = torch.stack([empty if mask is None else mask for mask in masks])[:, None].to(maps.device)
        for name, metric in zip(LOCALISATION, (pointing_game, energy, chance_corrected_energy, iou)):
            columns[name] = metric(maps, stacked)
    usable, finite = usable_maps(maps).tolist(), maps.flatten(1).isfinite().all(dim=1).tolist()
    rows = []
    for index, mask in enumerate(masks):
        problem = '' if usable[index] else 'flat map' if finite[index] else 'NaN or infinity in the map'
        if not problem and len(columns) > len(FAITHFULNESS):
            problem = NO_MASK if mask is None else '' if mask.any() else 'empty mask'
        rows.append({**{name: values[index].item() for name, values in columns.items()}, 'problem': problem})
    return rows
