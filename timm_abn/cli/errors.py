"""The error of a command, and what it says of others."""

__all__ = ['CommandError', 'first_sentence']


class CommandError(Exception):
    """What the user gave cannot be used; the message says so in one line, without a full stop."""


def first_sentence(error: Exception) -> str:
    """Return what an error of another library says first: the rest of it is advice, and not always safe to follow."""
    return ' '.join(str(error).split()).split('. ')[0].rstrip('.') or type(error).__name__
