"""Scores of explanations for a model card, from what ``timm-abn evaluate`` wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn

from ..errors import TimmAbnError
from ..explain.evaluation import weights_fingerprint
from ..explain.evaluation.fingerprints import fingerprint
from ..explain.evaluation.results import REPLACEMENTS, TITLES
from ..explain.evaluation.running import preparation_of
from .markdown import markdown_table, plain

__all__ = ['score_tables']


def score_tables(path: Path, model: nn.Module, data_config: Mapping[str, Any] | None = None) -> str:
    """Return the scores of a model's explanations, and its reliance on its map, from ``summary.json`` as Markdown.

    ``data_config`` says how images are prepared, where the ``pretrained_cfg`` of the model does not.

    Raises:
        TimmAbnError: It is no such file, or of other weights, another network or another preparation of images.
    """
    try:
        summary: Any = json.loads(path.read_text(encoding='utf-8'))
        settings, scores, reliance = summary['settings'], summary['scores'], summary['reliance']
        metrics = list(next(iter(scores.values())))
        rows = [[f'`{plain(method)}`', *(_interval(row[name]) for name in metrics)] for method, row in scores.items()]
        effects = [
            [REPLACEMENTS[name], _interval(row.get('accuracy_change')), _interval(row['changed_predictions'])]
            for name, row in reliance.items()
        ]
        setup = (
            f'{settings["images"]} images, {settings["steps"]} steps; mean and 95 % bootstrap interval. By `timm-abn '
            f'evaluate` of timm-abn {summary["versions"]["timm_abn"]}.'
        )
        then = [settings[name] for name in ('weights', 'network', 'preparation')]
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        found = f'{type(error).__name__}: {error}'
        raise TimmAbnError(f'{path} is not the summary.json of timm-abn evaluate: {found}.') from None
    own = weights_fingerprint(model), fingerprint(model.eval()), preparation_of(model, data_config or {})
    for what, before, now in zip(('other weights', 'another network', 'images prepared otherwise'), then, own):
        if before != now:
            raise TimmAbnError(f'{path} holds the scores of {what}; evaluate the published weights.')
    sections = [setup, markdown_table(['explanation', *(TITLES[name] for name in metrics)], rows)]
    if effects:
        header = ('map used instead of the predicted one', 'accuracy changes by', 'predictions changed')
        sections.append(markdown_table(header, effects))
    return '\n\n'.join(sections)


def _interval(value: Any) -> str:
    if not isinstance(value, Mapping) or value['mean'] is None:
        return '-'
    return f'{value["mean"]:.3f} [{value["low"]:.3f}, {value["high"]:.3f}]'
