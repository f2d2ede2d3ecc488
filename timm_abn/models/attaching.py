"""An attention branch attached to a model of timm, with timm's weights or fine-tuned ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg

from ..errors import TimmAbnError, suggest
from ..networks.network import AttentionBranchNet
from .creating import ModelError, create_model
from .training_checkpoints import OF_BACKBONE, read_checkpoint, recorded_of_backbone

__all__ = ['AttachedModel', 'attach']


class AttachedModel(NamedTuple):
    """A network around a backbone, and how to build it again.

    Attributes:
        model: The network, in training mode.
        arguments: What ``timm.create_model('abn', ...)`` is to be called with, without weights.
        origin: Where the weights come from, as text.
    """

    model: AttentionBranchNet
    arguments: dict[str, Any]
    origin: str


def attach(
    backbone: str,
    checkpoint: Path | None = None,
    pretrained: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> AttachedModel:
    """Attach an attention branch to a model of timm, which stays as it is: the map explains it, and does not gate.

    Args:
        backbone: Name of the model.
        checkpoint: Its weights: what timm's training script wrote, whose recorded arguments and preparation of images
            are taken over, or weights alone.
        pretrained: Whether to take timm's weights.
        model_kwargs: Other arguments of the network and the backbone, which come before recorded ones.

    Raises:
        TimmAbnError: There is no such model, or there are no weights that fit; the message is one line.
    """
    if not timm.is_model(backbone.split('.')[0]):
        raise ModelError(f'{backbone} is no model; {suggest(backbone, timm.list_models(), "see timm.list_models()")}')
    if backbone.startswith('abn'):
        raise ModelError(f'{backbone} is an Attention Branch Network already; pass its backbone.')
    if (checkpoint is None) != pretrained:
        raise TimmAbnError('weights come either from a checkpoint of the backbone, or are those that timm has of it.')
    if checkpoint is None:
        arguments: dict[str, Any] = dict(num_classes=_weights_of(backbone).num_classes)
    else:
        read_checkpoint(checkpoint)  # says what is wrong with a file that is no checkpoint
        arguments = dict(recorded_of_backbone(backbone, checkpoint)[0])
    arguments.update(model_kwargs or {}, backbone=backbone, insertion='explaining')
    weights = pretrained if checkpoint is None else str(checkpoint)
    model = create_model('abn', dict(arguments, pretrained_backbone=weights))
    assert isinstance(model, AttentionBranchNet)
    origin = 'pretrained weights' if checkpoint is None else 'weights of a file'
    return AttachedModel(model, arguments, origin + OF_BACKBONE)


def _weights_of(backbone: str) -> PretrainedCfg:
    try:
        cfg = get_pretrained_cfg(backbone)
    except RuntimeError as error:  # no such tag
        raise ModelError(str(error)) from error
    if cfg is None or not cfg.has_weights:
        raise ModelError(f'{backbone} has no pretrained weights; pass a checkpoint of it.')
    return cfg
