"""Tables of Markdown, and what others wrote in them."""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import TimmAbnError
from ..staging import staged_file

__all__ = ['markdown_table', 'plain', 'write_between']


def plain(text: object) -> str:
    """Return a text of others as it is, in one line: no HTML, link, picture, code or column comes of it."""
    printable = ''.join(c if c.isprintable() or c in '\u200c\u200d' else ' ' for c in str(text))
    return html.escape(re.sub(r'([\\`|\[\]])', r'\\\1', ' '.join(printable.split())), quote=False)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table: the names of its columns, then rows with a cell for each."""
    lines = [' | '.join(cells) for cells in (header, *rows)]
    head, *body = [f'| {line} |'.replace('|  ', '| ') for line in lines]
    return '\n'.join([head, f'|{"---|" * len(header)}', *body])


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two marks of a page.

    Raises:
        TimmAbnError: It does not have them, in this order.
    """
    before, _, rest = page.read_text(encoding='utf-8').partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise TimmAbnError(f'{page.name} has no {begin} with a {end} behind it.')
    with staged_file(page) as staged:
        staged.write_text(before + begin + text + end + after, encoding='utf-8')
