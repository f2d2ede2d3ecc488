"""Families of tokens in stages: Hiera, its SAM 2 form, LeViT, MViTv2, PiT, Twins."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from timm.models import checkpoint, checkpoint_seq
from timm.models.hiera import Hiera, Unroll
from timm.models.hieradet_sam2 import HieraDet
from timm.models.levit import Levit, LevitDistilled
from timm.models.mvitv2 import MultiScaleVit
from timm.models.pit import PoolingVisionTransformer
from timm.models.twins import Twins

from ..adapter import Adapter, BackboneHalf
from ..features import Crossing, Features, as_features
from ..pass_through import is_passed

__all__ = ['ADAPTERS']


class HieraExtractor(BackboneHalf, Hiera):
    """Tokens are unrolled, so that those of a mask unit lie next to each other; maps are rolled up again."""

    def forward_features(self, x: torch.Tensor, mask: None = None, return_intermediates: bool = False) -> torch.Tensor:
        """Return features, shape (B, h, w, C)."""
        return self.reroll(super().forward_features(x), num_passed(self.blocks, False) - 1)


class HieraPerception(BackboneHalf, Hiera):
    """Position embeddings are added before the tokens are unrolled."""

    def forward_features(self, x: torch.Tensor, mask: None = None, return_intermediates: bool = False) -> torch.Tensor:
        """Return unrolled tokens, shape (B, N, C), from features (B, h, w, C)."""
        x = self.unroll(x.flatten(1, 2))
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x)
            else:
                x = block(x)
        return x


class HieraAdapter(Adapter):
    """``Hiera``: how tokens are unrolled depends on the block."""

    def arranged(self, half: Any, path: str, output: Any) -> Any:
        return half.reroll(output, int(path.rpartition('.')[2]))

    def prepare_perception(self, perception_branch: Any) -> None:
        schedule, size = perception_branch.reroll.schedule[num_passed(perception_branch.blocks) - 1]
        perception_branch.unroll = Unroll(size, (1,) * len(size), schedule)


class HieraDetPerception(BackboneHalf, HieraDet):
    """Position embeddings are added between embedding and blocks."""

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        return x


class _NoFlattening:
    """Maps become tokens between stem and stages."""

    if TYPE_CHECKING:  # TorchScript would try to compile these types
        stages: Any
        grad_checkpointing: bool

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return tokens, shape (B, N, C)."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.stages, x)
        return self.stages(x)


class LevitPerception(_NoFlattening, BackboneHalf, Levit):
    """See ``_NoFlattening``."""


class LevitDistilledPerception(_NoFlattening, BackboneHalf, LevitDistilled):
    """See ``_NoFlattening``."""


class MultiScaleVitHalf(BackboneHalf, MultiScaleVit):
    """Stages are called with the size of the grid, which the features tell if they are maps."""

    def forward_features(self, x: Crossing) -> Crossing:
        """Return features, shape (B, h, w, C), and the class token if there is one; or tokens (B, P + N, C)."""
        is_first = not is_passed(self.patch_embed)
        if is_first:
            tokens, size = self.patch_embed(x)
            prefix = [] if self.cls_token is None else [self.cls_token.expand(tokens.shape[0], -1, -1)]
        else:
            maps, prefix = as_features(x)
            tokens, size = maps.flatten(1, 2), list(maps.shape[1:3])
        tokens = torch.cat([*prefix, tokens], dim=1) if prefix else tokens
        if self.pos_embed is not None:  # of the first half
            tokens = tokens + self.pos_embed
        for stage in self.stages:
            tokens, size = stage(tokens, size)
        if not is_first:
            return self.norm(tokens)
        maps = tokens[:, self.num_prefix_tokens :].reshape(tokens.shape[0], *size, -1)
        return Features(maps, [tokens[:, : self.num_prefix_tokens]]) if self.num_prefix_tokens else maps


class MultiScaleVitAdapter(Adapter):
    """``MultiScaleVit``: ``feature_info`` names stages by another name than its modules have."""

    def stage(self, backbone: nn.Module, name: str) -> str:
        return name.replace('block.', 'stages.')


class PoolingVisionTransformerHalf(BackboneHalf, PoolingVisionTransformer):
    """Stages hand on maps, and class tokens beside them, which alone reach the head."""

    def forward_features(self, x: Crossing) -> Crossing:
        """Return features, shape (B, C, h, w), and class tokens (B, P, C); or the class tokens alone, normalised."""
        if isinstance(x, Features):
            return self.norm(self.transformers((x.x, *x.side_inputs))[1])
        maps = self.pos_drop(self.patch_embed(x) + self.pos_embed)
        maps, tokens = self.transformers((maps, self.cls_token.expand(len(maps), -1, -1)))
        return Features(maps, [tokens])


class TwinsHalf(BackboneHalf, Twins):
    """Stages are lists of blocks called with the size of the grid, and maps between them."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return features, shape (B, h, w, C), from images; or tokens (B, N, C) from features."""
        is_first, size = not is_passed(self.patch_embeds[0]), tuple(x.shape[1:3])
        x = x if is_first else x.flatten(1, 2)
        stages: Any = zip(self.patch_embeds, self.pos_drops, self.blocks, self.pos_block)
        for embed, drop, blocks, position in stages:
            if not is_passed(embed):
                x, size = embed(x if x.ndim == 4 else x.reshape(x.shape[0], *size, -1).permute(0, 3, 1, 2).contiguous())
                x = drop(x)
            for index, block in enumerate(blocks):
                x = checkpoint(block, x, size) if self.grad_checkpointing else block(x, size)
                x = position(x, size) if index == 0 else x
        return x.reshape(x.shape[0], *size, -1) if is_first else self.norm(x)


class TwinsAdapter(Adapter):
    """``Twins``: ``feature_info`` names stages, which are lists of blocks."""

    def stage(self, backbone: Any, name: str) -> str:
        index = int(name.split('.')[1])
        return f'blocks.{index}.{len(backbone.blocks[index]) - 1}'


def num_passed(modules: Any, passed: bool = True) -> int:
    """Return how many modules are of the other half, or of this one."""
    return sum(is_passed(module) is passed for module in modules)


ADAPTERS: dict[type[nn.Module], Adapter] = {
    Hiera: HieraAdapter(HieraExtractor, HieraPerception),
    HieraDet: Adapter(None, HieraDetPerception),
    Levit: Adapter(None, LevitPerception),
    LevitDistilled: Adapter(None, LevitDistilledPerception),
    MultiScaleVit: MultiScaleVitAdapter(MultiScaleVitHalf, MultiScaleVitHalf),
    PoolingVisionTransformer: Adapter(PoolingVisionTransformerHalf, PoolingVisionTransformerHalf),
    Twins: TwinsAdapter(TwinsHalf, TwinsHalf),
}
