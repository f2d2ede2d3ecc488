"""The model ``attached``: any timm classifier as it is, with maps of the evidence for its classes."""

from typing import Any

from timm.models import PretrainedCfg, generate_default_cfgs, get_pretrained_cfg, register_model

from ..attached.network import AttachedNet
from .abn_models import backbone_cfg, create_network


def _attached_cfg(backbone: str, **kwargs: Any) -> dict[str, Any]:
    cfg = get_pretrained_cfg(backbone) or PretrainedCfg()
    of_backbone = {name: getattr(cfg, name) for name in ('license', 'origin_url', 'paper_name', 'paper_ids')}
    return dict(backbone_cfg(backbone, ('backbone', 'backbone')), **of_backbone, **kwargs)


default_cfgs = generate_default_cfgs({'attached': _attached_cfg('resnet50')})


@register_model
def attached(pretrained: bool = False, backbone: str = 'resnet50', **kwargs: Any) -> AttachedNet:
    """A timm classifier that stays as it is, and says where the evidence for a class lies.

    Args:
        pretrained: Load the weights that ``pretrained_cfg`` names.
        backbone: Name of the timm model.
        **kwargs: Arguments of ``AttachedNet``, and of ``timm.create_model`` for the backbone.
    """
    if not kwargs.get('pretrained_cfg'):
        kwargs['pretrained_cfg'] = _attached_cfg(backbone, architecture='attached')
    return create_network('attached', pretrained, network_class=AttachedNet, backbone=backbone, **kwargs)
