"""The paper's backbones for 32x32 images, as timm models."""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import create_classifier, get_device_dtype
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, downsample_conv

from ..errors import TimmAbnError
from ..hub.building import ModelT, build_model
from ..hub.published import with_hub_ids
from ..networks.attention_stage import init_convolutions
from ..networks.scripting import ignored_by_torchscript
from ..timm_private import feature_take_indices

__all__ = ['CifarBackbone', 'CifarResNet']

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)


class CifarBackbone(nn.Module):
    """A stem, three stages, a final norm, a classifier: what timm expects of a backbone, for those of 32x32 images.

    A subclass builds its stem in the constructor and names it in ``forward_stem``, then calls ``add_stages``.
    """

    def __init__(self, num_classes: int, in_chans: int, drop_rate: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

    def add_stages(
        self,
        stages: list[nn.Module],
        channels: list[int],
        norm: nn.Module,
        global_pool: str,
        **dd: Any,
    ) -> None:
        """Add everything that comes after the stem, and draw the weights.

        Of the three stages the second and the third halve the resolution; the norm stands before the pooling.
        """
        self.layer1, self.layer2, self.layer3 = stages
        self.norm = norm
        self.feature_info = [
            dict(num_chs=num_chs, reduction=2**index, module=f'layer{index + 1}')
            for index, num_chs in enumerate(channels)
        ]
        self.num_features = channels[-1]
        self.global_pool, self.fc = create_classifier(self.num_features, self.num_classes, pool_type=global_pool, **dd)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.init_weights()

    @ignored_by_torchscript
    def init_weights(self) -> None:
        """Draw new weights, as the authors' code does: no zero-initialised batch norms."""
        init_convolutions(self)

    def forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the first stage gets, at the resolution of the images."""
        raise NotImplementedError

    @ignored_by_torchscript
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return regular expressions that group parameters by depth."""
        return dict(stem=r'^conv1|bn1', blocks=r'^layer(\d+)' if coarse else r'^layer(\d+)\.(\d+)')

    @ignored_by_torchscript
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory."""
        self.grad_checkpointing = enable

    @ignored_by_torchscript
    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, by none if ``num_classes`` is 0."""
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=pool_type, **get_device_dtype(self)
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    @ignored_by_torchscript
    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the features of stages, as timm's models do; the final norm is that of the last stage."""
        if output_fmt != 'NCHW':
            raise TimmAbnError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        take_indices, max_index = feature_take_indices(len(self.feature_info), indices)
        last_index = len(self.feature_info) - 1
        intermediates = []
        x = self.forward_stem(x)
        for index, stage in enumerate((self.layer1, self.layer2, self.layer3)):
            if stop_early and index > max_index:
                break
            x = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
            if index in take_indices:
                intermediates.append(self.norm(x) if norm and index == last_index else x)
        if intermediates_only:
            return intermediates
        return x if stop_early and max_index < last_index else self.norm(x), intermediates

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove stages that are not needed for the features asked for."""
        take_indices, max_index = feature_take_indices(len(self.feature_info), indices)
        for index in range(max_index + 1, len(self.feature_info)):
            setattr(self, f'layer{index + 1}', nn.Sequential())
        pruned = max_index + 1 < len(self.feature_info)
        if prune_norm or pruned:
            self.norm = nn.Identity()
        if pruned:
            self.num_features = self.head_hidden_size = self.feature_info[max_index]['num_chs']
        if prune_head or pruned:
            self.reset_classifier(0, '')
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return unpooled features, shape (B, C, H / 4, W / 4)."""
        x = self.forward_stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq([self.layer1, self.layer2, self.layer3], x, flatten=True)
        else:
            x = self.layer3(self.layer2(self.layer1(x)))
        return self.norm(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return logits (B, K)."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K)."""
        return self.forward_head(self.forward_features(x))


class CifarResNet(CifarBackbone):
    """ResNet and ResNeXt for 32x32 images: a 3x3 stem and three stages of as many residual blocks each.

    He et al., "Deep Residual Learning for Image Recognition", section 4.2; Xie et al., "Aggregated Residual
    Transformations for Deep Neural Networks", section 5.3. The stem has as many channels as the first stage has planes,
    which are its channels before the block's expansion; ``base_width`` is that of one group, where there are 64 planes.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        num_blocks: int,
        planes: tuple[int, int, int] = (16, 32, 64),
        cardinality: int = 1,
        base_width: int = 64,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_classes, in_chans, drop_rate)
        dd: dict = {'device': device, 'dtype': dtype}
        self.conv1 = nn.Conv2d(in_chans, planes[0], 3, padding=1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(planes[0], **dd)
        self.act1 = nn.ReLU(inplace=True)
        channels = [width * block.expansion for width in planes]
        stages: list[nn.Module] = []
        for in_channels, width, stride in zip((planes[0], *channels[:-1]), planes, (1, 2, 2), strict=True):
            shortcut = None
            if stride != 1 or in_channels != width * block.expansion:
                shortcut = downsample_conv(in_channels, width * block.expansion, kernel_size=1, stride=stride, **dd)
            grouping: dict = {'cardinality': cardinality, 'base_width': base_width, **dd}
            stages.append(
                nn.Sequential(
                    block(in_channels, width, stride=stride, downsample=shortcut, **grouping),
                    *(block(width * block.expansion, width, **grouping) for _ in range(num_blocks - 1)),
                )
            )
        self.add_stages(stages, channels, nn.Identity(), global_pool, **dd)

    def forward_stem(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the first stage gets, at the resolution of the images."""
        return self.act1(self.bn1(self.conv1(x)))


def cifar_cfg(**kwargs: Any) -> dict[str, Any]:
    """Return the pretrained_cfg of a backbone for 32x32 images, without weights."""
    return {
        'num_classes': 100,
        'input_size': (3, 32, 32),
        'pool_size': (8, 8),
        'crop_pct': 1.0,
        'interpolation': 'bicubic',
        'mean': CIFAR_MEAN,
        'std': CIFAR_STD,
        'first_conv': 'conv1',
        'classifier': 'fc',
        'license': 'apache-2.0',
        'paper_name': 'Deep Residual Learning for Image Recognition',
        'paper_ids': 'arXiv:1512.03385',
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    with_hub_ids(
        {
            **{f'resnet{depth}_cifar': cifar_cfg() for depth in (20, 32, 44, 56, 110)},
            'resnext29_8x64d_cifar': cifar_cfg(
                paper_name='Aggregated Residual Transformations for Deep Neural Networks', paper_ids='arXiv:1611.05431'
            ),
        }
    )
)


def build_cifar(model_cls: type[ModelT], variant: str, pretrained: bool, **kwargs: Any) -> ModelT:
    """Build a backbone for 32x32 images, of three stages."""
    return build_model(
        model_cls, variant, pretrained, feature_cfg=dict(out_indices=(0, 1, 2), feature_cls='getter'), **kwargs
    )


def _resnet_args(depth: int) -> dict[str, Any]:
    # the authors' code counts six layers a block, of bottlenecks too: "110" has 18 of them a stage
    return dict(block=Bottleneck if depth >= 44 else BasicBlock, num_blocks=(depth - 2) // 6)


@register_model
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20 for 32x32 images."""
    return build_cifar(CifarResNet, 'resnet20_cifar', pretrained, **dict(_resnet_args(20), **kwargs))


@register_model
def resnet32_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32 for 32x32 images."""
    return build_cifar(CifarResNet, 'resnet32_cifar', pretrained, **dict(_resnet_args(32), **kwargs))


@register_model
def resnet44_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-44 for 32x32 images, of bottleneck blocks."""
    return build_cifar(CifarResNet, 'resnet44_cifar', pretrained, **dict(_resnet_args(44), **kwargs))


@register_model
def resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56 for 32x32 images, of bottleneck blocks."""
    return build_cifar(CifarResNet, 'resnet56_cifar', pretrained, **dict(_resnet_args(56), **kwargs))


@register_model
def resnet110_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-110 for 32x32 images, of bottleneck blocks."""
    return build_cifar(CifarResNet, 'resnet110_cifar', pretrained, **dict(_resnet_args(110), **kwargs))


@register_model
def resnext29_8x64d_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNeXt-29 8x64d for 32x32 images."""
    model_args = dict(block=Bottleneck, num_blocks=3, planes=(64, 128, 256), cardinality=8, base_width=64)
    return build_cifar(CifarResNet, 'resnext29_8x64d_cifar', pretrained, **dict(model_args, **kwargs))
