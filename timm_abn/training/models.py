"""Checking the model of a run before it is built."""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import timm
import torch
import torch.nn as nn

from ..models.creating import ModelError, create_model
from .errors import TrainingError

__all__ = ['check_model']


def check_model(name: str, arguments: Mapping[str, Any]) -> nn.Module | None:
    """Check that a network of this package can be created, by creating it without memory, and return it.

    Of other models, of those at an address, and of those that torch cannot create without memory, the script alone can
    tell: None is returned if they cannot be created here. Weights of a backbone are not looked at.

    Raises:
        TrainingError: There is no such network.
    """
    if ':' in name or ':' in str(arguments.get('backbone')) or not timm.is_model(name.split('.')[0]):
        return None
    chosen = {key: value for key, value in arguments.items() if key != 'pretrained_backbone'}
    device = torch.device('meta')
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what a model warns of is said when timm's script creates it
    try:
        with warnings.catch_warnings(), device:
            warnings.simplefilter('ignore')
            return create_model(name, dict(chosen, device=device))
    except ModelError as error:
        # torch raises a RuntimeError of what the meta device cannot do
        if name.startswith(('abn', 'cam_')) and not isinstance(error.__cause__, RuntimeError):
            raise TrainingError(str(error)) from error
        return None
    finally:
        logging.disable(level)
