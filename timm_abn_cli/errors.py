"""The error of the command line."""

__all__ = ['CommandError']


class CommandError(Exception):
    """The input of the user cannot be used; the message says why, in one line."""
