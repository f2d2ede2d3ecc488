"""What a checkpoint says of the network that its weights belong to, and of its images."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models import is_model_in_modules

from ..checkpoint_files import CheckpointError, read_checkpoint, training_settings
from ..errors import TimmAbnError
from ..hub.config import HubError, check_entries
from ..hub.published import ARGUMENTS_OF_WEIGHTS
from ..networks.gate import recorded_gate
from ..records import Record, set_record

__all__ = [
    'OF_BACKBONE',
    'OWN_MODULES',
    'class_names_of',
    'data_config_of',
    'model_arguments',
    'model_of',
    'note_record',
    'origin_of',
    'recorded_model',
    'recorded_of_backbone',
]

OWN_MODULES = ('abn_models', 'attached_models')  # of networks that hold a backbone
_OF_PLAIN_NAMES = dict(mechanism='residual', hard_attention=1.0)
OF_BACKBONE = ', for the backbone'  # how the origin of weights ends that are not of the whole network
_CLASS_WEIGHT = 'attention_branch.class_norm.weight'  # one per class
_TASK_WEIGHT = 'attention_branch.map_conv.weight'  # a row per task, of networks that have no weight of classes


def model_arguments(
    name: str, settings: Mapping[str, Any], given: Mapping[str, Any], weights: Mapping[str, torch.Tensor], path: Path
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
    if is_model_in_modules(name, ('abn_models',)):
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


def model_of(settings: Mapping[str, Any], name: str | None, path: Path) -> str:
    """Return the name of the model of a checkpoint: ``name`` if it is given, else what the settings say.

    At an address there may be any model, and ``abn`` is any Attention Branch Network.

    Raises:
        CheckpointError: The settings say nothing, or another name.
    """
    trained = str(settings.get('model') or '')
    if name is None:
        if not re.fullmatch(r'[\w.]+', trained):
            said = f'is of {trained}' if re.fullmatch(r'[\w.:/@-]+', trained) else 'does not record its model'
            raise CheckpointError(f'{path} {said}: pass --model NAME.')
        return trained
    if not trained or ':' in name or trained.split('.')[0] == name.split('.')[0]:
        return name
    if name == 'abn' and trained.startswith('abn_'):
        return trained
    raise CheckpointError(f'{path} is a checkpoint of {trained}, not of {name}.')


def recorded_model(path: str | Path | None) -> str:
    """Return the name of the model that a checkpoint is of, as it says itself.

    Raises:
        CheckpointError: There is none, it cannot be read, or does not say so.
    """
    if path is None:
        raise CheckpointError('name a model (--model NAME), or pass a checkpoint that records it (--checkpoint FILE).')
    return model_of(training_settings(read_checkpoint(Path(path))[1]), None, Path(path))


def recorded_of_backbone(name: str, path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return what a checkpoint says of the backbone that it is of: its arguments, how images were prepared, settings.

    With the latter, entries of a ``pretrained_cfg``, comes what its classes are called. It is what timm's training
    script wrote, or weights alone, which say less.

    Raises:
        CheckpointError: It cannot be read, is of another model, or what it says makes no sense.
    """
    weights, metadata = read_checkpoint(path)
    settings = training_settings(metadata)
    model_of(settings, name, path)
    arguments = model_arguments(name, settings, {}, weights, path)
    if not settings:
        return arguments, {}, {}
    backbone: Any = timm.create_model(name, device=torch.device('meta'), **arguments)
    names = class_names_of(settings, backbone.num_classes, path)
    named = dict(num_classes=backbone.num_classes, label_names=names) if names else {}
    return arguments, {**data_config_of(settings, backbone, path), **named}, settings


def note_record(model: torch.nn.Module, settings: Mapping[str, Any], path: Path) -> None:
    """Note with a model what the settings of its training say that timm's configuration has no place for.

    Raises:
        CheckpointError: It makes no sense.
    """
    kind = 'sigmoid' if settings.get('task') == 'multilabel' else None
    try:
        set_record(model, Record.take(dict(dict(probabilities=kind), **settings)))
    except TimmAbnError as error:
        raise CheckpointError(f'{path}: {error}') from None


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
    return list(names) if len(names) in (num_classes, 2 if num_classes == 1 else num_classes) else None


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
        raise CheckpointError(f'{path} records impossible image preparation: {found}') from None
    _check_recorded(data_config, {}, path)
    return data_config


def _check_recorded(data_config: Mapping[str, Any], arguments: Mapping[str, Any], path: Path) -> None:
    try:
        check_entries(data_config, arguments, str(path))
    except HubError as error:  # the same rules hold for what comes from the Hub
        raise CheckpointError(str(error)) from None
