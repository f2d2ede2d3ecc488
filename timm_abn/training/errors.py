"""The error of training."""

from ..errors import TimmAbnError

__all__ = ['TrainingError']


class TrainingError(TimmAbnError):
    """Something that was asked for cannot hold for training an ABN; the message is one line for the user."""
