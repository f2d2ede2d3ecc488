"""Tables of text, and of Markdown."""

from collections.abc import Iterable, Sequence

__all__ = ['format_table', 'markdown_table']


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Return a table whose columns are aligned.

    Args:
        header: Names of the columns.
        rows: Cells, one per column.
        right: Names of the columns that are aligned to the right, as numbers are.
    """
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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown.

    Args:
        header: Names of the columns.
        rows: Cells, one per column.
    """
    lines = [' | '.join(cells) for cells in (header, *rows)]
    head, *body = [f'| {line} |'.replace('|  ', '| ') for line in lines]
    return '\n'.join([head, f'|{"---|" * len(header)}', *body])
