"""Class activation mapping (CAM): the baselines that the paper compares its attention maps with.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016. The last stage keeps its resolution,
and the classifier is one linear layer on the spatial means of its features. That layer, applied at each place instead
of to the means, is a 1x1 convolution whose outputs are the class maps; their spatial means are the logits.
"""

from typing import Any

import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead
from timm.models import VGG, ResNet, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck
from timm.models.vgg import cfgs as vgg_cfgs

from ..hub.building import build_model
from ..hub.published import with_hub_ids
from ..networks.attention_stage import set_stride_one
from ..split.families.convolutional import CAM_WIDTH
from .cifar_backbones import CifarResNet, cifar_cfg
from .class_activation_mapping import ClassActivationMapping

__all__ = ['CamCifarResNet', 'CamResNet', 'CamVGG']


class CamResNet(ClassActivationMapping, ResNet):
    """ResNet whose last stage has stride 1 (paper, section 4.2)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """
        Args:
            *args: Arguments of timm's ``ResNet``.
            **kwargs: Arguments of timm's ``ResNet``.
        """
        super().__init__(*args, **kwargs)
        set_stride_one(self.get_submodule('layer4'))
        self.feature_info[-1]['reduction'] = self.feature_info[-2]['reduction']


class CamCifarResNet(ClassActivationMapping, CifarResNet):
    """ResNet for 32x32 images whose last stage has stride 1."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """
        Args:
            *args: Arguments of ``CifarResNet``.
            **kwargs: Arguments of ``CifarResNet``.
        """
        super().__init__(*args, **kwargs)
        set_stride_one(self.get_submodule('layer3'))
        self.feature_info[-1]['reduction'] = self.feature_info[-2]['reduction']


class CamVGG(ClassActivationMapping, VGG):
    """VGG whose last pooling and fully connected layers gave way to a 3x3 convolution (Zhou et al., section 3)."""

    def __init__(self, cfg: list[int | str], drop_rate: float = 0.0, **kwargs: Any) -> None:
        """
        Args:
            cfg: Layers of timm's ``VGG``, ending with a pooling.
            drop_rate: Dropout before the classifier.
            **kwargs: Other arguments of timm's ``VGG``.
        """
        # the fully connected layers are made with a width of 1, since they are thrown away
        super().__init__([*cfg[:-1], CAM_WIDTH], drop_rate=drop_rate, **dict(kwargs, mlp_ratio=1 / 4096))
        self.pre_logits = nn.Identity()  # type: ignore[assignment]
        self.head = ClassifierHead(
            self.num_features,
            self.num_classes,
            pool_type=self.head.global_pool.pool_type,
            drop_rate=drop_rate,
            device=kwargs.get('device'),
            dtype=kwargs.get('dtype'),
        )
        self.head_hidden_size = self.head.num_features


_PAPER = {
    'paper_name': 'Learning Deep Features for Discriminative Localization',
    'paper_ids': 'arXiv:1512.04150',
}


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (14, 14),
        'crop_pct': 0.875,
        'interpolation': 'bilinear',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'conv1',
        'classifier': 'fc',
        'license': 'apache-2.0',
        **_PAPER,
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    with_hub_ids(
        {
            'cam_vgg16_bn': _cfg(first_conv='features.0', classifier='head.fc'),
            'cam_resnet50': _cfg(),
            'cam_resnet152': _cfg(),
            'cam_resnet110_cifar': cifar_cfg(pool_size=(16, 16), **_PAPER),
        }
    )
)


def _create_cam_resnet(variant: str, pretrained: bool, **kwargs: Any) -> CamResNet:
    return build_model(CamResNet, variant, pretrained, **kwargs)


@register_model
def cam_vgg16_bn(pretrained: bool = False, **kwargs: Any) -> CamVGG:
    """CAM over VGG-16 with batch norm."""
    return build_model(
        CamVGG,
        'cam_vgg16_bn',
        pretrained,
        model_cfg=vgg_cfgs['vgg16'],
        feature_cfg=dict(flatten_sequential=True, out_indices=(0, 1, 2, 3, 4)),
        **dict(dict(norm_layer=nn.BatchNorm2d), **kwargs),
    )


@register_model
def cam_resnet50(pretrained: bool = False, **kwargs: Any) -> CamResNet:
    """CAM over ResNet-50."""
    model_args = dict(block=Bottleneck, layers=(3, 4, 6, 3))
    return _create_cam_resnet('cam_resnet50', pretrained, **dict(model_args, **kwargs))


@register_model
def cam_resnet152(pretrained: bool = False, **kwargs: Any) -> CamResNet:
    """CAM over ResNet-152."""
    model_args = dict(block=Bottleneck, layers=(3, 8, 36, 3))
    return _create_cam_resnet('cam_resnet152', pretrained, **dict(model_args, **kwargs))


@register_model
def cam_resnet110_cifar(pretrained: bool = False, **kwargs: Any) -> CamCifarResNet:
    """CAM over ResNet-110 for 32x32 images, of bottleneck blocks."""
    model_args = dict(block=Bottleneck, num_blocks=18)
    return build_model(
        CamCifarResNet,
        'cam_resnet110_cifar',
        pretrained,
        feature_cfg=dict(out_indices=(0, 1, 2), feature_cls='getter'),
        **dict(model_args, **kwargs),
    )
