"""What scores say class by class, and the verdicts on methods: whether a gain is that of one class alone."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ..methods.floors import FLOORS
from ..statistics import Interval, bootstrap_mean
from ..verdict import FEWEST_IMAGES, Evidence, verdict
from .results import GAINS, paired_differences

__all__ = ['OTHERS', 'contradictions', 'only_class', 'split_by_class', 'verdicts']

OTHERS = -1  # all classes with few images, together
GAIN = GAINS[0]

Row = dict[str, Any]
ByClass = Mapping[int, Mapping[str, Interval]]


def split_by_class(rows: Sequence[Row], seed: int) -> dict[int, dict[str, Interval]]:
    """Return the gains of a method by the class that is explained; classes of fewer than 10 images stand together."""
    return {
        index: {name: bootstrap_mean([row[name] for row in own], seed, [row['image'] for row in own]) for name in GAINS}
        for index, own in _by_class(rows).items()
    }


def _by_class(rows: Sequence[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row['target'], []).append(row)
    large = {index: found[index] for index in sorted(found) if len(found[index]) >= FEWEST_IMAGES}
    others = [row for row in rows if row['target'] not in large]
    return {**large, **({OTHERS: others} if others else {})}


def only_class(by_class: ByClass) -> int | None:
    """Return the only class in which maps are above their mean map, where there are others of 10 images or more."""
    known = {index: row['above_mean_map'] for index, row in by_class.items() if index != OTHERS}
    above = [index for index, interval in known.items() if interval.low > 0]
    return above[0] if len(above) == 1 < len(known) else None


def contradictions(
    by_method: Mapping[str, Sequence[Row]],
    scores: Mapping[str, Mapping[str, Interval]],
    names: Sequence[str],
    seed: int,
) -> list[str]:
    """Return a sentence for each pair of methods above random of which each is better in another class."""
    found = []
    above = {
        method: rows for method, rows in by_method.items() if method not in FLOORS and scores[method][GAIN].low > 0
    }
    for (first, own), (second, others) in itertools.combinations(above.items(), 2):
        own_by_class, others_by_class = _by_class(own), _by_class(others)
        differences = {
            index: paired_differences(rows, others_by_class[index], [GAIN], seed)[GAIN]
            for index, rows in own_by_class.items()
            if index != OTHERS
        }
        wins = {index: value for index, value in differences.items() if value.low > 0}
        losses = {index: value for index, value in differences.items() if value.high < 0}
        if wins and losses:
            best, worst = max(wins, key=lambda c: wins[c].mean), min(losses, key=lambda c: losses[c].mean)
            found.append(
                f'{first} or {second}: this depends on the class: SRG differs by {wins[best]} for {names[best]} '
                f'({wins[best].number} images), by {losses[worst]} for {names[worst]} ({losses[worst].number})'
            )
    return found


def verdicts(
    by_method: Mapping[str, Sequence[Row]],
    scores: Mapping[str, Mapping[str, Interval]],
    by_class: Mapping[str, ByClass],
    settings: Mapping[str, Any],
    names: Sequence[str],
) -> dict[str, str]:
    """Return what can be said of the maps of each method, but for the floors; the rival is Grad-CAM."""
    layer = settings['layers'].get('grad_cam', '')
    title = f'Grad-CAM at {layer}' if layer else 'Grad-CAM'
    found = {}
    for method, rows in by_method.items():
        if method in FLOORS:
            continue
        above_rival = None
        if method != 'grad_cam' and 'grad_cam' in by_method:
            above_rival = paired_differences(rows, by_method['grad_cam'], [GAIN], settings['seed'])[GAIN]
        one = only_class(by_class[method])
        of_all = 2 * sum(bool(row.get('mean_map_of_all')) for row in rows) > len(rows)
        evidence = Evidence(
            gain=scores[method][GAIN],
            above_mean_map=scores[method]['above_mean_map'],
            mean_map='the mean map of other images' if of_all else Evidence.mean_map,
            above_rival=above_rival,
            rival=title if above_rival else '',
            classes_alike=scores[method]['classes_alike'],
            one_class='' if one is None else names[one],
        )
        found[method] = verdict(evidence)
    return found
