"""The error of a command."""

from ..errors import TimmAbnError

__all__ = ['CommandError']


class CommandError(TimmAbnError):
    """The input of the user cannot be used; the message says why, in one line."""
