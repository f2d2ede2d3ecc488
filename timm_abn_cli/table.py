"""Tables, as text and as CSV."""

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
    from timm_abn import staging

    def text_of(value: object) -> object:
        return f'{value:.9g}' if isinstance(value, float) else value

    with staging.staged_file(path) as staged:
        staging.write_csv(staged, [{name: text_of(value) for name, value in row.items()} for row in rows], columns)
