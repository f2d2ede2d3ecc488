"""The model ``attached``: any timm classifier as it is, with maps of the evidence for its classes."""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from ..attached.network import AttachedNet
from .abn_models import backbone_cfg, create_network

_PARTS = ('backbone', 'backbone')

default_cfgs = generate_default_cfgs({'attached': backbone_cfg('resnet50', _PARTS)})


@register_model
def attached(pretrained: bool = False, backbone: str = 'resnet50', **kwargs: Any) -> AttachedNet:
    """A timm classifier that stays as it is, and says where the evidence for a class lies.

    Args:
        pretrained: Load the weights that ``pretrained_cfg`` names.
        backbone: Name of the timm model.
        **kwargs: Arguments of ``AttachedNet``, and of ``timm.create_model`` for the backbone.
    """
    if not kwargs.get('pretrained_cfg'):
        kwargs['pretrained_cfg'] = backbone_cfg(backbone, _PARTS, architecture='attached')
    return create_network('attached', pretrained, network_class=AttachedNet, backbone=backbone, **kwargs)
