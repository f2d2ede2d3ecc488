"""Networks around a classifier of timm: built of a model, or by name with timm's weights or fine-tuned ones."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn as nn
from timm.models import PretrainedCfg, get_model_traits, get_pretrained_cfg

from ..attached.network import AttachedNet
from ..backbone import name_of
from ..checkpoint_files import CheckpointError
from ..errors import suggest
from ..hub.state_dicts import fingerprint_of
from ..split.module_copy import copy_module, tensors_of
from .creating import ModelError, create_model
from .told import Told
from .training_checkpoints import OF_BACKBONE, recorded_model, recorded_of_backbone

__all__ = [
    'MODEL',
    'AttachedModel',
    'attach_by_name',
    'attach_module',
    'backbone_fingerprint',
    'with_backbone',
    'without_backbone',
]

MODEL = 'attached'
_PREFIX = 'backbone.'


class AttachedModel(NamedTuple):
    """A network with a refinement, in training mode, and how to build it again."""

    model: AttachedNet
    arguments: dict[str, Any]  # of timm.create_model('attached', ...), without weights
    origin: str  # of the weights, in words

    @property
    def is_of_timm(self) -> bool:
        """Whether timm has the backbone's weights, by the name and tag that ``arguments`` hold."""
        return bool(self.arguments.get('pretrained_backbone'))


def attach_module(model: nn.Module) -> AttachedNet:
    """Return a network around a copy of a model's modules, which shares its weights, in evaluation mode.

    Raises:
        TimmAbnError: See ``AttachedNet``.
    """
    network: Any = AttachedNet(copy_module(model, {id(tensor): tensor for tensor in tensors_of(model)}))
    network.pretrained_cfg = network.default_cfg = dict(getattr(model, 'pretrained_cfg', None) or {})
    network._traits = get_model_traits(model)
    return network.eval()


def attach_by_name(
    backbone: str | None = None, checkpoint: Path | None = None, /, **model_kwargs: Any
) -> AttachedModel:
    """Build a network with a refinement around a model of timm, and note how to build it again.

    Args:
        backbone: Name of the model; None if the checkpoint says it.
        checkpoint: What timm's training script wrote, or weights alone; None for timm's pretrained weights.
        **model_kwargs: Arguments of ``timm.create_model``, and what ``Told`` says; they come before what the checkpoint
            records.

    Raises:
        TimmAbnError: There is no such model, or there are no weights that fit; the message is one line.
    """
    told, model_kwargs = Told.take(model_kwargs)
    if backbone is None:
        backbone = recorded_model(checkpoint)
    if not timm.is_model(backbone.split('.')[0]):
        hint = suggest(backbone, timm.list_models(), 'see timm.list_models()')
        raise ModelError(f'{backbone} is not a model; {hint}')
    if backbone.startswith('abn'):
        raise ModelError(f'{backbone} is already an Attention Branch Network; pass its backbone.')
    if checkpoint is None:
        cfg = _weights_of(backbone)
        backbone = f'{cfg.architecture}.{cfg.tag}' if cfg.tag else backbone
        arguments: dict[str, Any] = dict(num_classes=cfg.num_classes)
    else:
        recorded, _, settings = recorded_of_backbone(backbone, checkpoint)
        arguments = dict(recorded)
    of_weights = arguments.get('num_classes')
    arguments.update(model_kwargs, backbone=backbone, refined=True)
    if checkpoint is None and arguments['num_classes'] == of_weights:  # timm has no other classifier
        arguments['pretrained_backbone'] = True
    weights = checkpoint is None or str(checkpoint)
    model = told.build(partial(create_model, MODEL), dict(arguments, pretrained_backbone=weights))
    assert isinstance(model, AttachedNet)
    told.note(model)
    if checkpoint is not None:
        told.warn(model, settings, checkpoint)
    if size := model._model_args.get('img_size'):
        arguments['img_size'] = size
    origin = 'pretrained weights' if checkpoint is None else 'weights of a file'
    return AttachedModel(model, arguments, origin + OF_BACKBONE)


def backbone_fingerprint(model: AttachedNet) -> str:
    """Return the SHA-256 of the backbone of an attached network."""
    return fingerprint_of(_of_backbone(model.state_dict()))


def _of_backbone(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights.items() if name.startswith(_PREFIX)}


def without_backbone(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what is trained of an attached network: its refinement."""
    return {name: tensor for name, tensor in state_dict.items() if not name.startswith(_PREFIX)}


def with_backbone(
    weights: Mapping[str, torch.Tensor], model: AttachedNet, fingerprint: object, path: Path
) -> dict[str, torch.Tensor]:
    """Return the weights of an attached network, with those of its backbone, which are timm's, if they lack them.

    ``fingerprint`` is of the backbone that the refinement was trained for, ``path`` the checkpoint's, for messages.

    Raises:
        CheckpointError: The refinement was trained for other weights of the backbone.
    """
    if _of_backbone(weights):
        return dict(weights)
    found = backbone_fingerprint(model)
    if fingerprint != found:
        raise CheckpointError(
            f'{path} was trained for other weights of {name_of(model.backbone)}: their SHA-256 starts with '
            f'{str(fingerprint)[:12]}, that of these weights with {found[:12]}.'
        )
    return {**weights, **_of_backbone(model.state_dict())}


def _weights_of(backbone: str) -> PretrainedCfg:
    try:
        cfg = get_pretrained_cfg(backbone)
    except RuntimeError as error:  # no such tag
        raise ModelError(str(error)) from error
    if cfg is None or not cfg.has_weights:
        raise ModelError(f'{backbone} has no pretrained weights; pass a checkpoint for it (--checkpoint FILE).')
    return cfg
