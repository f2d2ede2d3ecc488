"""Rows of tables, measured one after the other until a time is over, and written after each of them."""

import dataclasses
import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from timm_abn.errors import one_line
from timm_abn.publish.markdown import markdown_table, plain

__all__ = ['Line', 'Row', 'measure_rows', 'tables']

Line = dict[str, str | float]


@dataclasses.dataclass
class Row:
    """What is measured at once: the function, and its lines of the table of a section, or why there are none."""

    section: str
    name: str
    figures: Callable[[str], list[Line]]
    lines: list[Line] = dataclasses.field(default_factory=list)
    problem: str = 'no time left'

    def measure(self) -> None:
        """Measure; what goes wrong is the outcome."""
        try:
            self.lines, self.problem = self.figures(self.name), ''
        except Exception as error:  # such as out of memory, of many types
            self.problem = one_line(error)[:200]
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def measure_rows(rows: Sequence[Row], end: float, write: Callable[[], None]) -> None:
    """Measure rows, none of which begins after ``end``, and call ``write`` after each."""
    for row in rows:
        if time.monotonic() < end:
            row.measure()
        seconds = end - time.monotonic()
        print(f'{seconds:4.0f} s left, {row.section} {row.name}: {row.problem or row.lines}', file=sys.stderr)
        write()


def tables(rows: Sequence[Row], headings: Mapping[str, str]) -> str:
    """Return a table for each section, below its heading; a row that was not measured says why."""
    parts = []
    for section, heading in headings.items():
        own = [row for row in rows if row.section == section]
        header = list(dict.fromkeys(name for row in own for line in row.lines for name in line)) or ['', '']
        lines = [[_cell(line.get(name, '')) for name in header] for row in own for line in row.lines]
        lines += [[row.name, plain(row.problem), *[''] * (len(header) - 2)] for row in own if row.problem]
        parts += [heading, markdown_table(header, lines)]
    return '\n\n'.join(parts)


def _cell(value: str | float) -> str:
    """Return a text, or a figure of three digits or more."""
    return value if isinstance(value, str) else f'{value:,.0f}' if value >= 100 else f'{value:.3g}'
