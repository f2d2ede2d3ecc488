"""Creating the model of a run, with one line for the user where its arguments do not go together."""

import contextlib
import logging
import warnings
from typing import Any, Iterator, Mapping

import timm
import torch
import torch.nn as nn

from ..errors import one_line
from .errors import TrainingError

__all__ = ['check_model', 'create_model']


def create_model(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Create a model of timm.

    Args:
        name: Name of the model.
        arguments: Arguments of ``timm.create_model``.

    Raises:
        TrainingError: There is no such model.
    """
    try:
        return timm.create_model(name, **arguments)
    except Exception as error:  # the backbones of timm raise errors of a dozen types
        given = ', '.join(f'{key}={value!r}' for key, value in arguments.items() if key != 'device') or 'its defaults'
        raise TrainingError(f'{name} cannot be created with {given}: {one_line(error)}.') from error


def check_model(name: str, arguments: Mapping[str, Any]) -> None:
    """Check that a model can be created, by creating it without memory, on the meta device.

    Args:
        name: Name of the model.
        arguments: Arguments of ``timm.create_model``. Weights of a backbone are not looked at.

    Raises:
        TrainingError: There is no such model.
    """
    chosen = {key: value for key, value in arguments.items() if key != 'pretrained_backbone'}
    device = torch.device('meta')
    try:
        with _quiet(), device:
            create_model(name, dict(chosen, device=device))
    except TrainingError as error:
        if not isinstance(error.__cause__, RuntimeError):  # which torch raises of what the meta device cannot do
            raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the warnings of a model, which come again when it is created in earnest."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)
