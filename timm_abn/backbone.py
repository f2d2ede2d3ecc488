"""The backbone that a network is made of: created by name, with timm's weights or those of a file."""

import contextlib
import functools
import logging
import re
import types
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch.nn as nn
from timm.models import get_pretrained_cfg

from .checkpoint_files import read_checkpoint
from .errors import TimmAbnError, one_line, suggest
from .split import family_of

__all__ = ['architecture_of', 'check_outputs', 'create_backbone', 'name_of']

_logger = logging.getLogger(__name__)


def create_backbone(name: str, pretrained: bool | str, **kwargs: Any) -> nn.Module:
    """Create a timm model by name.

    Raises:
        ValueError: There is no such model, it needs a package that is missing, or the file does not hold its weights.
    """
    architecture = name.split('.')[0]
    if ':' not in name and not timm.is_model(architecture):
        hint = suggest(architecture, timm.list_models(), otherwise='see timm.list_models().')
        raise TimmAbnError(f'Unknown backbone {name!r}: {hint}')
    try:
        if isinstance(pretrained, str):
            return _create_backbone_from_file(name, pretrained, **kwargs)
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except ImportError as error:
        package = (error.name or one_line(error)).partition('.')[0]
        raise TimmAbnError(f'Backbone {name!r} needs the package {package!r}, which is not installed.') from error


def _create_backbone_from_file(name: str, file: str, **kwargs: Any) -> nn.Module:
    weights, _ = read_checkpoint(Path(file))
    overlay: dict[str, Any] = dict(state_dict=weights)
    cfg = None if ':' in name else get_pretrained_cfg(name)
    classifier = weights.get(f'{cfg.classifier}.weight') if cfg else None
    if classifier is not None:
        overlay['num_classes'] = len(classifier)  # where it is not that of the network, timm leaves the classifier out
    try:
        with _remarks_of_timm() as remarks:
            backbone: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)
    except (KeyError, RuntimeError) as error:
        raise TimmAbnError(f'{file!r} does not hold weights of {name}: {one_line(error)}') from error
    heads = backbone.pretrained_cfg.get('classifier') or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    missing = [key for key in remarks.missing_keys if not key.startswith(heads)]
    if missing:
        some = ', '.join(missing[:3])
        raise TimmAbnError(f'{file!r} does not hold weights of {name}: {len(missing)} keys are missing ({some})')
    backbone.pretrained_cfg = {key: value for key, value in backbone.pretrained_cfg.items() if key != 'state_dict'}
    _logger.info(f'Weights of the backbone {name}: {file}')
    return backbone


class _Remarks(logging.Handler):
    """Collects what timm logs while it loads weights, of which it skips those that do not fit if classes differ."""

    def __init__(self) -> None:
        super().__init__()
        self.missing_keys: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        found = re.match(r'Missing keys \((.*)\) ', record.getMessage())
        self.missing_keys += found.group(1).split(', ') if found else []


@contextlib.contextmanager
def _remarks_of_timm() -> Iterator[_Remarks]:
    """Hold back timm's log messages about weights: there is one each time that it reads them, without the file."""
    logger, remarks = logging.getLogger('timm.models'), _Remarks()
    level, propagates = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(remarks)
    try:
        yield remarks
    finally:
        logger.removeHandler(remarks)
        logger.setLevel(level)
        logger.propagate = propagates


def architecture_of(name: str, **kwargs: Any) -> Hashable | None:
    """Return what is equal for backbones that are built alike, and so can be cut alike; None if that cannot be said."""
    if ':' in name:
        return None  # the configuration behind an address may change
    try:
        arguments = _hashable({key: value for key, value in kwargs.items() if key not in _PLACES})
    except TypeError:
        return None
    return timm.model_entrypoint(name.split('.')[0]), arguments


def name_of(backbone: nn.Module) -> str:
    """Return what timm calls a backbone, or a half of it; the name of its class if timm did not make it."""
    cfg: Any = getattr(backbone, 'pretrained_cfg', None) or {}
    return cfg.get('architecture') or family_of(backbone).__name__


_PLACES = ('device', 'dtype')


def _hashable(value: Any) -> Hashable:
    """Return what is equal for arguments that say the same.

    Raises:
        TypeError: It cannot be told what a value says.
    """
    if isinstance(value, dict):
        return dict, tuple((key, _hashable(value[key])) for key in sorted(value))
    if isinstance(value, (list, tuple)):
        return tuple(map(_hashable, value))
    if isinstance(value, functools.partial):
        return functools.partial, value.func, _hashable(value.args), _hashable(value.keywords)
    if value is None or isinstance(value, (bool, int, float, str)):
        return type(value), value
    if isinstance(value, (type, types.FunctionType)) and '<' not in value.__qualname__:  # of a module: made once
        return value
    raise TypeError(f'{value!r} is not a plain value.')


def check_outputs(backbone: nn.Module, num_classes: int, outputs_per_class: int, name: str = '') -> None:
    """Check that a backbone has as many outputs as the network needs.

    Raises:
        ValueError: It has not; the message says how to make it fit.
    """
    outputs = getattr(backbone, 'num_classes', None)
    if num_classes and outputs == 0 and not hasattr(backbone, 'get_classifier'):
        other = name.split('.')[0].removesuffix('_enc')
        instead = f', or use backbone={other!r}, which has one' if other != name and timm.is_model(other) else ''
        raise TimmAbnError(f'{family_of(backbone).__name__} has no classifier: pass num_classes=0{instead}.')
    if outputs is not None and outputs != num_classes * outputs_per_class:
        raise TimmAbnError(
            f'num_classes={num_classes} needs a backbone with {num_classes * outputs_per_class} outputs, got one with '
            f'{outputs}; backbone.reset_classifier({num_classes * outputs_per_class}) makes it fit.'
        )
