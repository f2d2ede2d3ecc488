"""Arguments for timm's scripts from a checkpoint: its model, and how its images are prepared."""

import argparse
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn

from ..checkpoint_files import read_checkpoint, training_settings
from ..hub.building import check_address
from ..hub.state_dicts import check_state_dict
from ..models.training_checkpoints import data_config_of, model_arguments, model_of
from .errors import TrainingError
from .models import check_model
from .run_settings import flags_of

__all__ = ['arguments_of_checkpoint', 'channels_of_weights', 'other_classes']

# script -> its flags of a checkpoint, that which replaces the others first
_CHECKPOINT_FLAGS = {'train.py': ('resume', 'initial_checkpoint'), 'validate.py': ('checkpoint',)}
_OWN_FLAGS = dict(num_classes='num_classes', in_chans='in_chans', global_pool='gp')  # of arguments of a model
_OF_IMAGES = ('input_size', 'interpolation', 'mean', 'std', 'crop_pct')
_JAX = ('.npz', '.npy')  # which only the models that know them can read


def arguments_of_checkpoint(script: str, settings: argparse.Namespace) -> list[str]:
    """Return the flags that describe the model of a checkpoint, and how its images were prepared.

    Arguments that were given come first. The settings are completed: by the arguments of the model, ``recorded`` for
    what the checkpoint says, and ``trained_checkpoint`` for its path, if there is one.

    Raises:
        TimmAbnError: There is no such checkpoint, it is damaged, or of another model than was asked for.
    """
    settings.recorded, settings.trained_checkpoint = {}, None
    given = next((found for flag in _CHECKPOINT_FLAGS.get(script, ()) if (found := getattr(settings, flag))), None)
    if given is None or Path(given).is_dir() or Path(given).suffix in _JAX:
        return []
    path = Path(given)
    weights, metadata = read_checkpoint(path)
    recorded = training_settings(metadata)
    settings.model = model_of(recorded, settings.model if 'model' in settings.said else None, path)
    if ':' in settings.model or not timm.is_model(settings.model.split('.')[0]):
        return []
    settings.recorded, settings.trained_checkpoint = recorded, path
    arguments = _take_arguments(settings, weights, path)
    model = check_model(settings.model, arguments)
    if model is not None and not (settings.split_bn or recorded.get('split_bn')):  # which adds batch norms later
        check_state_dict(weights, model.state_dict(), settings.model, path)
    settings.model_kwargs = {key: value for key, value in arguments.items() if key not in _OWN_FLAGS}
    own_flags = {flag: arguments[key] for key, flag in _OWN_FLAGS.items() if key in arguments}
    settings.num_classes, settings.in_chans = own_flags.get('num_classes'), own_flags.get('in_chans')
    return flags_of(dict(model=settings.model, **own_flags, **_of_images(script, settings, model)))


def channels_of_weights(settings: argparse.Namespace) -> list[str]:
    """Return the flag of the channels of images, where the weights are not for timm's three and nothing is said of it.

    Raises:
        TimmAbnError: The model is at an address, where there is none.
    """
    if settings.in_chans or settings.input_size:
        return []
    cfg: Mapping[str, Any] = {}
    if ':' in settings.model:
        cfg = check_address(settings.model).get('pretrained_cfg') or {}
    else:
        with contextlib.suppress(RuntimeError):  # no such tag, which is told with what is wrong about weights
            known = timm.get_pretrained_cfg(settings.model)
            cfg = known.to_dict() if known else {}
    channels = (cfg.get('input_size') or (3,))[0]
    if channels == 3:
        return []
    settings.in_chans = channels
    return flags_of(dict(in_chans=channels))


def _take_arguments(settings: argparse.Namespace, weights: Mapping[str, torch.Tensor], path: Path) -> dict[str, Any]:
    found = model_arguments(settings.model, settings.recorded, {}, weights, path).get('num_classes')
    said = settings.num_classes
    if said is not None and found not in (None, said):
        raise TrainingError(f'--num-classes {said}, but {path} is of {found} classes{other_classes(settings)}.')
    given = {key: getattr(settings, flag) for key, flag in _OWN_FLAGS.items() if flag in settings.said}
    if 'input_size' in settings.said and settings.input_size:
        given['in_chans'] = settings.input_size[0]
    return model_arguments(settings.model, settings.recorded, {**given, **settings.model_kwargs}, weights, path)


def other_classes(settings: argparse.Namespace) -> str:
    """Return how to train a checkpoint on other classes than its own, as the end of a sentence."""
    if not settings.initial_checkpoint:
        return ''
    return f'; --pretrained --pretrained-path {settings.initial_checkpoint} starts from it with new classifiers'


def _of_images(script: str, settings: argparse.Namespace, model: nn.Module | None) -> dict[str, Any]:
    recorded, said = settings.recorded, settings.said
    if not recorded:
        return {}
    assert settings.trained_checkpoint is not None
    known = recorded if model is None else data_config_of(recorded, model, settings.trained_checkpoint)
    found = {key: known[key] for key in _OF_IMAGES if key not in said and known.get(key)}
    if 'img_size' in said:
        found.pop('input_size', None)
    if 'crop_mode' not in said and known.get('crop_mode'):
        if script == 'train.py':  # which has no flag for it
            settings.crop_mode = recorded.get('crop_mode')
        else:
            found['crop_mode'] = known['crop_mode']
    return found
