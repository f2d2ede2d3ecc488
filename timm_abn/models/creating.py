"""Creating a model by name, with a one-line error where its arguments do not go together."""

from collections.abc import Mapping
from typing import Any

import timm
import torch.nn as nn

from ..errors import TimmAbnError, one_line
from ..hub.building import check_address
from ..records import Record, set_record

__all__ = ['ModelError', 'create_model']

_NOT_SAID = ('device', 'pretrained')  # which nobody who reads the message has given


class ModelError(TimmAbnError):
    """There is no such model, or there are no weights for it; the message is one line."""


def create_model(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return ``timm.create_model(name, **arguments)``, or raise ModelError."""
    try:
        config = check_address(name)
        model = timm.create_model(name, **arguments)
    except Exception as error:  # the backbones of timm raise errors of a dozen types
        given = ', '.join(f'{key}={value!r}' for key, value in arguments.items() if key not in _NOT_SAID)
        raise ModelError(f'{name} cannot be created{" with " if given else ""}{given}: {one_line(error)}.') from error
    if config.get('num_classes') == getattr(model, 'num_classes', None):  # else its outputs are others
        set_record(model, Record.take(config))
    return model
