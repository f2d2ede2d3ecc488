"""What is known about a model beyond timm's configuration, and what its outputs mean.

A record is stored in checkpoints, among the settings of the run, and at the top level of ``config.json``, where timm
ignores it.
"""

import contextlib
import dataclasses
import math
import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn as nn

from .errors import TimmAbnError

__all__ = [
    'EXPLAINED_BY',
    'KINDS',
    'Levels',
    'Record',
    'answers',
    'are_exclusive',
    'explained_by',
    'known_of',
    'num_answers',
    'probabilities_of',
    'record_of',
    'set_record',
]

KINDS = ('softmax', 'sigmoid')
EXPLAINED_BY = ('attention', 'class_map', 'contrast', 'product')


class Levels(NamedTuple):
    """What becomes black and white in an image of more than 8 bits: grey values, or percentiles of each image."""

    low: float
    high: float
    percent: bool = False

    @classmethod
    def parse(cls, words: object) -> 'Levels':
        """Return the levels of two words: '0 4095', grey values, or '1% 99%', percentiles of each image.

        Raises:
            TimmAbnError: They are something else, or the first is not the lower one.
        """
        said: list[str] = [str(word) for word in words] if isinstance(words, (list, tuple)) else []
        percent = all(word.endswith('%') for word in said)
        with contextlib.suppress(ValueError):
            low, high = (float(word.removesuffix('%') if percent else word) for word in said)
            if (0 <= low < high <= 100) if percent else (-math.inf < low < high < math.inf):
                return cls(low, high, percent)
        found = reprlib.repr(' '.join(said) or words)
        raise TimmAbnError(f'levels must be two grey values (0 4095) or percentiles (1% 99%), got {found}.')

    @property
    def words(self) -> list[str]:
        """What ``parse`` returns these of."""
        return [f'{value:.17g}{"%" * self.percent}' for value in self[:2]]


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known beyond timm's configuration; None for what nobody has said.

    Attributes:
        probabilities: How logits become probabilities: 'softmax' for classes that exclude each other, 'sigmoid' for
            labels that do not, and for one logit. By default 'sigmoid' for one logit and for tasks, else 'softmax'.
        levels: What becomes black and white in images of more than 8 bits; by default the range of their type.
        explained_by: Which of a model's own maps was measured to explain it best: its 'attention' map, its 'class_map',
            the 'contrast' with the other classes, or the 'product' of attention and class map
            (``Explanation.explaining_map``). By default the attention map; for CAM models, and attached ones without
            a refinement, the class map.

    Raises:
        TimmAbnError: A value has no meaning.
    """

    probabilities: str | None = None
    levels: Levels | None = None
    explained_by: str | None = None

    def __post_init__(self) -> None:
        for name, known in (('probabilities', KINDS), ('explained_by', EXPLAINED_BY)):
            value = getattr(self, name)
            if value is not None and value not in known:
                choices = ', '.join(map(repr, known))
                raise TimmAbnError(f'{name} must be one of {choices}, got {reprlib.repr(value)}.')

    @classmethod
    def take(cls, entries: Mapping[str, Any]) -> 'Record':
        """Return the record among other entries: those of a ``config.json``, or settings of a run."""
        levels = entries.get('levels')
        levels = None if levels is None else Levels.parse(levels)
        return cls(entries.get('probabilities'), levels, entries.get('explained_by'))

    def entries(self) -> dict[str, Any]:
        """Return what is said, for ``take``."""
        said = dict(dataclasses.asdict(self), levels=self.levels and self.levels.words)
        return {name: value for name, value in said.items() if value is not None}


def record_of(model: nn.Module) -> Record:
    """Return what is known of a model, of this package or of timm; its kind of probabilities is never None."""
    kind = 'softmax' if are_exclusive(model) and not _has_one_logit(model) else 'sigmoid'
    return dataclasses.replace(known_of(model), probabilities=kind)


def set_record(model: nn.Module, record: Record) -> None:
    """Note what is known of a model.

    Raises:
        TimmAbnError: One logit, or tasks, are said to be classes that exclude each other, or to have contrasts.
    """
    if record.probabilities == 'softmax' and (_has_tasks(model) or _has_one_logit(model)):
        what = 'tasks do' if _has_tasks(model) else 'one logit does'
        raise TimmAbnError(f"probabilities='softmax' needs classes that exclude each other; {what} not: use 'sigmoid'.")
    if record.explained_by == 'contrast' and (_has_tasks(model) or record.probabilities == 'sigmoid'):
        raise TimmAbnError("explained_by='contrast' needs classes that exclude each other, unlike labels and tasks.")
    model._record = record  # type: ignore[assignment]


def are_exclusive(model: nn.Module) -> bool:
    """Return whether one answer of a model excludes the others: its classes, or the no and yes of one logit."""
    return not _has_tasks(model) and (_has_one_logit(model) or known_of(model).probabilities != 'sigmoid')


def explained_by(model: nn.Module) -> str:
    """Return which of its own maps explains a model best (see ``Record``), as far as anybody has measured it."""
    has_own_map = hasattr(model, 'attention_branch') or getattr(model, 'refinement', None) is not None
    return known_of(model).explained_by or ('attention' if has_own_map else 'class_map')


def num_answers(model: nn.Module) -> int:
    """Return how many probabilities a model has: one for each class, label or task; two, no and yes, of one logit."""
    num_classes: Any = model.num_classes
    return 2 if _has_one_logit(model) and not _has_tasks(model) else num_classes


def known_of(model: nn.Module) -> Record:
    """Return what was noted with a model."""
    known: Any = getattr(model, '_record', None)
    return known or Record()


def _has_one_logit(model: nn.Module) -> bool:
    return getattr(model, 'num_classes', None) == 1


def _has_tasks(model: nn.Module) -> bool:
    return getattr(getattr(model, 'config', None), 'multi_task', False) is True


def answers(values: torch.Tensor, exclusive: bool) -> torch.Tensor:
    """Return logits, or class maps, of the answers, (B, K, ...): as they are, but of one logit those of no and yes.

    These are minus and plus half of it, shape (B, 2, ...), whose softmax is the sigmoid of the logit.
    """
    # 0 - x, since -x of 0 would be shown as -0
    return torch.cat([0 - values, values], dim=1) / 2 if exclusive and values.shape[1] == 1 else values


def probabilities_of(logits: torch.Tensor, exclusive: bool) -> torch.Tensor:
    """Return the probabilities of the answers, (B, K), in float32 or float64; of one logit those of no and yes."""
    logits = answers(logits if logits.dtype == torch.float64 else logits.float(), exclusive)
    return logits.softmax(dim=1) if exclusive else logits.sigmoid()
