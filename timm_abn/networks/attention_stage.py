"""The first part of an attention branch: the stage after the cut, once more, at full resolution.

The paper (section 3.1) copies the stage that follows the cut and sets its strides to 1, so that the attention map keeps
the resolution of the features. Where nothing can be copied (patch merging, token models), two residual blocks of the
same width are built, or what the family's adapter says. Which of them it was is written on the stage: ``stage.source``.

A map finer than the features begins here, too: they are upsampled first, and the stage runs on the finer grid.
"""

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn as nn
from timm.layers import BlurPool2d
from timm.models.resnet import Bottleneck, downsample_conv

from ..split import find_adapter

__all__ = [
    'AttentionStage',
    'build_attention_stage',
    'init_convolutions',
    'set_stride_one',
]


class AttentionStage(nn.Sequential):
    """A chain of modules that keeps the resolution of its input, or first makes it finer.

    Attributes:
        source: What the stage was built from, in words.
        num_features: Channels of the output.
        map_scale: How many times as high and wide as the input the output is.
        origins: Path in the backbone of what each module was copied from; empty where nothing was.
    """

    def __init__(
        self,
        modules: 'OrderedDict[str, nn.Module]',
        source: str,
        num_features: int,
        map_scale: int = 1,
        origins: dict[str, str] | None = None,
    ) -> None:
        upsample = nn.Upsample(scale_factor=float(map_scale), mode='bilinear', align_corners=False)
        super().__init__(OrderedDict(upsample=upsample, **modules) if map_scale > 1 else modules)
        self.source = source
        self.num_features = num_features
        self.map_scale = map_scale
        self.origins = origins or {}

    @contextlib.contextmanager
    def adapting_with(self, backbone: nn.Module) -> Iterator[None]:
        """While this lasts, do to the copied modules what ``backbone.set_input_size`` does to those they are copies of.

        Some know the size of images: the windows of MaxViT's blocks are a share of it.

        Args:
            backbone: The whole backbone.
        """
        pairs = [(backbone.get_submodule(path), self.get_submodule(name)) for name, path in self.origins.items()]
        pairs = [(original, duplicate) for original, duplicate in pairs if hasattr(original, 'set_input_size')]
        for original, duplicate in pairs:
            original.set_input_size = _both(original.set_input_size, duplicate.set_input_size)  # type: ignore
        try:
            yield
        finally:
            for original, _ in pairs:
                del original.set_input_size

    def extra_repr(self) -> str:
        """Return what ``repr`` says in parentheses."""
        return f'source={self.source!r}'


def _both(*functions: Any) -> Callable[..., None]:
    def call(*args: Any, **kwargs: Any) -> None:
        for function in functions:
            function(*args, **kwargs)

    return call


def build_attention_stage(
    backbone: nn.Module,
    next_stage: list[str],
    in_channels: int,
    num_features: int,
    keep_weights: bool,
    map_scale: int = 1,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> AttentionStage:
    """Build the stage of an attention branch.

    Args:
        backbone: The backbone, or a half of it, that holds the modules ``next_stage``.
        next_stage: Paths of the modules that follow the cut, in order.
        in_channels: Channels of the features at the cut.
        num_features: Channels of the residual blocks, where the stage cannot be copied.
        keep_weights: Keep the weights of the copied stage (a pretrained backbone) instead of drawing new ones.
        map_scale: How many times as high and wide as the features its output is.
        device: Where to create parameters.
        dtype: Type of the parameters.
    """
    # the norm of a backbone that ends with one is left out, as in the authors' DenseNet: the branch has its own
    if len(next_stage) > 1 and isinstance(backbone.get_submodule(next_stage[-1]), nn.BatchNorm2d):
        next_stage = next_stage[:-1]
    copied = nn.Sequential(*(copy.deepcopy(backbone.get_submodule(path)) for path in next_stage))
    set_stride_one(copied)
    channels = _probe_channels(copied, in_channels) if any(True for _ in copied.parameters()) else None
    if channels is not None:
        # one sequence stays flat, so that its blocks keep their names
        is_flat = len(copied) == 1 and type(copied[0]) is nn.Sequential
        children = OrderedDict((copied[0] if is_flat else copied).named_children())
        origins = dict(zip(children, [f'{next_stage[0]}.{name}' for name in children] if is_flat else next_stage))
        source = f'copy of {", ".join(next_stage)} at stride 1'
        stage = AttentionStage(children, source, channels, map_scale, origins)
        if not keep_weights:
            init_convolutions(stage, reset_others=True)
        return stage
    own = find_adapter(backbone).attention_stage(backbone, in_channels, device, dtype)
    if own is None:
        blocks = _residual_blocks(in_channels, num_features, device=device, dtype=dtype)
        own = blocks, num_features, f'{len(blocks)} residual blocks of width {num_features}'
    blocks, num_features, source = own
    stage = AttentionStage(blocks, source, num_features, map_scale)
    init_convolutions(stage)
    return stage


def init_convolutions(module: nn.Module, reset_others: bool = False) -> None:
    """Draw convolutions from a normal distribution of standard deviation sqrt(2 / fan_out), as the authors' code does.

    Args:
        module: Its convolutions and batch norms are initialised.
        reset_others: Also redraw the other layers, by their own rule.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode='fan_out', nonlinearity='relu')
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d) or reset_others:
            reset = getattr(layer, 'reset_parameters', None)
            if callable(reset):
                reset()


def set_stride_one(module: nn.Module) -> None:
    """Set the strides of the layers within a stage to 1, so that it keeps the resolution of its input.

    Args:
        module: The stage. Pools in it that do nothing at stride 1 are left out.
    """
    for name, child in module.named_children():
        stride = getattr(child, 'stride', 1)
        strides = tuple(stride) if isinstance(stride, (tuple, list)) else (stride,)
        if all(s == 1 for s in strides):
            set_stride_one(child)
        elif isinstance(child, nn.Conv2d):
            child.stride = (1, 1)
        elif isinstance(child, nn.MaxPool2d) and child.kernel_size in (3, (3, 3)):
            child.stride = 1
        elif isinstance(child, (nn.MaxPool2d, nn.AvgPool2d, BlurPool2d)):
            setattr(module, name, nn.Identity())  # what timm builds for a pooled shortcut of stride 1
        else:
            set_stride_one(child)
            if hasattr(child, 'reparameterize'):  # the one convolution that it makes of several is built with this
                child.stride = 1 if isinstance(stride, int) else (1, 1)  # type: ignore[assignment]


def _probe_channels(stage: nn.Module, in_channels: int) -> int | None:
    """Return the channels of the stage's output, or None if it does not keep the resolution of an NCHW input."""
    size = (12, 10)  # not square, so that transposed layouts are noticed
    x = torch.empty((1, in_channels, *size), device='meta')
    memo: dict[int, torch.Tensor] = {id(t): nn.Parameter(t.detach().to('meta')) for t in stage.parameters()}
    memo.update({id(t): t.to('meta') for t in stage.buffers()})
    try:
        with torch.no_grad():
            x = copy.deepcopy(stage, memo).to(dtype=x.dtype).eval()(x)
    except Exception:
        return None  # a stage of another layout, or one that fixes its resolution
    return x.shape[1] if x.ndim == 4 and tuple(x.shape[2:]) == size else None


def _residual_blocks(
    in_channels: int,
    num_features: int,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> 'OrderedDict[str, nn.Module]':
    planes = max(num_features // Bottleneck.expansion, 1)
    dd: dict = {'device': device, 'dtype': dtype}
    shortcut = downsample_conv(in_channels, planes * Bottleneck.expansion, kernel_size=1, **dd)
    return OrderedDict(
        [
            ('0', Bottleneck(in_channels, planes, downsample=shortcut, **dd)),
            ('1', Bottleneck(planes * Bottleneck.expansion, planes, **dd)),
        ]
    )


def residual_width(width: int) -> int:
    """Return ``width`` rounded up to what residual bottleneck blocks can have."""
    return -(-width // Bottleneck.expansion) * Bottleneck.expansion
