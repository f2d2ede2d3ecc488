"""The paper's backbones for 32x32 images, as timm models."""
from typing import Any, Dict, List, Optional, Tuple, Type, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import create_classifier, get_device_dtype
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock, Bottleneck, downsample_conv

from .attention_stage import init_convolutions

__all__ = ['CifarResNet']

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)


class CifarResNet(nn.Module):
    """ResNet for 32x32 images: a 3x3 stem of 16 channels and three stages of 16, 32 and 64 (times expansion) channels.

    He et al., "Deep Residual Learning for Image Recognition", section 4.2. As in the authors' code of ABN, depths of
    44 and more use bottleneck blocks, so that "110" has 18 of them a stage; the others use basic blocks.
    """

    def __init__(
            self,
            depth: int = 20,
            num_classes: int = 100,
            in_chans: int = 3,
            global_pool: str = 'avg',
            drop_rate: float = 0.,
            device: Optional[torch.device] = None,
            dtype: Optional[torch.dtype] = None,
    ) -> None:
        """
        Args:
            depth: Number of layers: 6n + 2, 44 or more bottlenecks included.
            num_classes: Number of classes.
            in_chans: Channels of the images.
            global_pool: Type of pooling.
            drop_rate: Dropout before the classifier.
            device: Where to create parameters.
            dtype: Type of the parameters.

        Raises:
            ValueError: The depth is not one of 6n + 2.
        """
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f'depth must be 6n + 2 (20, 32, 44, 56, 110, ...), got {depth}.')
        dd: dict = {'device': device, 'dtype': dtype}
        block = Bottleneck if depth >= 44 else BasicBlock
        num_blocks = (depth - 2) // 6
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False

        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(16, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.feature_info: List[Dict[str, Any]] = []
        channels, stages = 16, []
        for index, planes in enumerate((16, 32, 64)):
            stages.append(_residual_stage(block, channels, planes, num_blocks, 1 if index == 0 else 2, **dd))
            channels = planes * block.expansion
            self.feature_info.append(dict(num_chs=channels, reduction=2 ** index, module=f'layer{index + 1}'))
        self.layer1, self.layer2, self.layer3 = stages

        self.num_features = channels
        self.global_pool, self.fc = create_classifier(channels, num_classes, pool_type=global_pool, **dd)
        self.head_hidden_size = channels * self.global_pool.feat_mult()
        self.init_weights()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """Draw new weights, as the authors' code does: no zero-initialised batch norms."""
        init_convolutions(self)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        """Return regular expressions that group parameters by depth.

        Args:
            coarse: Group by stage instead of by block.
        """
        return dict(stem=r'^conv1|bn1', blocks=r'^layer(\d+)' if coarse else r'^layer(\d+)\.(\d+)')

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory.

        Args:
            enable: Whether to.
        """
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace the classifier.

        Args:
            num_classes: Number of classes, 0 for none.
            global_pool: Type of pooling, the current one if None.
        """
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=pool_type, **get_device_dtype(self))
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    @torch.jit.ignore
    def forward_intermediates(
            self,
            x: torch.Tensor,
            indices: Optional[Union[int, List[int]]] = None,
            norm: bool = False,
            stop_early: bool = False,
            output_fmt: str = 'NCHW',
            intermediates_only: bool = False,
    ) -> Union[List[torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]]]:
        """Return the features of stages.

        Args:
            x: Images, shape (B, in_chans, H, W).
            indices: The last n stages if int, all if None, else the stages with these indices.
            norm: Has no effect: stages end with an activation.
            stop_early: Do not run what comes after the last of the stages asked for.
            output_fmt: Only 'NCHW'.
            intermediates_only: Leave out the final features.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        take_indices, max_index = feature_take_indices(len(self.feature_info), indices)
        intermediates = []
        x = self.act1(self.bn1(self.conv1(x)))
        for index, stage in enumerate((self.layer1, self.layer2, self.layer3)):
            if stop_early and index > max_index:
                break
            x = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
            if index in take_indices:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
            self,
            indices: Union[int, List[int]] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> List[int]:
        """Remove stages that are not needed for the features asked for.

        Args:
            indices: Stages to keep.
            prune_norm: Has no effect.
            prune_head: Remove the classifier too.
        """
        take_indices, max_index = feature_take_indices(len(self.feature_info), indices)
        for index in range(max_index + 1, len(self.feature_info)):
            setattr(self, f'layer{index + 1}', nn.Sequential())
        pruned = max_index + 1 < len(self.feature_info)
        if pruned:
            self.num_features = self.head_hidden_size = self.feature_info[max_index]['num_chs']
        if prune_head or pruned:
            self.reset_classifier(0, '')
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return unpooled features, shape (B, C, H / 4, W / 4).

        Args:
            x: Images, shape (B, in_chans, H, W).
        """
        x = self.act1(self.bn1(self.conv1(x)))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq([self.layer1, self.layer2, self.layer3], x, flatten=True)
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return logits (B, K).

        Args:
            x: Features as returned by ``forward_features``.
            pre_logits: Return pooled features instead.
        """
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K).

        Args:
            x: Images, shape (B, in_chans, H, W).
        """
        return self.forward_head(self.forward_features(x))


def _residual_stage(
        block: Union[Type[BasicBlock], Type[Bottleneck]],
        in_channels: int,
        planes: int,
        num_blocks: int,
        stride: int,
        **dd: Any,
) -> nn.Sequential:
    channels = planes * block.expansion
    shortcut = None
    if stride != 1 or in_channels != channels:
        shortcut = downsample_conv(in_channels, channels, kernel_size=1, stride=stride, **dd)
    blocks = [block(in_channels, planes, stride=stride, downsample=shortcut, **dd)]
    blocks += [block(channels, planes, **dd) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)


def _cfg(**kwargs: Any) -> Dict[str, Any]:
    return {
        'num_classes': 100, 'input_size': (3, 32, 32), 'pool_size': (8, 8), 'crop_pct': 1.0,
        'interpolation': 'bicubic', 'mean': CIFAR_MEAN, 'std': CIFAR_STD, 'first_conv': 'conv1', 'classifier': 'fc',
        'license': 'apache-2.0', 'paper_name': 'Deep Residual Learning for Image Recognition',
        'paper_ids': 'arXiv:1512.03385', **kwargs,
    }


default_cfgs = generate_default_cfgs({f'resnet{depth}_cifar': _cfg() for depth in (20, 32, 44, 56, 110)})


def _create_cifar_resnet(variant: str, pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(
        CifarResNet, variant, pretrained, feature_cfg=dict(out_indices=(0, 1, 2), feature_cls='getter'), **kwargs)


@register_model
def resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20 for 32x32 images."""
    return _create_cifar_resnet('resnet20_cifar', pretrained, depth=20, **kwargs)


@register_model
def resnet32_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32 for 32x32 images."""
    return _create_cifar_resnet('resnet32_cifar', pretrained, depth=32, **kwargs)


@register_model
def resnet44_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-44 for 32x32 images, of bottleneck blocks."""
    return _create_cifar_resnet('resnet44_cifar', pretrained, depth=44, **kwargs)


@register_model
def resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56 for 32x32 images, of bottleneck blocks."""
    return _create_cifar_resnet('resnet56_cifar', pretrained, depth=56, **kwargs)


@register_model
def resnet110_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-110 for 32x32 images, of bottleneck blocks."""
    return _create_cifar_resnet('resnet110_cifar', pretrained, depth=110, **kwargs)
