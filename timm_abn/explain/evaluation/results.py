"""What an evaluation found: put together from its parts, joined with that of a reference, and written to files."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch

from ...errors import TimmAbnError
from ...staging import staged_files, write_csv
from ...version import __version__
from ..statistics import Interval, bootstrap_mean

__all__ = [
    'FAITHFULNESS',
    'GAINS',
    'LOCALISATION',
    'METRICS',
    'NO_MASK',
    'PAIRED',
    'REPLACEMENTS',
    'TITLES',
    'Evaluation',
    'join_evaluations',
    'paired_differences',
    'write_evaluation',
]

FAITHFULNESS = ('symmetric_relevance_gain', 'deletion', 'insertion')
LOCALISATION = ('pointing_game', 'energy', 'chance_corrected_energy', 'iou')
GAINS = ('symmetric_relevance_gain', 'above_mean_map')
METRICS = (*GAINS, 'deletion', 'insertion', *LOCALISATION, 'grid_pointing_game', 'classes_alike', 'randomised')
PAIRED = (*FAITHFULNESS, *LOCALISATION, 'grid_pointing_game')  # whose differences to the first method are told
NO_MASK = 'no mask'

# how tables call the metrics, and the maps that replace the predicted one
TITLES = {
    'symmetric_relevance_gain': 'SRG ↑',
    'above_mean_map': 'above the mean map ↑',
    'deletion': 'deletion ↓',
    'insertion': 'insertion ↑',
    'pointing_game': 'pointing game ↑',
    'energy': 'energy ↑',
    'chance_corrected_energy': 'energy above chance ↑',
    'iou': 'best IoU ↑',
    'grid_pointing_game': 'GridPG ↑',
    'classes_alike': 'classes alike ↓',
    'randomised': 'randomised ↓',
}
REPLACEMENTS = {
    'mean': 'its own mean, everywhere',
    'other': 'that of another image',
    'shuffled': 'shuffled in space',
    'inverse': '1 - map',
    'uniform': '0 instead of 0.5, everywhere',
    'half': '0.5 in the left half, 0 in the right',
}

Row = dict[str, Any]
T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation.

    Attributes:
        rows: One per image and method: image, method, label, predicted, target, probability (of the target), scores,
            whether the mean map is over all classes, and the problem with this map or image, if there is one. Missing
            scores are NaN.
        scores: Method -> metric -> mean with its 95 % interval. ``above_mean_map`` is the symmetric relevance gain less
            that of the method's mean map over other images predicted as the same class; ``classes_alike`` is the rank
            correlation with the map of the most probable other class; ``randomised`` is that with the map after the
            head is reinitialised.
        differences: Method -> metric -> mean of the paired differences to the first method, with its interval.
        targets: Method -> target -> metric -> mean with its interval, if samples have targets, such as the tasks of a
            multi-task network; else empty.
        by_class: Method -> predicted class (or target) -> gain, and gain above the mean map, for classes with 10 images
            or more; -1 -> all others together.
        verdicts: Method -> verdict on its maps, in words (``timm_abn.explain.verdict``).
        accuracy: Share of the labelled images that are predicted correctly, with its interval.
        position_bias: Method -> share of the maps' spatial variance that their mean explains.
        reliance: Replacement of the map -> effect -> mean with its interval; empty if the model is not an ABN.
        findings: Warnings, one sentence each: about the model's reliance on its map (``Reliance.findings``), and about
            methods that are each better for some class.
        problems: Problem with images or maps -> how often it occurred.
        classes_without_examples: Classes of the model without images, if images are labelled.
        curves: Method -> mean deletion and insertion curves with the bounds of their 95 % intervals, (2, 3, steps + 1).
        settings: Settings of the evaluation, for the record.
        uneven: Balanced accuracy and area under the ROC curve if classes are uneven (``uneven_scores``); else empty.
    """

    rows: list[Row]
    scores: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Interval]]
    targets: dict[str, dict[int, dict[str, Interval]]]
    by_class: dict[str, dict[int, dict[str, Interval]]]
    verdicts: dict[str, str]
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
        return [name for name in METRICS if self.rows and name in self.rows[0]]


def paired_differences(
    rows: Sequence[Row], first: Sequence[Row], metrics: Iterable[str], seed: int
) -> dict[str, Interval]:
    """Return the mean differences of metrics between the rows of two methods, of the same images in the same order."""
    images = [row['image'] for row in rows]
    if images != [row['image'] for row in first]:
        raise TimmAbnError('the rows of two methods are for different images and cannot be paired.')
    return {
        name: bootstrap_mean([row[name] - other[name] for row, other in zip(rows, first)], seed, images)
        for name in metrics
        if name in PAIRED
    }


def join_evaluations(evaluation: Evaluation, name: str, reference: Evaluation) -> Evaluation:
    """Return an evaluation with the methods of another model on the same images, called ``NAME: METHOD``.

    What is about the model rather than its explanations (accuracy, reliance, findings) stays that of the first.

    Raises:
        TimmAbnError: The two are not of the same images, in the same order.
    """
    settings, metrics = evaluation.settings, reference.metrics
    own = [row for row in evaluation.rows if row['method'] == settings['methods'][0]]
    rows = [dict(row, method=f'{name}: {row["method"]}') for row in reference.rows]

    def both(own: dict[str, T], other: dict[str, T]) -> dict[str, T]:
        return {**own, **{f'{name}: {key}': value for key, value in other.items()}}

    differences = {
        title: paired_differences([row for row in rows if row['method'] == title], own, metrics, settings['seed'])
        for title in (f'{name}: {method}' for method in reference.scores)
    }
    layers = both(settings['layers'], reference.settings['layers'])
    return dataclasses.replace(
        evaluation,
        rows=[*evaluation.rows, *rows],
        differences={**evaluation.differences, **differences},
        scores=both(evaluation.scores, reference.scores),
        targets=both(evaluation.targets, reference.targets),
        by_class=both(evaluation.by_class, reference.by_class),
        verdicts=both(evaluation.verdicts, reference.verdicts),
        position_bias=both(evaluation.position_bias, reference.position_bias),
        problems=both(evaluation.problems, reference.problems),
        curves=both(evaluation.curves, reference.curves),
        settings={**settings, 'layers': layers, 'reference': reference.settings},
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
        by_class=_plain(evaluation.by_class),
        verdicts=evaluation.verdicts,
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
