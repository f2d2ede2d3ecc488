"""What an evaluation found: put together from its parts, joined with that of a baseline, and written to files."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from safetensors import safe_open

from ...errors import TimmAbnError
from ...staging import staged_files, write_csv
from ...version import __version__
from ..metrics import Reliance, RelianceRow, usable_maps
from ..metrics.accuracy import are_uneven, uneven_scores
from ..statistics import Interval, bootstrap_mean

__all__ = [
    'FAITHFULNESS',
    'LOCALISATION',
    'NO_MASK',
    'REPLACEMENTS',
    'TITLES',
    'Evaluation',
    'join_evaluations',
    'put_together',
    'write_evaluation',
]

FAITHFULNESS = ('symmetric_relevance_gain', 'deletion', 'insertion')
LOCALISATION = ('pointing_game', 'energy', 'chance_corrected_energy', 'iou')
NO_MASK = 'no mask'

# how tables call the metrics, and the maps that replace the predicted one
TITLES = {
    'symmetric_relevance_gain': 'SRG ↑',
    'deletion': 'deletion ↓',
    'insertion': 'insertion ↑',
    'pointing_game': 'pointing game',
    'energy': 'energy',
    'chance_corrected_energy': 'energy above chance',
    'iou': 'best IoU',
}
REPLACEMENTS = {
    'mean': 'its own mean, everywhere',
    'other': 'that of another image',
    'shuffled': 'shuffled in space',
    'inverse': '1 - map',
    'uniform': '0 instead of 0.5, everywhere',
    'half': '0.5 in the left half, 0 in the right',
}
_EFFECTS = ('effect', 'probability_change', 'changed_predictions')

Row = dict[str, Any]
T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        rows: One per image and method: image, method, label, predicted, target, probability (of the target), scores,
            and the problem with this map or image, if there is one. Scores that do not exist are NaN.
        scores: Method -> metric -> mean with its 95 % interval.
        differences: Method -> metric -> mean of the paired differences to the first method, with its interval.
        targets: Method -> target -> metric -> mean with its interval, where samples say what their target is, such as
            the tasks of a multi-task network; else empty.
        accuracy: Share of the labelled images that are predicted rightly, with its interval.
        position_bias: Method -> share of the maps' spatial variance that their mean explains.
        reliance: Replacement of the map -> effect -> mean with its interval; empty of a model that is no ABN.
        findings: What readers must know of the model's reliance on its map, one sentence each (``Reliance.findings``).
        problems: What was wrong with images or maps -> how often.
        classes_without_examples: Classes of the model that no image is of, if images are labelled.
        curves: Method -> mean deletion and insertion curves with the bounds of their 95 % intervals, (2, 3, steps + 1).
        settings: Those of the evaluation, for the record.
        uneven: What the accuracy hides where classes are uneven (``uneven_scores``); else empty.
    """

    rows: list[Row]
    scores: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Interval]]
    targets: dict[str, dict[int, dict[str, Interval]]]
    accuracy: Interval
    position_bias: dict[str, float]
    reliance: dict[str, dict[str, Interval]]
    findings: list[str]
    problems: dict[str, int]
    classes_without_examples: list[int]
    curves: dict[str, torch.Tensor]
    settings: dict[str, Any]
    uneven: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """The metrics that were measured."""
        return [name for name in (*FAITHFULNESS, *LOCALISATION) if self.rows and name in self.rows[0]]


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


def put_together(parts: Sequence[Path], settings: dict[str, Any], num_classes: int) -> Evaluation:
    """Return what all batches say together; of their curves and maps only sums are kept in memory.

    ``parts`` are the files of the batches, in their order; ``num_classes`` is 0 if labels are no classes.
    """
    seed, methods = settings['seed'], settings['methods']
    rows: list[Row] = []
    problems: list[str] = []
    reliance: dict[str, dict[str, list[float]]] = {}
    curves, maps = ({method: _Moments() for method in methods} for _ in range(2))
    usable = dict.fromkeys(methods, False)
    given_targets = False
    for part in parts:
        with safe_open(part, framework='pt') as file:
            facts = json.loads(file.metadata()['facts'])
            problems += facts['unreadable']
            if not facts['rows']:
                continue
            for method in methods:
                curves[method].add(file.get_tensor(f'{method}.curves').transpose(0, 1))
                tensor = file.get_tensor(f'{method}.maps').double()
                usable[method] |= bool(usable_maps(tensor).any())
                maps[method].add((tensor - tensor.mean(dim=(2, 3), keepdim=True)).flatten(1))
        rows += facts['rows']
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
    return Evaluation(
        rows=rows,
        scores={method: _means(own, metrics, seed) for method, own in by_method.items()},
        differences={method: _differences(by_method[method], first, metrics, seed) for method in methods[1:]},
        targets={
            method: {target: _means([r for r in own if r['target'] == target], metrics, seed) for target in targets}
            for method, own in by_method.items()
            if targets
        },
        accuracy=bootstrap_mean([float(row['label'] == row['predicted']) for row in labelled], seed),
        position_bias={method: _bias(maps[method]) if usable[method] else math.nan for method in methods},
        reliance=intervals,
        findings=_findings(intervals),
        problems=dict(Counter([*(row['problem'] for row in rows if row['problem']), *problems])),
        classes_without_examples=[index for index in range(num_classes) if index not in seen] if labelled else [],
        curves={method: moments.band() for method, moments in curves.items()},
        settings=settings,
        uneven=_uneven(parts, [row['label'] for row in first]),
    )


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
    metrics = [name for name in (*FAITHFULNESS, *LOCALISATION) if any(name in row for row in rows)]
    for row in rows:
        problem = row.pop('problem')
        if not problem and len(metrics) > len(FAITHFULNESS) and metrics[-1] not in row:
            problem = NO_MASK
        for name in metrics:
            row.setdefault(name, math.nan)
        row['problem'] = problem
    return metrics


def _bias(moments: _Moments) -> float:
    """Return the position bias (``timm_abn.explain.metrics.position_bias``) from sums of centred maps."""
    return (moments.mean.square().mean() / (moments.squares / moments.number).mean()).item()


def _means(rows: Sequence[Row], metrics: Iterable[str], seed: int) -> dict[str, Interval]:
    images = [row['image'] for row in rows]
    return {name: bootstrap_mean([row[name] for row in rows], seed, images) for name in metrics}


def _differences(rows: Sequence[Row], first: Sequence[Row], metrics: Iterable[str], seed: int) -> dict[str, Interval]:
    images = [row['image'] for row in rows]
    if images != [row['image'] for row in first]:
        raise TimmAbnError('the rows of two methods are not of the same images, so that nothing can be paired.')
    return {
        name: bootstrap_mean([row[name] - other[name] for row, other in zip(rows, first)], seed, images)
        for name in metrics
    }


def _findings(reliance: Mapping[str, Mapping[str, Interval]]) -> list[str]:
    rows = tuple(
        RelianceRow(replacement, *(columns[name].mean for name in _EFFECTS))
        for replacement, columns in reliance.items()
    )
    return Reliance(rows).findings if rows else []


def join_evaluations(evaluation: Evaluation, name: str, baseline: Evaluation) -> Evaluation:
    """Return an evaluation with the methods of another model on the same images, called ``NAME: METHOD``.

    What is about the model rather than its explanations (accuracy, reliance, findings) stays that of the first.

    Raises:
        TimmAbnError: The two are not of the same images, in the same order.
    """
    settings, metrics = evaluation.settings, baseline.metrics
    own = [row for row in evaluation.rows if row['method'] == settings['methods'][0]]
    rows = [dict(row, method=f'{name}: {row["method"]}') for row in baseline.rows]

    def both(own: dict[str, T], other: dict[str, T]) -> dict[str, T]:
        return {**own, **{f'{name}: {key}': value for key, value in other.items()}}

    differences = {
        title: _differences([row for row in rows if row['method'] == title], own, metrics, settings['seed'])
        for title in (f'{name}: {method}' for method in baseline.scores)
    }
    return dataclasses.replace(
        evaluation,
        rows=[*evaluation.rows, *rows],
        differences={**evaluation.differences, **differences},
        scores=both(evaluation.scores, baseline.scores),
        targets=both(evaluation.targets, baseline.targets),
        position_bias=both(evaluation.position_bias, baseline.position_bias),
        problems=both(evaluation.problems, baseline.problems),
        curves=both(evaluation.curves, baseline.curves),
        settings={**settings, 'baseline': baseline.settings},
    )


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write ``scores.csv``, a row per image and method, and ``summary.json``: both or none."""
    summary = dict(
        settings=evaluation.settings,
        versions=dict(timm_abn=__version__, timm=timm.__version__, torch=torch.__version__),
        accuracy=_plain(evaluation.accuracy),
        uneven=_plain(evaluation.uneven),
        scores=_plain(evaluation.scores),
        differences_to_the_first=_plain(evaluation.differences),
        targets=_plain(evaluation.targets),
        position_bias=_plain(evaluation.position_bias),
        reliance=_plain(evaluation.reliance),
        findings=evaluation.findings,
        problems=evaluation.problems,
        classes_without_examples=evaluation.classes_without_examples,
    )
    with staged_files(folder) as staging:
        text = json.dumps(summary, indent=1, allow_nan=False)
        (staging / 'summary.json').write_text(text, encoding='utf-8')
        columns = list(evaluation.rows[0]) if evaluation.rows else ['image']
        write_csv(staging / 'scores.csv', evaluation.rows, columns)


def _plain(value: Any) -> Any:
    """Return what JSON can say: intervals by name, and None for NaN."""
    if isinstance(value, Interval):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
