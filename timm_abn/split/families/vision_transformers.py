"""Vision transformers whose tokens carry their position before the first block, or are told it in every block."""

from inspect import signature
from typing import Any

import torch
import torch.nn as nn
from timm.models import (
    Beit,
    Eva,
    MlpMixer,
    VisionTransformer,
    VisionTransformerRelPos,
    VisionTransformerSAM,
    checkpoint,
)

from ..adapter import Adapter, Half
from ..packing import Packed
from ..pass_through import OptionPassThrough, pass_through

__all__ = ['ADAPTERS']


class TokenAdapter(Adapter):
    """Families of ``blocks`` and a ``norm`` whose ``forward_intermediates`` reads the size of the images."""

    def perception_intermediates(
        self,
        perception_branch: nn.Module,
        features: Any,
        indices: list[int],
        norm: bool,
        stop_early: bool,
        intermediates_only: bool,
        **block_arguments: torch.Tensor,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Return tokens, shape (B, N, C), in place of maps."""
        intermediates = []
        for index, block in enumerate(perception_branch.blocks):  # type: ignore[arg-type]
            if stop_early and index > max(indices):
                break
            features = block(features, **block_arguments)
            if index in indices:
                intermediates.append(perception_branch.norm(features) if norm else features)  # type: ignore[operator]
        if intermediates_only:
            return intermediates
        return perception_branch.norm(features), intermediates  # type: ignore[operator]


class VisionTransformerAdapter(TokenAdapter):
    """``VisionTransformer`` and its subclasses: tokens already carry their position and prefix at the cut."""

    def prepare_perception(self, perception_branch: nn.Module) -> None:
        perception_branch._pos_embed = pass_through  # type: ignore[assignment]

    def takes_attention_bias(self, perception_branch: nn.Module) -> bool:
        blocks: Any = perception_branch.blocks
        later = [block for block in blocks if not isinstance(block, OptionPassThrough)]
        return bool(later) and all('attn_mask' in signature(block.forward).parameters for block in later)

    def checkpointed_features(
        self,
        perception_branch: nn.Module,
        features: torch.Tensor,
        attention_bias: torch.Tensor,
    ) -> torch.Tensor:
        half: Any = perception_branch
        features = half.norm_pre(half.patch_drop(features))
        for block in half.blocks:
            features = checkpoint(block, features, attn_mask=attention_bias)
        return half.norm(features)


class VisionTransformerRelPosAdapter(TokenAdapter):
    """``VisionTransformerRelPos``: blocks may share their relative positions, which then pass beside the tokens."""

    def half_classes(self, backbone: Any) -> tuple[type[nn.Module] | None, type[nn.Module] | None]:
        shares = backbone.shared_rel_pos is not None
        return (self.extractor_class, self.perception_class) if shares else (None, None)


class VisionTransformerRelPosExtractor(Half, VisionTransformerRelPos):
    """A bias of attention scores that all blocks share passes beside the tokens."""

    def forward_features(self, x: torch.Tensor) -> Packed:
        """Return tokens, shape (B, P + N, C), and the bias."""
        shared: Any = self.shared_rel_pos
        return super().forward_features(x), shared.get_bias()


class VisionTransformerRelPosPerception(Half, VisionTransformerRelPos):
    """See ``VisionTransformerRelPosExtractor``."""

    def forward_features(self, x: Packed) -> torch.Tensor:
        """Return tokens, shape (B, P + N, C)."""
        tokens, bias = x
        for block in self.blocks:
            tokens = checkpoint(block, tokens, bias) if self.grad_checkpointing else block(tokens, shared_rel_pos=bias)
        return self.norm(tokens)


class EvaHalf(Half, Eva):
    """Rotary position embeddings pass beside the tokens, where they depend on the image's size or are learned."""

    def run_blocks(self, x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
        """Return what the blocks of this half make of tokens."""
        for index, block in enumerate(self.blocks):
            own = rope[index] if self.rope_mixed else rope
            x = checkpoint(block, x, rope=own) if self.grad_checkpointing else block(x, rope=own)
        return x


class EvaExtractor(EvaHalf):
    """See ``EvaHalf``."""

    def forward_features(self, x: torch.Tensor, attn_mask: None = None, is_causal: bool = False) -> Packed:
        """Return tokens, shape (B, P + N, C), and the embeddings."""
        rope: Any
        x, rope = self._pos_embed(self.patch_embed(x))
        return self.run_blocks(self.norm_pre(x), rope), rope


class EvaPerception(EvaHalf):
    """See ``EvaHalf``."""

    def forward_features(self, x: Packed, attn_mask: None = None, is_causal: bool = False) -> torch.Tensor:
        """Return tokens, shape (B, P + N, C)."""
        tokens, rope = x
        return self.norm(self.run_blocks(self.norm_pre(tokens), rope))


class EvaAdapter(Adapter):
    """``Eva``: elsewhere, each half looks its rotary embeddings up in a buffer of its own."""

    notes_stages = True

    def half_classes(self, backbone: Any) -> tuple[type[nn.Module] | None, type[nn.Module] | None]:
        travels = backbone.rope is not None and (backbone.dynamic_img_size or backbone.rope_mixed)
        return (self.extractor_class, self.perception_class) if travels else (None, None)


class BeitPerception(Half, Beit):
    """Class token and position embeddings are added in line."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return tokens, shape (B, 1 + N, C)."""
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x)
            else:
                x = block(x)
        return self.norm(x)


class _ToChannelsLast(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1)


class VisionTransformerSAMAdapter(Adapter):
    """``VisionTransformerSAM``: the features, which are NHWC, leave the extractor through an NCHW neck."""

    def prepare_extractor(self, feature_extractor: nn.Module) -> None:
        feature_extractor.neck = _ToChannelsLast()


ADAPTERS: dict[type[nn.Module], Adapter] = {
    Beit: Adapter(None, BeitPerception),
    Eva: EvaAdapter(EvaExtractor, EvaPerception),
    MlpMixer: TokenAdapter(),
    VisionTransformer: VisionTransformerAdapter(),
    VisionTransformerRelPos: VisionTransformerRelPosAdapter(
        VisionTransformerRelPosExtractor, VisionTransformerRelPosPerception
    ),
    VisionTransformerSAM: VisionTransformerSAMAdapter(),
}
