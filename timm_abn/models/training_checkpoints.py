"""Reading a checkpoint: its weights, and what it says of the network that they belong to."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_data_config
from timm.models import clean_state_dict, is_model_in_modules

from ..errors import one_line
from ..hub.config import HubError, check_entries
from ..hub.published import ARGUMENTS_OF_WEIGHTS
from ..hub.state_dicts import CheckpointError
from ..networks.gate import recorded_gate
from ..timm_private import torch_load

__all__ = [
    'OF_BACKBONE',
    'OWN_MODULES',
    'check_model_of',
    'class_names_of',
    'data_config_of',
    'model_arguments',
    'origin_of',
    'read_checkpoint',
    'read_checkpoint_file',
    'recorded_of_backbone',
    'training_settings',
]

OWN_MODULES = ('abn_models', 'attached_models')  # of networks with an attention branch
_OF_PLAIN_NAMES = dict(mechanism='residual', hard_attention=1.0)
OF_BACKBONE = ', for the backbone'  # how the origin of weights ends that are not of the whole network
_CLASS_WEIGHT = 'attention_branch.class_norm.weight'  # one per class
_TASK_WEIGHT = 'attention_branch.map_conv.weight'  # a row per task, of networks that have no weight of classes


def read_checkpoint_file(path: Path) -> Mapping[str, Any]:
    """Return all that a checkpoint holds, as it was written, without running code from it.

    Raises:
        CheckpointError: It is not there, damaged, or holds other things than tensors and plain values.
    """
    if not path.is_file():
        raise CheckpointError(f'there is no checkpoint {path}')
    try:
        checkpoint = load_file(path) if path.suffix == '.safetensors' else torch_load(str(path))
    except Exception as error:  # on damaged files torch.load raises errors of a dozen types
        raise CheckpointError(f'{path} is no checkpoint, or damaged: {one_line(error)}') from None
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f'{path} is no checkpoint of a model: it holds a {type(checkpoint).__name__}')
    return checkpoint


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, Any]]:
    """Return the weights of a checkpoint, averaged ones where there are some, and what lies beside them.

    Raises:
        CheckpointError: See ``read_checkpoint_file``; or it holds no weights.
    """
    checkpoint = read_checkpoint_file(path)
    # where timm looks for weights, and in which order
    averaged = [checkpoint[key] for key in ('state_dict_ema', 'model_ema') if checkpoint.get(key) is not None]
    weights = [*averaged, *(checkpoint[key] for key in ('state_dict', 'model') if key in checkpoint), checkpoint][0]
    if not isinstance(weights, Mapping):
        raise CheckpointError(f'{path} is no checkpoint of a model: its weights are a {type(weights).__name__}')
    strangers = [key for key, value in weights.items() if not (isinstance(key, str) and torch.is_tensor(value))]
    if strangers or not weights:
        found = ', '.join(map(str, strangers[:3])) or 'nothing'
        raise CheckpointError(f'{path} is no checkpoint of a model: it holds {found}')
    return clean_state_dict(dict(weights)), {} if path.suffix == '.safetensors' else checkpoint


def training_settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of timm's training script that lie beside the weights of a checkpoint, if any."""
    settings = metadata.get('args')
    return vars(settings) if isinstance(settings, argparse.Namespace) else {}


def model_arguments(
    name: str,
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
    path: Path,
) -> dict[str, Any]:
    """Return the arguments that build the network of a checkpoint.

    Those ``given`` come first, then those that the settings of timm's training script record. If nothing else does, the
    weights tell the number of classes, and whether they are tasks.

    Raises:
        CheckpointError: Recorded arguments make no sense.
    """
    recorded = settings.get('model_kwargs')
    arguments = _arguments_of_weights(settings)
    arguments.update(recorded if isinstance(recorded, Mapping) else {})
    arguments.update({key: settings.get(key) for key in ('num_classes', 'in_chans')}, global_pool=settings.get('gp'))
    input_size = settings.get('input_size')
    if isinstance(input_size, (list, tuple)) and input_size:  # else data_config_of says what is wrong
        arguments['in_chans'] = input_size[0]
    # the checkpoint has the weights that came of it, or says by their SHA-256 which of timm's they were
    is_of_timm = arguments.pop('pretrained_backbone', None) is True and 'backbone_sha256' in settings
    arguments = {key: value for key, value in arguments.items() if value is not None}
    _check_recorded({}, arguments, path)
    if is_of_timm:
        arguments['pretrained_backbone'] = True
    if is_model_in_modules(name, OWN_MODULES):
        gate, init = recorded_gate(weights)
        arguments.setdefault('gate', gate)
        if init == 'neutral':
            arguments.setdefault('init', init)
    arguments.update(given)
    if _CLASS_WEIGHT in weights:
        arguments.setdefault('num_classes', len(weights[_CLASS_WEIGHT]))
    elif _TASK_WEIGHT in weights:
        arguments.setdefault('num_classes', len(weights[_TASK_WEIGHT]))
        arguments.setdefault('multi_task', True)
    elif not is_model_in_modules(name, OWN_MODULES) and timm.is_model(name):
        cfg = timm.get_pretrained_cfg(name)
        classifier = weights.get(f'{cfg.classifier}.weight') if cfg else None
        arguments.update({} if classifier is None or 'num_classes' in arguments else dict(num_classes=len(classifier)))
    return arguments


def check_model_of(settings: Mapping[str, Any], name: str, path: Path) -> None:
    """Raise CheckpointError if a checkpoint says that it is of another model; at an address there may be any."""
    trained = settings.get('model')
    if trained and ':' not in name and str(trained).split('.')[0] != name.split('.')[0]:
        raise CheckpointError(f'{path} is a checkpoint of {trained}, not of {name}.')


def recorded_of_backbone(name: str, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a checkpoint says of the backbone that it is of: its arguments, and how images were prepared.

    With the latter, entries of a ``pretrained_cfg``, comes what its classes are called. It is what timm's training
    script wrote, or weights alone, which say less.

    Raises:
        CheckpointError: It cannot be read, is of another model, or what it says makes no sense.
    """
    weights, metadata = read_checkpoint(path)
    settings = training_settings(metadata)
    check_model_of(settings, name, path)
    arguments = model_arguments(name, settings, {}, weights, path)
    if not settings:
        return arguments, {}
    backbone: Any = timm.create_model(name, device=torch.device('meta'), **arguments)
    names = class_names_of(settings, backbone.num_classes, path)
    named = dict(num_classes=len(names), label_names=names) if names else {}
    return arguments, {**data_config_of(settings, backbone, path), **named}


def _arguments_of_weights(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a network had by its name, whose tag may bring some along.

    They are passed explicitly where weights have arguments of their own, so that it does not matter under which of
    these names a checkpoint is loaded.
    """
    name = settings.get('model')
    if not isinstance(name, str) or name.split('.')[0] not in {tagged.split('.')[0] for tagged in ARGUMENTS_OF_WEIGHTS}:
        return {}
    return {**_OF_PLAIN_NAMES, **ARGUMENTS_OF_WEIGHTS.get(name, {})}


def class_names_of(settings: Mapping[str, Any], num_classes: int, path: Path) -> list[str] | None:
    """Return what the classes were called that a network was trained on; None if nothing says so.

    The launcher adds ``label_names`` to the settings of timm's script. Names of another number are of other classes.

    Raises:
        CheckpointError: They are no names.
    """
    names = settings.get('label_names')
    if names is None:
        return None
    _check_recorded(dict(label_names=names, num_classes=len(names) if isinstance(names, list) else 0), {}, path)
    return list(names) if len(names) == num_classes else None


def origin_of(settings: Mapping[str, Any]) -> str:
    """Return in words which weights a training run began from; empty if nothing says so.

    The launcher adds ``origin`` to the settings of timm's script, which outlives resuming.
    """
    said = settings.get('origin')
    if isinstance(said, str) and len(said) <= 200:
        return said
    if not settings.get('model') or settings.get('resume'):  # of the run before nothing is known
        return ''
    if any(settings.get(key) for key in ('initial_checkpoint', 'pretrained_path')):
        return 'weights of a file'
    if settings.get('pretrained'):
        return f'the pretrained weights of {settings["model"]}'
    recorded = settings.get('model_kwargs')
    arguments = recorded if isinstance(recorded, Mapping) else {}
    if of_backbone := arguments.get('pretrained_backbone'):
        return ('weights of a file' if isinstance(of_backbone, str) else 'pretrained weights') + OF_BACKBONE
    return 'random weights'


def data_config_of(settings: Mapping[str, Any], model: torch.nn.Module, path: Path) -> dict[str, Any]:
    """Return how images were prepared in training: input size, mean and so on, as timm names them.

    That of the model holds where the settings of timm's script say nothing.

    Raises:
        CheckpointError: They make no sense.
    """
    try:
        data_config = resolve_data_config(dict(settings), model=model)
    except (AssertionError, TypeError, ValueError):
        names = ('input_size', 'img_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')
        found = ', '.join(f'{name}={settings[name]!r}' for name in names if settings.get(name) is not None)
        raise CheckpointError(f'{path} says that images were prepared with {found}, which cannot be') from None
    _check_recorded(data_config, {}, path)
    return data_config


def _check_recorded(data_config: Mapping[str, Any], arguments: Mapping[str, Any], path: Path) -> None:
    try:
        check_entries(data_config, arguments, str(path))
    except HubError as error:  # the same rules hold for what comes from the Hub
        raise CheckpointError(str(error)) from None
