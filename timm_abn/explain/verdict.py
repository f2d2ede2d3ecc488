"""A verdict in words on the maps of a method: what their scores, beside those of controls, allow to say.

The rules are the table ``RULES``, from the first to the last; the first that applies gives the verdict. A comparison
on fewer than ``FEWEST_IMAGES`` counts as none.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .statistics import Interval

__all__ = ['FEWEST_IMAGES', 'RULES', 'Evidence', 'Rule', 'verdict']

FEWEST_IMAGES = 10  # fewer have intervals that say nothing


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known of the maps of a method, as means over images with their 95 % intervals.

    Attributes:
        gain: Symmetric relevance gain; a map of noise has 0.
        above_mean_map: Gain less that of the mean map of the predicted class over other images; None if not measured.
        mean_map: That mean map in words: where classes have few images it is of all others.
        above_rival: Gain less that of a rival method on the same images; None if there is none.
        rival: The rival, such as 'Grad-CAM at the last stage'.
        classes_alike: Rank correlation of the maps of the two most probable classes; None if not measured.
        one_class: Name of the only class in which the maps are above their mean map, where it is not so in the others;
            empty if there is none.
    """

    gain: Interval
    above_mean_map: Interval | None = None
    mean_map: str = 'the mean map of its class'
    above_rival: Interval | None = None
    rival: str = ''
    classes_alike: Interval | None = None
    one_class: str = ''


class Rule(NamedTuple):
    """When a verdict is given, and its words."""

    applies: Callable[[Evidence], bool]
    words: Callable[[Evidence], str]


def _enough(interval: Interval | None) -> bool:
    return interval is not None and interval.number >= FEWEST_IMAGES


def _above(interval: Interval | None) -> bool:
    return interval is not None and _enough(interval) and interval.low > 0


def _below(interval: Interval | None) -> bool:
    return interval is not None and _enough(interval) and interval.high < 0


def _start(known: Evidence) -> str:
    return f'above {known.mean_map}' if _above(known.above_mean_map) else 'above random'


RULES: Sequence[Rule] = (
    Rule(
        lambda known: not _enough(known.gain),
        lambda known: f'too few to say: {known.gain.number} images with a map, {FEWEST_IMAGES} or more are needed',
    ),
    Rule(
        lambda known: _below(known.gain),
        lambda known: f'below random, SRG {_words(known.gain)}: it points away from what the prediction depends on',
    ),
    Rule(
        lambda known: not _above(known.gain),
        lambda known: f'not above random, SRG {_words(known.gain)}: it does not show what the prediction depends on',
    ),
    Rule(
        lambda known: _enough(known.above_mean_map) and not _above(known.above_mean_map),
        lambda known: f'above random, not above {known.mean_map}: it shows where such objects usually are',
    ),
    Rule(
        lambda known: bool(known.one_class) and _above(known.above_mean_map),
        lambda known: f'above {known.mean_map} for {known.one_class} alone, not for other classes',
    ),
    Rule(
        lambda known: _above(known.above_rival),
        lambda known: f'{_start(known)}, more faithful than {known.rival} by {_words(known.above_rival)} SRG',
    ),
    Rule(
        lambda known: _below(known.above_rival),
        lambda known: f'{_start(known)}, less faithful than {known.rival} by {_words(known.above_rival, -1)} SRG',
    ),
    Rule(
        lambda known: _enough(known.above_rival),
        lambda known: (
            f'{_start(known)}, not told apart from {known.rival}: {_words(known.above_rival)} SRG between them'
        ),
    ),
    Rule(
        lambda known: _above(known.above_mean_map),
        lambda known: f'above {known.mean_map} by {_words(known.above_mean_map)} SRG: it is of this image',
    ),
    Rule(
        lambda known: True,
        lambda known: f'above random, SRG {_words(known.gain)}; not compared with {known.mean_map}',
    ),
)
ALIKE = 0.9  # rank correlation from which the maps of two classes count as one


def verdict(evidence: Evidence) -> str:
    """Return what can be said of the maps of a method, in one line."""
    words = next(rule.words(evidence) for rule in RULES if rule.applies(evidence))
    alike = evidence.classes_alike
    if _enough(evidence.gain) and alike is not None and _enough(alike) and alike.low > ALIKE:
        words += '; it is the same for the two most probable classes'
    return words


def _words(interval: Interval | None, sign: int = 1) -> str:
    """Return an interval with two digits, of the negative values if the sign is -1."""
    if interval is None:
        return '-'
    low, high = sorted((sign * interval.low, sign * interval.high))
    return f'{sign * interval.mean:.2f} [{low:.2f}, {high:.2f}]'
