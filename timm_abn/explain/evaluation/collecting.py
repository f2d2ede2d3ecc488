"""An evaluation, put together from the files of its batches."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..methods.floors import FLOORS
from ..metrics import Reliance, RelianceRow, usable_maps
from ..metrics.accuracy import are_uneven, uneven_scores
from ..statistics import Interval, bootstrap_mean
from .classes import contradictions, split_by_class, verdicts
from .results import LOCALISATION, METRICS, NO_MASK, Evaluation, paired_differences

__all__ = ['put_together']

_EFFECTS = ('effect', 'probability_change', 'changed_predictions')
_AT_TIMES = (*LOCALISATION, 'grid_pointing_game')  # metrics that are not measured each time

Row = dict[str, Any]


class _Moments:
    """Sums over images, from which mean and standard error come, whatever the number of images."""

    def __init__(self) -> None:
        self.number = 0
        self.total = self.squares = torch.zeros(1, dtype=torch.float64)

    def add(self, values: torch.Tensor) -> None:
        """Add values of images, shape (N, ...), those that are finite."""
        values = values[values.flatten(1).isfinite().all(dim=1)].double()
        self.number += len(values)
        self.total = self.total + values.sum(dim=0)
        self.squares = self.squares + values.square().sum(dim=0)

    @property
    def mean(self) -> torch.Tensor:
        return self.total / self.number if self.number else self.total * math.nan

    def band(self) -> torch.Tensor:
        """Return mean, and mean less and plus 1.96 standard errors, stacked along the last dimension but one."""
        variance = (self.squares - self.number * self.mean.square()).clamp(min=0) / max(self.number - 1, 1)
        error = 1.96 * (variance / max(self.number, 1)).sqrt()
        return torch.stack([self.mean, self.mean - error, self.mean + error], dim=-2)


def put_together(
    parts: Sequence[tuple[Path, Path]],
    mosaics: Sequence[Path],
    settings: dict[str, Any],
    names: Sequence[str],
    exclusive: bool,
    findings: Sequence[str] = (),
) -> Evaluation:
    """Return what all batches say together; of their curves and maps only sums are kept in memory.

    Args:
        parts: The files of the maps and of the curves of each batch, in their order.
        mosaics: The files of mosaics, if there are some.
        settings: Those of the evaluation.
        names: Of classes, labels or tasks.
        exclusive: Whether these are classes, of which an image has one.
        findings: What else to say.
    """
    seed, methods = settings['seed'], settings['methods']
    rows: list[Row] = []
    problems: list[str] = []
    reliance: dict[str, dict[str, list[float]]] = {}
    curves, maps = ({method: _Moments() for method in methods} for _ in range(2))
    usable = dict.fromkeys(methods, False)
    given_targets = False
    on_mosaics = _on_mosaics(mosaics)
    for of_maps, of_curves in parts:
        with safe_open(of_maps, framework='pt') as file, safe_open(of_curves, framework='pt') as scored:
            facts, scores = (json.loads(opened.metadata()['facts']) for opened in (file, scored))
            problems += facts['unreadable']
            if not facts['rows']:
                continue
            for method in methods:
                curves[method].add(scored.get_tensor(f'{method}.curves').transpose(0, 1))
                tensor = file.get_tensor(f'{method}.maps').double()
                usable[method] |= bool(usable_maps(tensor).any())
                maps[method].add((tensor - tensor.mean(dim=(2, 3), keepdim=True)).flatten(1))
        for place, (row, found) in enumerate(zip(facts['rows'], scores['rows'], strict=True)):
            index = facts['indices'][place % len(facts['indices'])]
            rows.append({**row, **found, **on_mosaics.get((index, row['method']), {})})
        given_targets |= facts['given_targets']
        for replacement, columns in facts['reliance'].items():
            for name, values in columns.items():
                reliance.setdefault(replacement, {}).setdefault(name, []).extend(values)
    metrics = _complete(rows)
    by_method = {method: [row for row in rows if row['method'] == method] for method in methods}
    first = by_method[methods[0]]
    labelled = [row for row in first if row['label'] is not None]
    seen = {row['label'] for row in labelled}
    targets = sorted({row['target'] for row in rows}) if given_targets else []
    intervals = {
        replacement: {name: bootstrap_mean(values, seed) for name, values in columns.items()}
        for replacement, columns in reliance.items()
    }
    means = {method: _means(own, metrics, seed) for method, own in by_method.items()}
    by_class = {method: split_by_class(own, seed) for method, own in by_method.items() if method not in FLOORS}
    return Evaluation(
        rows=rows,
        scores=means,
        differences={method: paired_differences(by_method[method], first, metrics, seed) for method in methods[1:]},
        targets={
            method: {target: _means([r for r in own if r['target'] == target], metrics, seed) for target in targets}
            for method, own in by_method.items()
            if targets
        },
        by_class=by_class,
        verdicts=verdicts(by_method, means, by_class, settings, names),
        accuracy=bootstrap_mean([float(row['label'] == row['predicted']) for row in labelled], seed),
        position_bias={method: _bias(maps[method]) if usable[method] else math.nan for method in methods},
        reliance=intervals,
        findings=[*_findings(intervals), *contradictions(by_method, means, names, seed), *findings],
        problems=dict(Counter([*(row['problem'] for row in rows if row['problem']), *problems])),
        classes_without_examples=[i for i in range(len(names)) if i not in seen] if labelled and exclusive else [],
        curves={method: moments.band() for method, moments in curves.items()},
        settings=settings,
        uneven=_uneven([part for part, _ in parts], [row['label'] for row in first]),
    )


def _on_mosaics(parts: Sequence[Path]) -> dict[tuple[int, str], dict[str, float]]:
    """Return GridPG by sample and method: the mean over all cells that show the sample, of those that have a score."""
    found: dict[tuple[int, str], list[float]] = {}
    for part in parts:
        with safe_open(part, framework='pt') as file:
            facts = json.loads(file.metadata()['facts'])
        for method, shares in facts['shares'].items():
            for index, share in zip(facts['shown'], shares):
                found.setdefault((index, method), []).append(share)
    means = {key: [share for share in shares if share == share] for key, shares in found.items()}
    return {key: dict(grid_pointing_game=sum(own) / len(own)) for key, own in means.items() if own}


def _uneven(parts: Sequence[Path], labels: Sequence[int | None]) -> dict[str, float]:
    """Return the scores of uneven classes; probabilities are read only if there are some."""
    known = [index for index, label in enumerate(labels) if label is not None]
    true = [label for label in labels if label is not None]
    if not are_uneven(true):
        return {}
    probabilities = []
    for part in parts:
        with safe_open(part, framework='pt') as file:
            if json.loads(file.metadata()['facts'])['rows']:
                probabilities.append(file.get_tensor('probabilities'))
    return uneven_scores(true, torch.cat(probabilities)[known])


def _complete(rows: Sequence[Row]) -> list[str]:
    """Give all rows the same columns, and return the metrics: a batch without any mask has none of localisation."""
    metrics = [name for name in METRICS if name not in _AT_TIMES or any(name in row for row in rows)]
    for row in rows:
        problem = row.pop('problem')
        if not problem and LOCALISATION[0] in metrics and LOCALISATION[0] not in row:
            problem = NO_MASK
        scores = {name: row.pop(name, math.nan) for name in metrics}
        row.update(**scores, mean_map_of_all=row.pop('mean_map_of_all'), problem=problem)
    return metrics


def _bias(moments: _Moments) -> float:
    """Return the position bias (``timm_abn.explain.metrics.position_bias``) from sums of centred maps."""
    return (moments.mean.square().mean() / (moments.squares / moments.number).mean()).item()


def _means(rows: Sequence[Row], metrics: Iterable[str], seed: int) -> dict[str, Interval]:
    images = [row['image'] for row in rows]
    return {name: bootstrap_mean([row[name] for row in rows], seed, images) for name in metrics}


def _findings(reliance: Mapping[str, Mapping[str, Interval]]) -> list[str]:
    rows = tuple(
        RelianceRow(replacement, *(columns[name].mean for name in _EFFECTS))
        for replacement, columns in reliance.items()
    )
    return Reliance(rows).findings if rows else []
