"""An attention branch attached to a model of timm, with timm's weights or fine-tuned ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
from timm.models import get_pretrained_cfg

from ..errors import TimmAbnError, suggest
from ..networks.network import AttentionBranchNet
from .creating import ModelError, create_model
from .training_checkpoints import OF_BACKBONE, read_checkpoint, recorded_of_backbone

__all__ = ['AttachedModel', 'attach']

MODEL = 'abn'


class AttachedModel(NamedTuple):
    """A network around a backbone, and how to build it again.

    Attributes:
        model: The network, in training mode.
        arguments: What ``timm.create_model('abn', ...)`` is to be called with, without weights.
        origin: Where the weights come from, as text.
        has_new_classifier: Whether the classifier is a new one, since the weights have another number of classes.
    """

    model: AttentionBranchNet
    arguments: dict[str, Any]
    origin: str
    has_new_classifier: bool = False


def attach(
    backbone: str,
    checkpoint: Path | None = None,
    pretrained: bool = False,
    insertion: str = 'explaining',
    num_classes: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> AttachedModel:
    """Attach an attention branch to a model of timm.

    Args:
        backbone: Name of the model.
        checkpoint: Its weights: what timm's training script wrote, whose recorded arguments and preparation of images
            are taken over, or weights alone.
        pretrained: Whether to take timm's weights.
        insertion: 'explaining': the map explains the model, which stays as it is; or 'neutral': the map gates, the
            network begins with the predictions of the model, and can be trained on.
        num_classes: Number of classes, where it is not that of the weights; the classifier is a new one then.
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
    arguments: dict[str, Any] = {}
    if checkpoint is not None:
        read_checkpoint(checkpoint)  # says what is wrong with a file that is no checkpoint
        arguments.update(recorded_of_backbone(backbone, checkpoint)[0])
    else:
        cfg = _weights_of(backbone)
        arguments.update(num_classes=cfg.num_classes)
    of_weights = arguments.get('num_classes')
    arguments.update(model_kwargs or {}, backbone=backbone, insertion=insertion)
    if num_classes is not None:
        arguments['num_classes'] = num_classes
    weights = pretrained if checkpoint is None else str(checkpoint)
    model: Any = create_model(MODEL, dict(arguments, pretrained_backbone=weights))
    origin = 'pretrained weights' if checkpoint is None else 'weights of a file'
    has_new_classifier = None not in (num_classes, of_weights) and num_classes != of_weights
    return AttachedModel(model, arguments, origin + OF_BACKBONE, has_new_classifier)


def _weights_of(backbone: str) -> Any:
    try:
        cfg = get_pretrained_cfg(backbone)
    except RuntimeError as error:  # no such tag
        raise ModelError(str(error)) from error
    if cfg is None or not cfg.has_weights:
        raise ModelError(f'{backbone} has no pretrained weights; pass a checkpoint of it.')
    return cfg
