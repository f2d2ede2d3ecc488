"""What all errors of this package have in common: one line that names what was wrong, found, and right."""

import difflib
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ['TimmAbnError', 'one_line', 'printable', 'shortened', 'suggest']

# kinds of characters: control, half of a pair, line, paragraph; and those that turn the direction of writing
_UNPRINTABLE = ('Cc', 'Cs', 'Zl', 'Zp')
_TURNING = ('LRE', 'RLE', 'LRO', 'RLO', 'PDF', 'LRI', 'RLI', 'FSI', 'PDI')


class TimmAbnError(ValueError):
    """Something is wrong with the input; the message says what, in one line. Base of all errors of this package."""


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line of at most 300 characters and without a full stop.

    Of errors of other packages only the first sentence is taken: the rest is advice, and not always safe to follow.
    Those whose message says little without the name of their class, such as a ``KeyError``, get it in front.
    """
    message = ' '.join(str(error).split())
    if not isinstance(error, TimmAbnError):
        message = message.split('. ')[0]
    message = message.rstrip('.')
    if not message:
        return type(error).__name__
    if not isinstance(error, (AssertionError, ValueError, RuntimeError)):
        message = f'{type(error).__name__}: {message}'
    return textwrap.shorten(message, 300)


def suggest(name: str, names: Iterable[str], otherwise: str) -> str:
    """Suggest names that the user may have meant, as the second half of a sentence, without a full stop.

    Args:
        name: What was given.
        names: What there is. Names that begin with what was given come before others that look like it.
        otherwise: What to say if there is nothing like it.
    """
    names = list(names)
    longer = [other for other in names if name and other.startswith(name)]
    close = longer[:3] or difflib.get_close_matches(name, names, n=3)
    return f'did you mean {", ".join(close)}?' if close else otherwise


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Return the first of several names, which may come from a file, as a list in a sentence."""
    return ', '.join(map(printable, names[:most])) + (', ...' if len(names) > most else '')


def printable(name: str) -> str:
    """Return a name with escapes in place of control characters and of bytes that are not UTF-8."""

    def is_plain(character: str) -> bool:
        turns = unicodedata.bidirectional(character) in _TURNING
        return not turns and unicodedata.category(character) not in _UNPRINTABLE

    return ''.join(c if is_plain(c) else c.encode('unicode_escape').decode() for c in name)
