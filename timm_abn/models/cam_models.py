"""Class activation mapping (CAM): the baselines that the paper compares its attention maps with.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016. The last stage keeps its resolution,
and the classifier is one linear layer on the spatial means of its features. That layer, applied at each place instead
of to the means, is a 1x1 convolution whose outputs are the class maps; their spatial means are the logits.
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead
from timm.models import VGG, ResNet, generate_default_cfgs, get_model_args, register_model
from timm.models.resnet import Bottleneck
from timm.models.vgg import cfgs as vgg_cfgs

from ..errors import TimmAbnError
from ..hub.building import build_model
from ..hub.published import with_hub_ids
from ..maps.explanation import Explanation
from ..maps.operations import normalize_maps
from ..networks.attention_stage import set_stride_one
from ..networks.scripting import ignored_by_torchscript
from ..records import answers, are_exclusive, explained_by
from ..split.families.convolutional import CAM_WIDTH
from .cifar_backbones import CifarResNet, build_cifar, cifar_cfg

__all__ = ['CamCifarResNet', 'CamResNet', 'CamVGG', 'ClassActivationMapping']


class ClassActivationMapping:
    """Adds ``explain`` to a timm model whose classifier is a linear layer after average pooling."""

    training: bool

    @ignored_by_torchscript
    @torch.no_grad()
    def explain(self, images: torch.Tensor) -> Explanation:
        """Predict, and say where the prediction looks: one forward pass, no gradients.

        Args:
            images: Normalised images, shape (B, in_chans, H, W).

        Returns:
            Logits (B, K) and class maps (B, K, h, w), whose spatial means are the logits. The attention map, of shape
            (B, 1, h, w), is the class map of the predicted class, stretched to [0, 1] image by image. There is no
            attention branch, and so there are no attention logits.

        Raises:
            TimmAbnError: The model is in training mode, or has no classifier on average-pooled features.
        """
        model: Any = self
        if model.training:
            raise TimmAbnError('explain() needs evaluation mode; call model.eval() first.')
        if images.ndim != 4 or images.shape[1] != model.in_chans:
            raise TimmAbnError(f'images must have shape (B, {model.in_chans}, H, W), got {tuple(images.shape)}.')
        classifier, pooling = model.get_classifier(), get_model_args(model).get('global_pool')
        if not isinstance(classifier, nn.Linear) or pooling != 'avg':
            raise TimmAbnError(
                f"explain() needs a linear classifier on global_pool='avg', got num_classes={model.num_classes} and "
                f'global_pool={pooling!r}.'
            )
        features = model.forward_features(images)
        class_maps = F.conv2d(features, classifier.weight[:, :, None, None], classifier.bias)
        logits = model.forward_head(features)
        height, width = class_maps.shape[2:]
        exclusive = are_exclusive(model)
        index = answers(logits, exclusive).argmax(dim=1)[:, None, None, None].expand(-1, 1, height, width)
        # indexing with arange would fix the batch size of an exported graph
        predicted = answers(class_maps, exclusive).gather(1, index)
        return Explanation(
            logits=logits,
            attention_map=normalize_maps(predicted).to(logits.dtype),
            class_maps=class_maps,
            exclusive=exclusive,
            explained_by=explained_by(model),
        )


class CamResNet(ClassActivationMapping, ResNet):
    """ResNet whose last stage has stride 1 (paper, section 4.2)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        set_stride_one(self.get_submodule('layer4'))
        self.feature_info[-1]['reduction'] = self.feature_info[-2]['reduction']


class CamCifarResNet(ClassActivationMapping, CifarResNet):
    """ResNet for 32x32 images whose last stage has stride 1."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        set_stride_one(self.get_submodule('layer3'))
        self.feature_info[-1]['reduction'] = self.feature_info[-2]['reduction']


class CamVGG(ClassActivationMapping, VGG):
    """VGG whose last pooling and fully connected layers gave way to a 3x3 convolution (Zhou et al., section 3).

    ``cfg`` is that of timm's ``VGG``, which ends with a pooling.
    """

    def __init__(self, cfg: list[int | str], drop_rate: float = 0.0, **kwargs: Any) -> None:
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


_PAPER = dict(paper_name='Learning Deep Features for Discriminative Localization', paper_ids='arXiv:1512.04150')


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
    return build_model(CamResNet, 'cam_resnet50', pretrained, **dict(model_args, **kwargs))


@register_model
def cam_resnet152(pretrained: bool = False, **kwargs: Any) -> CamResNet:
    """CAM over ResNet-152."""
    model_args = dict(block=Bottleneck, layers=(3, 8, 36, 3))
    return build_model(CamResNet, 'cam_resnet152', pretrained, **dict(model_args, **kwargs))


@register_model
def cam_resnet110_cifar(pretrained: bool = False, **kwargs: Any) -> CamCifarResNet:
    """CAM over ResNet-110 for 32x32 images, of bottleneck blocks."""
    model_args = dict(block=Bottleneck, num_blocks=18)
    return build_cifar(CamCifarResNet, 'cam_resnet110_cifar', pretrained, **dict(model_args, **kwargs))
