"""Scores of several explanations of one model, over a data set: faithfulness, localisation, reliance, position bias.

The images are taken batch by batch, and what comes of a batch is one file, written whole or not at all. An evaluation
that was interrupted goes on after the last of them, and several processes take turns at the batches: in both cases the
outcome is that of one process, since nothing depends on what came before a batch.
"""

import csv
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
import torch.distributed as dist
import torch.nn as nn
from huggingface_hub.utils import tqdm
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import TimmAbnError, one_line
from ..networks.network import AttentionBranchNet
from ..staging import staged_files
from ..version import __version__
from .metrics import (
    area_under_curve,
    chance_corrected_energy,
    deletion_and_insertion_curves,
    energy,
    iou,
    pointing_game,
    position_bias,
    predict,
    reliance,
    replaced_fractions,
    usable_maps,
)
from .metrics.predictions import Explainer, resolve_targets
from .statistics import Interval, bootstrap_mean

__all__ = ['Evaluation', 'Sample', 'evaluate']

FAITHFULNESS = ('deletion', 'insertion')
LOCALISATION = ('pointing_game', 'energy', 'chance_corrected_energy', 'iou')


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image to evaluate.

    Attributes:
        name: What to call it in tables.
        image: Normalised, shape (C, H, W).
        label: Its class; None if it is not known.
        mask: Where its object is, shape (H, W), bool; None if that is not known.
        target: The class, or task, that is explained; by default the one predicted.
    """

    name: str
    image: torch.Tensor
    label: Optional[int] = None
    mask: Optional[torch.Tensor] = None
    target: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        rows: One an image and method: image, method, label, predicted, probability, the scores, and the problem of
            this map or image, if there is one. Scores that do not exist are NaN.
        scores: Method -> metric -> mean with its 95 % interval.
        differences: Method -> metric -> mean of the paired differences to the first method, with its interval.
        position_bias: Method -> share of the maps' spatial variance that their mean explains.
        reliance: Replacement of the map -> mean effects; empty of a model that is no ABN.
        problems: What was wrong with images or maps -> how often.
        curves: Method -> mean deletion and insertion curves with the bounds of their 95 % intervals, (2, 3, steps + 1).
    """

    rows: List[Dict[str, Any]]
    scores: Dict[str, Dict[str, Interval]]
    differences: Dict[str, Dict[str, Interval]]
    position_bias: Dict[str, float]
    reliance: Dict[str, Dict[str, float]]
    problems: Dict[str, int]
    curves: Dict[str, torch.Tensor]


def evaluate(
    model: nn.Module,
    samples: Sequence[Callable[[], Sample]],
    explainers: Mapping[str, Explainer],
    folder: Path,
    steps: int = 224,
    deletion_baseline: str = 'mean',
    insertion_baseline: str = 'blur',
    batch_size: int = 32,
    seed: int = 0,
    device: Optional[torch.device] = None,
) -> Optional[Evaluation]:
    """Score explanations of a model's predictions, and write ``scores.csv`` and ``summary.json``.

    Under ``torch.distributed`` each process takes its share of the batches.

    Args:
        model: The model, in evaluation mode.
        samples: Functions that read an image each; what they raise is a problem of this image alone.
        explainers: Name of a method -> the method. Differences are to the first one.
        folder: Where results go. An evaluation with the same settings that was interrupted there is gone on with.
        steps: Of deletion and insertion.
        deletion_baseline: What replaces pixels: 'mean', 'black' or 'blur'.
        insertion_baseline: What pixels replace.
        batch_size: Images at once, and at most as many changed images.
        seed: Of the bootstrap, and of what reliance draws.
        device: Where to compute.

    Returns:
        None in processes other than the first.

    Raises:
        TimmAbnError: The folder holds an evaluation with other settings, or an argument has no meaning.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    settings = dict(
        weights=_fingerprint(model),
        images=len(samples),
        methods=list(explainers),
        steps=steps,
        deletion_baseline=deletion_baseline,
        insertion_baseline=insertion_baseline,
        batch_size=batch_size,
        seed=seed,
    )
    if not samples or not explainers:
        raise TimmAbnError(f'an evaluation needs images and methods, got {len(samples)} and {len(explainers)}.')
    _begin(folder, settings)
    parts = [folder / 'parts' / f'{index:06}.safetensors' for index in range(-(-len(samples) // batch_size))]
    own = [index for index in range(rank, len(parts), world_size) if not parts[index].is_file()]
    for index in tqdm(own, desc='evaluate', unit='batch', disable=None if rank == 0 else True):
        batch = samples[index * batch_size : (index + 1) * batch_size]
        tensors, facts = _evaluate_batch(model, batch, explainers, settings, device)
        with staged_files(parts[index].parent) as staging:
            save_file(tensors, staging / parts[index].name, metadata={'facts': json.dumps(facts)})
    if dist.is_initialized():
        dist.barrier()
    if rank:
        return None
    evaluation = _put_together(parts, settings)
    _write(folder, evaluation, settings)
    return evaluation


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down the settings, or compare them with those of an evaluation that was begun before."""
    path = folder / 'settings.json'
    if path.is_file():
        before = json.loads(path.read_text(encoding='utf-8'))
        differing = [key for key in settings if before.get(key) != settings[key]]
        if differing:
            key = differing[0]
            found = f'{key}={before.get(key)!r}, not {settings[key]!r}'
            raise TimmAbnError(f'{folder} holds an evaluation with {found}: choose a new folder.')
        return
    with staged_files(folder) as staging:
        (staging / path.name).write_text(json.dumps(settings, indent=1), encoding='utf-8')


def _evaluate_batch(
    model: nn.Module,
    batch: Sequence[Callable[[], Sample]],
    explainers: Mapping[str, Explainer],
    settings: Mapping[str, Any],
    device: Optional[torch.device],
) -> Tuple[Dict[str, torch.Tensor], Dict[str, Any]]:
    """Return the curves and maps of a batch, and its rows and reliance."""
    facts: Dict[str, Any] = dict(rows=[], reliance={}, unreadable=[])
    read: List[Sample] = []
    for sample in batch:
        try:
            read.append(sample())
        except Exception as error:  # of whatever reads the image: a problem of this image, which the others do not have
            facts['unreadable'].append(one_line(error))
    if not read:
        return {}, facts
    images = torch.stack([sample.image for sample in read]).to(device)
    targets, probabilities = resolve_targets(predict(model, images, settings['batch_size']))
    labels = [sample.label for sample in read]
    tensors: Dict[str, torch.Tensor] = {}
    for method, explainer in explainers.items():
        maps = explainer(images, targets).detach().float()
        curves = torch.stack(_curves(model, images, maps, targets, settings))
        tensors[f'{method}.maps'], tensors[f'{method}.curves'] = maps.cpu().contiguous(), curves.cpu().contiguous()
        scores = _scores(maps, curves, read, settings, images)
        for image, target, probability, row in zip(read, targets.tolist(), probabilities.tolist(), scores):
            known = dict(image=image.name, method=method, label=image.label, predicted=target, probability=probability)
            facts['rows'].append({**known, **row})
    if isinstance(model, AttentionBranchNet) and model.attention_branch.num_maps == 1 and len(images) > 1:
        known_labels = None if None in labels else torch.tensor(labels, device=images.device)
        found = reliance(model, images, known_labels, settings['batch_size'], settings['seed'])
        facts['reliance'] = {row.replacement: dataclasses.asdict(row) for row in found.rows}
        facts['accuracy'] = found.accuracy
    facts['num_images'] = len(images)
    return tensors, facts


def _curves(
    model: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    targets: torch.Tensor,
    settings: Mapping[str, Any],
) -> Tuple[torch.Tensor, torch.Tensor]:
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
) -> List[Dict[str, Any]]:
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
            problem = 'no mask' if mask is None else '' if mask.any() else 'empty mask'
        rows.append({**{name: values[index].item() for name, values in columns.items()}, 'problem': problem})
    return rows


def _put_together(parts: Sequence[Path], settings: Mapping[str, Any]) -> Evaluation:
    """Return what all batches say together."""
    facts: List[Dict[str, Any]] = []
    tensors: Dict[str, List[torch.Tensor]] = {}
    for part in parts:
        with safe_open(part, framework='pt') as file:
            facts.append(json.loads(file.metadata()['facts']))
            for name in file.keys():
                tensors.setdefault(name, []).append(file.get_tensor(name))
    rows = [row for fact in facts for row in fact['rows']]
    problems: Dict[str, int] = {}
    for problem in [row['problem'] for row in rows if row['problem']] + [p for f in facts for p in f['unreadable']]:
        problems[problem] = problems.get(problem, 0) + 1
    by_method = {method: [row for row in rows if row['method'] == method] for method in settings['methods']}
    first = by_method[settings['methods'][0]]
    metrics = [name for name in (*FAITHFULNESS, *LOCALISATION) if rows and name in rows[0]]
    seed = settings['seed']
    return Evaluation(
        rows=rows,
        scores={
            method: {name: bootstrap_mean([row[name] for row in own], seed) for name in metrics}
            for method, own in by_method.items()
        },
        differences={
            method: {
                name: bootstrap_mean([row[name] - other[name] for row, other in zip(own, first)], seed)
                for name in metrics
            }
            for method, own in list(by_method.items())[1:]
        },
        position_bias={method: _bias_of(tensors.get(f'{method}.maps', [])) for method in settings['methods']},
        reliance=_mean_reliance(facts),
        problems=problems,
        curves={method: _band(tensors.get(f'{method}.curves', [])) for method in settings['methods']},
    )


def _bias_of(maps: List[torch.Tensor]) -> float:
    """Return the position bias of those maps that are finite."""
    finite = [batch[batch.flatten(1).isfinite().all(dim=1)] for batch in maps]
    together = torch.cat(finite) if finite else torch.empty(0)
    return position_bias(together) if len(together) else float('nan')


def _mean_reliance(facts: Sequence[Mapping[str, Any]]) -> Dict[str, Dict[str, float]]:
    """Return the means over batches, by the number of their images."""
    sums: Dict[str, Dict[str, float]] = {}
    counts: Dict[str, Dict[str, int]] = {}
    for fact in facts:
        for replacement, row in fact['reliance'].items():
            for name, value in row.items():
                if isinstance(value, float):
                    total, count = sums.setdefault(replacement, {}), counts.setdefault(replacement, {})
                    total[name] = total.get(name, 0.0) + value * fact['num_images']
                    count[name] = count.get(name, 0) + fact['num_images']
    return {
        replacement: {name: total / counts[replacement][name] for name, total in row.items()}
        for replacement, row in sums.items()
    }


def _band(curves: List[torch.Tensor]) -> torch.Tensor:
    """Return mean, and mean less and plus 1.96 standard errors, of each step: (2, 3, steps + 1)."""
    together = torch.cat(curves, dim=1).double() if curves else torch.empty(2, 0, 1, dtype=torch.float64)
    together = together[:, together.isfinite().all(dim=2).all(dim=0)]
    mean = together.mean(dim=1)
    error = 1.96 * together.std(dim=1, correction=1) / max(together.shape[1], 1) ** 0.5
    return torch.stack([mean, mean - error, mean + error], dim=1)


def _write(folder: Path, evaluation: Evaluation, settings: Mapping[str, Any]) -> None:
    summary = dict(
        settings=dict(settings),
        versions=dict(timm_abn=__version__, torch=torch.__version__),
        scores=_as_plain(evaluation.scores),
        differences_to_the_first=_as_plain(evaluation.differences),
        position_bias=evaluation.position_bias,
        reliance=evaluation.reliance,
        problems=evaluation.problems,
    )
    with staged_files(folder) as staging:
        (staging / 'summary.json').write_text(json.dumps(summary, indent=1), encoding='utf-8')
        with (staging / 'scores.csv').open('w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, fieldnames=list(evaluation.rows[0]) if evaluation.rows else ['image'])
            writer.writeheader()
            writer.writerows(evaluation.rows)


def _as_plain(scores: Mapping[str, Mapping[str, Interval]]) -> Dict[str, Dict[str, Dict[str, float]]]:
    return {method: {name: value._asdict() for name, value in row.items()} for method, row in scores.items()}
