"""Small Attention Branch Networks for tests: one per layout of features (NCHW, convolution with MLPs, tokens)."""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from timm_abn import AttentionBranchNet
from timm_abn.models.abn_models import backbone_cfg, create_network

default_cfgs = generate_default_cfgs(
    {f'abn_{backbone}': backbone_cfg(backbone) for backbone in ('test_resnet', 'test_convnext', 'test_vit')}
)


@register_model
def abn_test_resnet(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over timm's ResNet for tests."""
    return create_network('abn_test_resnet', pretrained, **kwargs)


@register_model
def abn_test_convnext(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over timm's ConvNeXt for tests."""
    model_args = dict(split='stages.2.blocks.0')
    return create_network('abn_test_convnext', pretrained, **dict(model_args, **kwargs))


@register_model
def abn_test_vit(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over timm's ViT for tests."""
    return create_network('abn_test_vit', pretrained, **kwargs)
