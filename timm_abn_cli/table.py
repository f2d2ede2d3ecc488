"""Tables, as text and as CSV."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .printing import visible

__all__ = ['format_table', 'write_csv']


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Return a table whose columns are aligned: those named ``right`` to the right, as numbers are."""
    lines = [[visible(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    aligned = [
        '  '.join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, width, cell in zip(header, widths, line, strict=True)
        ).rstrip()
        for line in lines
    ]
    return '\n'.join([aligned[0], '  '.join('-' * width for width in widths), *aligned[1:]])


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as CSV; nine digits of a number give every value of float32 back."""
    from timm_abn.staging import staged_file

    # names of files need not be UTF-8
    with (
        staged_file(path) as staged,
        staged.open('w', newline='', encoding='utf-8', errors='backslashreplace') as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            numbers = {name: f'{value:.9g}' for name, value in row.items() if isinstance(value, float)}
            writer.writerow({**row, **numbers})
