"""An attention branch attached to a model of timm, with timm's weights or fine-tuned ones."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models import PretrainedCfg, get_pretrained_cfg

from ..attached.network import AttachedNet
from ..checkpoint_files import CheckpointError
from ..errors import suggest
from ..hub.state_dicts import fingerprint_of
from ..networks.split_network import HALVES
from .creating import ModelError, create_model
from .told import Told
from .training_checkpoints import OF_BACKBONE, recorded_model, recorded_of_backbone

__all__ = ['MODEL', 'AttachedModel', 'attach', 'backbone_fingerprint', 'with_backbone', 'without_backbone']

MODEL = 'attached'
_PREFIXES = tuple(f'{half}.' for half in HALVES)


class AttachedModel(NamedTuple):
    """A network around a backbone, in training mode, and how to build it again."""

    model: AttachedNet
    arguments: dict[str, Any]  # of timm.create_model('attached', ...), without weights
    origin: str  # of the weights, in words

    @property
    def is_of_timm(self) -> bool:
        """Whether timm has the backbone's weights, by the name and tag that ``arguments`` hold."""
        return bool(self.arguments.get('pretrained_backbone'))


def attach(backbone: str | None = None, checkpoint: Path | None = None, /, **model_kwargs: Any) -> AttachedModel:
    """Attach an attention branch to a model of timm, which stays as it is: the map explains it, and does not gate.

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
        raise ModelError(f'{backbone} is no model; {suggest(backbone, timm.list_models(), "see timm.list_models()")}')
    if backbone.startswith('abn'):
        raise ModelError(f'{backbone} is an Attention Branch Network already; pass its backbone.')
    if checkpoint is None:
        cfg = _weights_of(backbone)
        backbone = f'{cfg.architecture}.{cfg.tag}' if cfg.tag else backbone
        arguments: dict[str, Any] = dict(num_classes=cfg.num_classes)
    else:
        recorded, _, settings = recorded_of_backbone(backbone, checkpoint)
        arguments = dict(recorded)
    of_weights = arguments.get('num_classes')
    arguments.update(model_kwargs, backbone=backbone)
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
    return {name: tensor for name, tensor in weights.items() if name.startswith(_PREFIXES)}


def without_backbone(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what is trained of an attached network: the weights of its branch, and what its gate records."""
    return {name: tensor for name, tensor in state_dict.items() if not name.startswith(_PREFIXES)}


def with_backbone(
    weights: Mapping[str, torch.Tensor], model: AttachedNet, fingerprint: object, path: Path
) -> dict[str, torch.Tensor]:
    """Return the weights of an attached network, with those of its backbone, which are timm's, if they lack them.

    ``fingerprint`` is that of the backbone that the branch was trained for, ``path`` the checkpoint's, for messages.

    Raises:
        CheckpointError: The branch was trained for other weights of the backbone.
    """
    if _of_backbone(weights):
        return dict(weights)
    found = backbone_fingerprint(model)
    if fingerprint != found:
        raise CheckpointError(
            f'{path} was trained for other weights of {model.config.backbone}: their SHA-256 begins with '
            f'{str(fingerprint)[:12]}, that of the weights here with {found[:12]}.'
        )
    return {**weights, **_of_backbone(model.state_dict())}


def _weights_of(backbone: str) -> PretrainedCfg:
    try:
        cfg = get_pretrained_cfg(backbone)
    except RuntimeError as error:  # no such tag
        raise ModelError(str(error)) from error
    if cfg is None or not cfg.has_weights:
        raise ModelError(f'{backbone} has no pretrained weights; pass a checkpoint of it (--checkpoint FILE).')
    return cfg
