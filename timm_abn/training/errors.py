"""The error of training."""

from ..errors import TimmAbnError

__all__ = ['TrainingError']


class TrainingError(TimmAbnError):
    """Settings or data cannot be used to train an ABN; the message is one line for the user."""
