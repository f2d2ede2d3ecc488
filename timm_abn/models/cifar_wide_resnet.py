"""Wide ResNets for 32x32 images, as timm models."""

from typing import Any

import torch
import torch.nn as nn
from timm.layers import BatchNormAct2d
from timm.models import generate_default_cfgs, register_model

from ..hub.published import with_hub_ids
from .cifar_backbones import CifarBackbone, build_cifar, cifar_cfg

__all__ = ['CifarWideResNet']


class WideBlock(nn.Module):
    """Pre-activation basic block with dropout between its convolutions."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        proj_drop_rate: float = 0.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict = {'device': device, 'dtype': dtype}
        self.norm1 = BatchNormAct2d(in_channels, **dd)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False, **dd)
        self.norm2 = BatchNormAct2d(channels, **dd)
        self.drop = nn.Dropout(proj_drop_rate)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False, **dd)
        self.downsample = None
        if in_channels != channels:
            self.downsample = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of shape (B, channels, H / stride, W / stride), without an activation on them."""
        activated = self.norm1(x)
        shortcut = x if self.downsample is None else self.downsample(activated)
        return self.conv2(self.drop(self.norm2(self.conv1(activated)))) + shortcut


class CifarWideResNet(CifarBackbone):
    """Wide ResNet for 32x32 images: a 3x3 stem of 16 channels, three stages of 16, 32 and 64 times ``width`` channels.

    Zagoruyko and Komodakis, "Wide Residual Networks". Stages hand over raw sums; the final norm activates the last. The
    depth is 6 * ``num_blocks`` + 4; ``proj_drop_rate``, of the dropout within blocks, is 0.3 in the paper of ABN.
    """

    def __init__(
        self,
        num_blocks: int = 4,
        width: int = 4,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_classes, in_chans, drop_rate)
        dd: dict = {'device': device, 'dtype': dtype}
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False, **dd)
        widths = [16 * width, 32 * width, 64 * width]
        stages: list[nn.Module] = []
        for in_channels, channels, stride in zip((16, *widths[:-1]), widths, (1, 2, 2), strict=True):
            stages.append(
                nn.Sequential(
                    WideBlock(in_channels, channels, stride, proj_drop_rate, **dd),
                    *(WideBlock(channels, channels, 1, proj_drop_rate, **dd) for _ in range(num_blocks - 1)),
                )
            )
        self.add_stages(stages, widths, BatchNormAct2d(widths[-1], **dd), global_pool, **dd)

    def forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the first stage gets, at the resolution of the images."""
        return self.conv1(x)


default_cfgs = generate_default_cfgs(
    with_hub_ids(
        {
            name: cifar_cfg(paper_name='Wide Residual Networks', paper_ids='arXiv:1605.07146')
            for name in ('wrn28_4_cifar', 'wrn28_10_cifar')
        }
    )
)


@register_model
def wrn28_4_cifar(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """Wide ResNet-28-4 for 32x32 images."""
    return build_cifar(CifarWideResNet, 'wrn28_4_cifar', pretrained, **dict(dict(num_blocks=4, width=4), **kwargs))


@register_model
def wrn28_10_cifar(pretrained: bool = False, **kwargs: Any) -> CifarWideResNet:
    """Wide ResNet-28-10 for 32x32 images."""
    return build_cifar(CifarWideResNet, 'wrn28_10_cifar', pretrained, **dict(dict(num_blocks=4, width=10), **kwargs))
