"""DenseNets for 32x32 images, as timm models."""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn as nn
from timm.models import DenseNet, generate_default_cfgs, register_model

from ..hub.published import with_hub_ids
from ..networks.attention_stage import init_convolutions
from .cifar_backbones import build_cifar, cifar_cfg

__all__ = ['CifarDenseNet']


class CifarDenseNet(DenseNet):
    """DenseNet-BC for 32x32 images: timm's, with a bare 3x3 convolution as the stem.

    Huang et al., "Densely Connected Convolutional Networks", section 3.
    """

    def __init__(
        self,
        growth_rate: int = 12,
        block_config: tuple[int, ...] = (16, 16, 16),
        num_classes: int = 100,
        in_chans: int = 3,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        dd: dict = {'device': device, 'dtype': dtype}
        super().__init__(growth_rate, block_config, num_classes, in_chans, **dd, **kwargs)
        stem = nn.Conv2d(in_chans, 2 * growth_rate, 3, padding=1, bias=False, **dd)
        blocks = {name: module for name, module in self.features.named_children() if not name.endswith('0')}
        self.features = nn.Sequential(OrderedDict(conv0=stem, **blocks))
        # without the stem's tap; timm's own stem reduces by 4
        names = [name for name, _ in self.features.named_children()]
        taps: list[dict[str, Any]] = list(self.feature_info[1:])
        self.feature_info = [dict(tap, reduction=tap['reduction'] // 4) for tap in taps]
        self.feature_ends = [names.index(tap['module'].removeprefix('features.')) for tap in taps]
        init_convolutions(self)


default_cfgs = generate_default_cfgs(
    with_hub_ids(
        {
            'densenet100_12_cifar': cifar_cfg(
                first_conv='features.conv0',
                classifier='classifier',
                paper_name='Densely Connected Convolutional Networks',
                paper_ids='arXiv:1608.06993',
            ),
        }
    )
)


@register_model
def densenet100_12_cifar(pretrained: bool = False, **kwargs: Any) -> CifarDenseNet:
    """DenseNet-BC-100 of growth rate 12 for 32x32 images."""
    model_args = dict(growth_rate=12, block_config=(16, 16, 16))
    return build_cifar(CifarDenseNet, 'densenet100_12_cifar', pretrained, **dict(model_args, **kwargs))
