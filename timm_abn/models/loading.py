"""Loading trained models: by name, from an address, or from a checkpoint."""

import contextlib
import reprlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import timm
import torch.nn as nn

from ..attached.network import AttachedNet
from ..checkpoint_files import read_checkpoint, training_settings
from ..errors import TimmAbnError, suggest
from ..hub.published import no_weights
from ..hub.state_dicts import check_state_dict
from ..networks.gate import check_records
from ..networks.split_network import SplitNetwork
from .attaching import attach_module, with_backbone
from .cam_models import ClassActivationMapping
from .creating import ModelError, create_model
from .told import Told
from .training_checkpoints import (
    OWN_MODULES,
    class_names_of,
    data_config_of,
    model_arguments,
    model_of,
    note_record,
    recorded_model,
)

__all__ = ['EXPLAINING', 'attach', 'load_any_model', 'load_classifier', 'load_model', 'model_names', 'untrained_model']

EXPLAINING = (SplitNetwork, AttachedNet, ClassActivationMapping)  # classes of models that explain themselves


def model_names(pattern: str = '') -> list[str]:
    """Return the registered names, of a pattern, of models that explain themselves: ABNs, then CAM baselines."""
    return [name for module in (*OWN_MODULES, 'cam_models') for name in timm.list_models(pattern, module=module)]


def load_model(
    name_or_address: str | None = None, /, checkpoint: str | Path | None = None, **model_kwargs: Any
) -> nn.Module:
    """Return a model with trained weights that explains itself, in evaluation mode.

    Other timm classifiers are wrapped by ``timm_abn.attach``: they are unchanged, and show the evidence for their
    classes. A checkpoint of timm's training script records its model, the model's arguments, and how images were
    prepared.

    Args:
        name_or_address: Name of a model, with or without a tag, or a 'hf-hub:' or 'local-dir:' address; None if the
            checkpoint records it.
        checkpoint: File of weights (.safetensors, or as written by ``torch.save``); None for the pretrained ones.
        **model_kwargs: Arguments of ``timm.create_model``, and fields of ``Told`` (``img_size``, ``mean``, ``std``,
            ``crop_pct``, ``levels``, ``explained_by``, and ``probabilities``: 'softmax', or 'sigmoid' for labels that
            do not exclude each other). All take precedence over what the weights record.

    Raises:
        TimmAbnError: There is no such model, or there are no weights that fit; the message is one line.
    """
    model = load_classifier(name_or_address, checkpoint, **model_kwargs)
    return model if isinstance(model, EXPLAINING) else attach_module(model)


def attach(
    model: nn.Module | str | None = None, /, checkpoint: str | Path | None = None, **model_kwargs: Any
) -> AttachedNet:
    """Return a classifier that also shows where in an image the evidence for a class is; nothing is trained.

    Its logits equal the model's bit for bit, and its ``explain()`` returns a map for any class from the same forward
    pass. ``AttachedNet`` describes how the maps are computed.

    Args:
        model: A timm model, which is not modified and shares its weights, or the name of one, which is loaded as by
            ``load_model``.
        checkpoint: See ``load_model``.
        **model_kwargs: See ``load_model``.

    Raises:
        TimmAbnError: The model has no spatial positions to apply its head to, or already explains itself; or see
            ``load_model``.
    """
    if isinstance(model, nn.Module):
        if checkpoint is not None or model_kwargs:
            raise ModelError('a checkpoint and arguments need the name of a model, not a model.')
        return attach_module(model)
    if not isinstance(model, (str, NoneType)):
        raise ModelError(f'attach() takes a timm model or its name, got {reprlib.repr(model)}.')
    found = load_classifier(model, checkpoint, **model_kwargs)
    return found if isinstance(found, AttachedNet) else attach_module(found)


def load_any_model(
    name_or_address: str | None = None, /, checkpoint: str | Path | None = None, **model_kwargs: Any
) -> nn.Module:
    """Return what ``load_model`` does, or the plain classifier where that has no places to attach to.

    Raises:
        TimmAbnError: There is no such model, or there are no weights that fit; the message is one line.
    """
    model = load_classifier(name_or_address, checkpoint, **model_kwargs)
    if not isinstance(model, EXPLAINING):
        with contextlib.suppress(TimmAbnError):
            return attach_module(model)
    return model


def load_classifier(
    name_or_address: str | None = None, /, checkpoint: str | Path | None = None, **model_kwargs: Any
) -> nn.Module:
    """Return any model of timm with trained weights, in evaluation mode: ``load_model`` for those without a map, too.

    Raises:
        TimmAbnError: There is no such model, or there are no weights that fit; the message is one line.
    """
    name = recorded_model(checkpoint) if name_or_address is None else name_or_address
    told, model_kwargs = Told.take(model_kwargs)
    if ':' not in name:
        _check_exists(name)
        _check_tag(name)
    if checkpoint is not None:
        return _load_checkpoint(name, Path(checkpoint), model_kwargs, told).eval()
    if ':' not in name:
        _check_has_weights(name, model_kwargs.get('num_classes'))
    model = told.build(partial(create_model, name), dict(model_kwargs, pretrained=True))
    told.note(model)
    return model.eval()


def untrained_model(name: str, /, **model_kwargs: Any) -> nn.Module:
    """Return any model of timm with random weights, in evaluation mode.

    Raises:
        TimmAbnError: There is no such model; the message is one line.
    """
    _check_exists(name)
    return create_model(name, model_kwargs).eval()


def _load_checkpoint(name: str, path: Path, model_kwargs: Mapping[str, Any], told: Told) -> nn.Module:
    weights, metadata = read_checkpoint(path)
    settings = training_settings(metadata)
    name = model_of(settings, name, path)
    arguments = model_arguments(name, settings, model_kwargs, weights, path)
    model: Any = told.build(partial(create_model, name), arguments)
    if isinstance(model, AttachedNet):
        weights = with_backbone(weights, model, settings.get('backbone_sha256'), path)
    if isinstance(model, SplitNetwork):
        check_records(weights, 'gate.', model.gate)
    check_state_dict(weights, model.state_dict(), name, path)
    model.load_state_dict(weights)
    if settings:
        note_record(model, settings, path)
        model.pretrained_cfg = dict(model.pretrained_cfg, **data_config_of(settings, model, path))
    told.note(model)
    told.warn(model, settings, path)
    names = class_names_of(settings, model.num_classes, path)
    if names:
        model.pretrained_cfg = dict(model.pretrained_cfg, num_classes=model.num_classes, label_names=names)
    return model


def _check_exists(name: str) -> None:
    if not timm.is_model(name):
        hint = suggest(name.partition('.')[0], timm.list_models(), otherwise='see timm.list_models()')
        raise ModelError(f'{name} is not a model; {hint}')


def _check_tag(name: str) -> None:
    architecture, _, tag = name.partition('.')
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        tagged = timm.list_pretrained(f'{architecture}.*')
        hint = f'there are {", ".join(tagged)}' if tagged else 'it has none'
        raise ModelError(f'{architecture} has no weights {tag!r}; {hint}.') from None


def _check_has_weights(name: str, num_classes: int | None) -> None:
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        if name.split('.')[0] not in model_names():
            raise ModelError(f'{name} has no pretrained weights; pass weights as checkpoint (--checkpoint FILE).')
        trained = timm.list_pretrained([f'{known}.*' for known in model_names()])
        raise ModelError(
            f'{no_weights(name.split(".")[0])} Or pass your own weights as checkpoint (--checkpoint FILE), or use '
            f'a model that has some ({", ".join(trained)}).'
        )
    if num_classes not in (None, cfg.num_classes):
        raise ModelError(
            f'the weights of {name} are for {cfg.num_classes} classes, not {num_classes}: leave out the number of '
            f'classes, or pass your own weights as checkpoint (--checkpoint FILE).'
        )
