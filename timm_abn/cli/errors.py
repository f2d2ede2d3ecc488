"""The error of a command."""

from ..errors import TimmAbnError

__all__ = ['CommandError']


class CommandError(TimmAbnError):
    """What the user gave cannot be used; the message says so in one line."""
