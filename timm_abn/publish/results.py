"""Results of the models, from ``results.yaml``: those that others report, and those measured here."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

__all__ = ['MEASURED_RESULTS', 'REPORTED_RESULTS', 'Result']


@dataclasses.dataclass(frozen=True)
class Result:
    """A number that was measured with this code, or that others report."""

    dataset: str
    metric: str  # 'top-1 error' or 'top-1 accuracy'
    percent: float
    command: str = ''  # how to measure it again; empty if it is reported
    source: str = ''  # where it is reported; empty if it was measured
    variant: str = ''  # how the model differs from the one of this name, if it does

    @property
    def origin(self) -> str:
        """Which kind of result it is, and how to verify it, for tables."""
        return f'measured, `{self.command}`' if self.command else f'reported, {self.source}'


_RESULTS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name('results.yaml').read_text(encoding='utf-8'))


def _results(kind: str) -> dict[str, tuple[Result, ...]]:
    return {name: tuple(Result(**result) for result in results) for name, results in _RESULTS[kind].items()}


# name of a model -> results; measured ones are of weights, whose name has a tag
MEASURED_RESULTS, REPORTED_RESULTS = _results('measured'), _results('reported')
