"""The error of data."""

from ..errors import TimmAbnError

__all__ = ['DataError']


class DataError(TimmAbnError):
    """A data set or a folder of photos is missing or broken; the message is one line for the user."""
