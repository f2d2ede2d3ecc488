"""Families of several streams, of which one has an attention map and the others pass beside it."""

from typing import Any

import torch
import torch.nn as nn
from timm.models import checkpoint
from timm.models.coat import CoaT, insert_cls, remove_cls
from timm.models.crossvit import CrossVit
from timm.models.efficientvim import EfficientViM, EfficientViMDistilled
from timm.models.hrnet import HighResolutionNet
from timm.models.tnt import TNT

from ..adapter import Adapter, BackboneHalf
from ..features import Crossing, Features, as_features
from ..pass_through import PassThrough, is_passed

__all__ = ['ADAPTERS']


class CoaTHalf(BackboneHalf, CoaT):
    """Stages run one after the other, each with a class token of its own; then, in some, all of them side by side."""

    def run_stages(self, streams: list[torch.Tensor], size: tuple[int, int]) -> list[torch.Tensor]:
        """Return the tokens of all stages up to the last one of this half, with their class tokens.

        ``streams`` are images, or tokens of the stages before the cut, the last of them of a grid of this size.
        """
        *others, x = streams
        for stage in range(1, 5):
            embed, blocks = getattr(self, f'patch_embed{stage}'), getattr(self, f'serial_blocks{stage}')
            if not is_passed(embed):
                if x.ndim == 3:
                    others.append(x)
                    x = remove_cls(x).reshape(x.shape[0], *size, -1).permute(0, 3, 1, 2).contiguous()
                x = insert_cls(embed(x), getattr(self, f'cls_token{stage}'))
                size = embed.grid_size
            for block in blocks:
                x = block(x, size=size)
        return [*others, x]


class CoaTExtractor(CoaTHalf):
    """See ``CoaTHalf``."""

    def forward_features(self, x: torch.Tensor) -> Features:
        """Return features, shape (B, h, w, C), their class token, and the tokens of the stages before."""
        *others, x = self.run_stages([x], (0, 0))
        embeds = [getattr(self, f'patch_embed{stage}') for stage in range(1, 5)]
        size = [embed for embed in embeds if not is_passed(embed)][-1].grid_size
        others = [] if self.parallel_blocks is None else others  # nobody reads them again
        return Features(x[:, 1:].reshape(x.shape[0], *size, -1), [x[:, :1], *others])


class CoaTPerception(CoaTHalf):
    """See ``CoaTHalf``."""

    def forward_features(self, x: Features) -> Any:
        """Return tokens of the last stage, shape (B, 1 + N, C), or a list of those of the last three."""
        maps, (class_token, *others) = x
        sizes = [(maps.shape[1] << step, maps.shape[2] << step) for step in range(len(others), -1, -1)]
        tokens = torch.cat((class_token, maps.flatten(1, 2)), dim=1)
        streams = self.run_stages([*others, tokens], sizes[-1])
        if self.parallel_blocks is None:
            return self.norm4(streams[-1])
        embeds = [getattr(self, f'patch_embed{stage}') for stage in range(len(sizes) + 1, 5)]
        sizes += [embed.grid_size for embed in embeds]
        x1, x2, x3, x4 = streams
        for block in self.parallel_blocks:
            x2, x3, x4 = self.cpe2(x2, sizes[1]), self.cpe3(x3, sizes[2]), self.cpe4(x4, sizes[3])
            x1, x2, x3, x4 = block(x1, x2, x3, x4, sizes=sizes)
        return [self.norm2(x2), self.norm3(x3), self.norm4(x4)]


class CoaTAdapter(Adapter):
    """``CoaT``: ``feature_info`` names stages, which are lists of blocks, and parallel blocks, which return them all.

    Stages side by side use modules of the second stage and later ones again, so that the first is all that can be cut.
    """

    def default_split(self, backbone: Any) -> str:
        name = 'serial_blocks3' if backbone.parallel_blocks is None else 'serial_blocks1'
        return self.stage(backbone, name)

    def stage(self, backbone: Any, name: str) -> str:
        return name if '.' in name else f'{name}.{len(getattr(backbone, name)) - 1}'


class CrossVitExtractor(BackboneHalf, CrossVit):
    """Two branches of tokens; the map is for the one of large patches, which the paper calls the primary."""

    def forward_features(self, x: torch.Tensor) -> Features:
        """Return tokens, shape (B, 1 + N, C), and those of the branch of small patches."""
        small, large = super().forward_features(x)
        return Features(large, [small])


class CrossVitPerception(BackboneHalf, CrossVit):
    """See ``CrossVitExtractor``."""

    def _embed(self, x: Features) -> list[torch.Tensor]:
        large, (small,) = x
        return [small, large]


class CrossVitAdapter(Adapter):
    """``CrossVit``: ``feature_info`` names branches within blocks."""

    def default_split(self, backbone: Any) -> str:
        return f'blocks.{len(backbone.blocks) - 2}'

    def num_prefix_tokens(self, perception_branch: nn.Module) -> int:
        return 1


class _Stages:
    """A stage returns its output, what the next stage reads, and a state that reaches the head beside the stages.

    The norm of the state of the last stage before the cut belongs to the second half.
    """

    patch_embed: Any
    stages: Any
    norm: Any

    def forward_features(self, x: Crossing) -> Any:
        """Return features, shape (B, C, h, w), and the states so far; or all states, and the last stage's output."""
        features, states = as_features(x)
        features, states = self.patch_embed(features), list(states)
        for stage in self.stages:
            if not is_passed(stage):
                _, features, state = stage(features)
                states.append(state)
        states = [norm(state.transpose(1, 2)).transpose(1, 2) for state, norm in zip(states, self.norm)]
        if is_passed(self.patch_embed):
            return [*states, self.norm[-1](features).flatten(2)]
        return Features(features, states)


class EfficientViMHalf(_Stages, BackboneHalf, EfficientViM):
    """See ``_Stages``."""


class EfficientViMDistilledHalf(_Stages, BackboneHalf, EfficientViMDistilled):
    """See ``_Stages``."""


class HighResolutionNetHalf(BackboneHalf, HighResolutionNet):
    """Streams of several resolutions; the map is for the lowest, which has the most channels."""

    def stages(self, x: Crossing) -> list[torch.Tensor]:
        """Return the streams, from high to low resolution, of the last stage of this half."""
        last, others = as_features(x)
        streams = [*others, last]
        if not is_passed(self.layer1):
            streams = [self.layer1(streams[0])]
        for transitions, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            if not is_passed(stage):
                streams = stage(
                    [
                        streams[index] if isinstance(transition, nn.Identity) else transition(streams[-1])
                        for index, transition in enumerate(transitions)
                    ]
                )
        return streams


class HighResolutionNetExtractor(HighResolutionNetHalf):
    """See ``HighResolutionNetHalf``."""

    def forward_features(self, x: torch.Tensor) -> Features:
        """Return features, shape (B, C, h, w), and those of the other streams."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        *others, last = self.stages(x)
        return Features(last, others)


class HighResolutionNetAdapter(Adapter):
    """``HighResolutionNet``: stages return a list of streams."""

    def stage(self, backbone: nn.Module, name: str) -> str:
        return 'act1' if name == 'stem' else name

    def prepare_perception(self, perception_branch: Any) -> None:
        if is_passed(perception_branch.layer1):
            perception_branch.layer1 = PassThrough()  # an identity stands for layers that were removed


class TNTHalf(BackboneHalf, TNT):
    """Blocks hand on tokens of pixels and of patches; the map is for patches."""

    def forward_features(self, x: Crossing) -> Crossing:
        """Return tokens of patches, shape (B, 1 + N, C), and those of their pixels; or those of patches, normalised."""
        if isinstance(x, Features):
            patches, (pixels,) = x
        else:
            pixels = self.pixel_embed(x, self.pixel_pos)
            patches = self.proj(self.norm1_proj(pixels.reshape(x.shape[0], self.num_patches, -1)))
            patches = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), self.norm2_proj(patches)), dim=1)
            patches = self.pos_drop(patches + self.patch_pos)
        for block in self.blocks:
            pixels, patches = checkpoint(block, pixels, patches) if self.grad_checkpointing else block(pixels, patches)
        return self.norm(patches) if isinstance(x, Features) else Features(patches, [pixels])


ADAPTERS: dict[type[nn.Module], Adapter] = {
    CoaT: CoaTAdapter(CoaTExtractor, CoaTPerception),
    CrossVit: CrossVitAdapter(CrossVitExtractor, CrossVitPerception, result=1),
    EfficientViM: Adapter(EfficientViMHalf, EfficientViMHalf, result=1),
    EfficientViMDistilled: Adapter(EfficientViMDistilledHalf, EfficientViMDistilledHalf, result=1),
    HighResolutionNet: HighResolutionNetAdapter(
        HighResolutionNetExtractor, HighResolutionNetHalf, result=-1, split='stage3'
    ),
    TNT: Adapter(TNTHalf, TNTHalf, result=1),
}
