"""The error of a command."""

__all__ = ['CommandError']


class CommandError(Exception):
    """What the user gave cannot be used; the message says so in one line, without a full stop."""
