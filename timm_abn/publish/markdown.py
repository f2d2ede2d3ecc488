"""Tables of Markdown."""

from collections.abc import Iterable, Sequence

__all__ = ['markdown_table']


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table: the names of its columns, then rows with a cell for each."""
    lines = [' | '.join(cells) for cells in (header, *rows)]
    head, *body = [f'| {line} |'.replace('|  ', '| ') for line in lines]
    return '\n'.join([head, f'|{"---|" * len(header)}', *body])
