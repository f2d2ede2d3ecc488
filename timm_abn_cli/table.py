"""Tables of text."""

from collections.abc import Iterable, Sequence

__all__ = ['format_table']


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Return a table whose columns are aligned: those named ``right`` to the right, as numbers are."""
    lines: list[Sequence[str]] = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    aligned = [
        '  '.join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, width, cell in zip(header, widths, line, strict=True)
        ).rstrip()
        for line in lines
    ]
    return '\n'.join([aligned[0], '  '.join('-' * width for width in widths), *aligned[1:]])
