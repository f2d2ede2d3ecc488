"""Results of the models, as ``results.yaml`` holds them: what others report, apart from what was measured here."""

import dataclasses
from pathlib import Path
from typing import Any, Dict, Tuple

import yaml

__all__ = ['COMPARISONS', 'MEASURED_RESULTS', 'REPORTED_RESULTS', 'Comparison', 'MeasuredResult', 'ReportedResult']


@dataclasses.dataclass(frozen=True)
class ReportedResult:
    """A number that somebody else reports.

    Attributes:
        dataset: What was classified.
        metric: 'top-1 error' or 'top-1 accuracy'.
        percent: The number.
        source: Where it stands.
        variant: How the model differs from the one of this name, if it does.
    """

    dataset: str
    metric: str
    percent: float
    source: str
    variant: str = ''


@dataclasses.dataclass(frozen=True)
class MeasuredResult:
    """A number that was measured with this code.

    Attributes:
        dataset: What was classified.
        metric: 'top-1 accuracy'.
        percent: The number.
        command: How to measure it again.
    """

    dataset: str
    metric: str
    percent: float
    command: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Models that were trained side by side with this code.

    Attributes:
        title: What was compared.
        setup: What they have in common.
        command: How to measure it again.
        header: Names of the columns.
        rows: A model each, in words.
    """

    title: str
    setup: str
    command: str
    header: Tuple[str, ...]
    rows: Tuple[Tuple[str, ...], ...]


_RESULTS: Dict[str, Any] = yaml.safe_load(Path(__file__).with_name('results.yaml').read_text(encoding='utf-8'))

# name of a model -> results; measured ones are of weights, whose name has a tag
MEASURED_RESULTS = {
    name: tuple(MeasuredResult(**result) for result in results) for name, results in _RESULTS['measured'].items()
}
REPORTED_RESULTS = {
    name: tuple(ReportedResult(**result) for result in results) for name, results in _RESULTS['reported'].items()
}
COMPARISONS = tuple(
    Comparison(**dict(comparison, header=tuple(comparison['header']), rows=tuple(map(tuple, comparison['rows']))))
    for comparison in _RESULTS['comparisons']
)
