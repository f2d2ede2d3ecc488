"""Maps and their controls, scored in the one form of all experiments, and what may be claimed of them.

Each map is scored by symmetric relevance gain (SRG), deletion and insertion, by the mean colour in the place of
pixels; maps of methods by SRG with other replacements, too. Beside each method stands its mean map over the other
images of the same predicted class (of fewer than five others: over all): what it has above that, it knows of this one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.utils import tqdm
from results import Cells, Row, as_rows, difference, interval, where

from timm_abn.explain.evaluation.controls import MeanMaps
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import replacement_curves
from timm_abn.explain.statistics import Interval
from timm_abn.explain.verdict import Evidence, verdict

CONTROLS = ('centre', 'random')
FILLS = ('blur',)  # beside the mean; 'linear' takes one or two forward passes more for each
STEPS = 32
WALKS = ('SRG', 'deletion', 'insertion')
OTHERS = tuple(f'SRG, {fill}' for fill in FILLS)


def mean_of(name: str) -> str:
    """Return what the mean map of a method is called."""
    return f'mean map of {name}'


def is_control(name: str) -> bool:
    """Return whether a map says nothing of its image."""
    return name in CONTROLS or name.startswith(mean_of(''))


def names_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of the maps of rows, methods before controls."""
    return sorted(dict.fromkeys(row['map'] for row in rows if 'map' in row), key=is_control)


def mean_maps(maps: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return for each image the mean map over the others of its class, shape (N, 1, h, w)."""
    means = MeanMaps()
    means.add(maps, classes.tolist())
    return means.of_others(maps, classes.tolist())[0]


def make_maps(
    explainers: Mapping[str, Callable[..., torch.Tensor]],
    model: Any,
    images: torch.Tensor,
    classes: torch.Tensor,
    batch_size: int,
) -> dict[str, torch.Tensor]:
    """Return the maps of methods by name, of each its mean maps, and the controls, (N, 1, h, w)."""
    batches = list(zip(images.split(batch_size), classes.split(batch_size)))
    controls: dict[str, Any] = {name: create_explainer(name, model) for name in CONTROLS}
    maps = {
        name: torch.cat([explainer(*batch) for batch in batches])
        for name, explainer in {**explainers, **controls}.items()
    }
    return {**maps, **{mean_of(name): mean_maps(maps[name], classes) for name in explainers}}


def score_maps(
    model: Any,
    images: torch.Tensor,
    maps: Mapping[str, torch.Tensor],
    classes: torch.Tensor,
    steps: int = STEPS,
    batch_size: int = 64,
) -> list[Row]:
    """Return the row of each map and image: SRG, deletion and insertion for the class that is explained."""
    rows = []
    for name, own in tqdm(maps.items(), desc='scores', unit='map'):
        options: dict[str, Any] = dict(targets=classes, steps=steps, batch_size=batch_size)
        curves = replacement_curves(model, images, own, **options)
        scores = dict(zip(WALKS, (curves.gain.tolist(), curves.deletion.tolist(), curves.insertion.tolist())))
        for fill in () if is_control(name) else FILLS:
            scores[f'SRG, {fill}'] = replacement_curves(model, images, own, baseline=fill, **options).gain.tolist()
        rows += as_rows(dict(scores, predicted=classes.tolist()), map=name)
    return rows


def above(rows: Sequence[Row], name: str, other: str, unit: str = 'image') -> Interval:
    """Return SRG of a map less that of another, on the same images and seeds."""
    own, others = ([row for row in where(rows, map=title) if 'SRG' in row] for title in (name, other))
    return difference(own, others, 'SRG', unit)


def table_of(
    rows: Sequence[Row],
    unit: str = 'image',
    more: Sequence[str] = (),
    classes: Mapping[int, str] | None = None,
    rival: str = '',
) -> dict[str, Any]:
    """Return the table of the maps of a network, methods before controls, each method with a verdict in words.

    Args:
        rows: Of the network, of all seeds.
        unit: What is drawn for intervals.
        more: Further metrics of the rows.
        classes: Number -> name of the predicted classes that SRG is split by.
        rival: Method that the verdicts compare with.
    """
    columns = [*WALKS, 'SRG above its mean map', *OTHERS, *more, *(f'SRG, {name}' for name in (classes or {}).values())]
    lines: list[Cells] = []
    for name in names_of(rows):
        own, paired = where(rows, map=name), None if is_control(name) else above(rows, name, mean_of(name), unit)
        cells: Cells = [name, *(interval(own, metric, unit) for metric in WALKS), paired]
        cells += [interval(own, metric, unit) for metric in (*OTHERS, *more)]
        cells += [interval(where(own, predicted=number), 'SRG', unit) for number in classes or {}]
        words = ''
        if paired is not None:
            other = above(rows, name, rival, unit) if rival not in ('', name) else None
            alone = only_class(rows, name, unit, classes or {})
            gain, named = interval(own, 'SRG', unit), rival if other else ''
            words = verdict(Evidence(gain, paired, above_rival=other, rival=named, one_class=alone))
        lines.append([*cells, words])
    return dict(columns=['map', *columns, 'in words'], rows=lines)


def only_class(rows: Sequence[Row], name: str, unit: str, classes: Mapping[int, str]) -> str:
    """Return the only class in which a method is above its mean map; '' if there are more, or none."""
    mean_map = mean_of(name)
    found = [t for number, t in classes.items() if above(where(rows, predicted=number), name, mean_map, unit).low > 0]
    return found[0] if len(found) == 1 else ''


def claim(
    words: str, rows: Sequence[Row], others: Sequence[Row], metrics: Sequence[str] = WALKS, unit: str = 'image'
) -> dict[str, Any]:
    """Return a claim that rows are better than others: it holds if the interval of the first score is all above 0."""
    found = {}
    for metric in metrics:
        own, rivals = ([row for row in side if metric in row] for side in (rows, others))
        found[metric] = difference(own, rivals, metric, unit)
    return dict(claim=words, differences=found, holds=found[metrics[0]].low > 0)


def chart_of(rows: Sequence[Row], title: str, unit: str = 'image') -> dict[str, Any]:
    """Return SRG of each map of a network, for the chart."""
    found = {name: interval(where(rows, map=name), 'SRG', unit) for name in names_of(rows)}
    return dict(title=title, points=[dict(map=name, control=is_control(name), SRG=found[name]) for name in found])
