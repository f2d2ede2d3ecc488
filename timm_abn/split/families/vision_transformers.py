"""Vision transformers whose tokens carry their position before the first block, or are told it in every block."""

from inspect import signature
from typing import TYPE_CHECKING, Any

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
from timm.models.deit import VisionTransformerDistilled

from ..adapter import Adapter, BackboneHalf
from ..features import Crossing, Features, as_features
from ..pass_through import OptionPassThrough, pass_through

__all__ = ['ADAPTERS']


class TokenAdapter(Adapter):
    """Families of ``blocks`` and a ``norm`` whose ``forward_intermediates`` reads the size of the images."""

    def perception_intermediates(
        self, half: Any, features: Features, indices: list[int], norm: bool, stop_early: bool, intermediates_only: bool
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Return tokens, shape (B, N, C), in place of maps."""
        intermediates = []
        tokens, side_inputs = features
        options = dict(attn_mask=side_inputs[0]) if side_inputs else {}
        for index, block in enumerate(half.blocks):
            if stop_early and index > max(indices):
                break
            tokens = block(tokens, **options)
            if index in indices:
                intermediates.append(half.norm(tokens) if norm else tokens)
        return intermediates if intermediates_only else (half.norm(tokens), intermediates)


class _TokenPerception:
    """Later blocks may be told how much of each token to read: a bias of attention scores beside the tokens."""

    if TYPE_CHECKING:  # TorchScript would take these for the types of the modules
        blocks: Any
        norm: Any
        norm_pre: Any
        patch_drop: Any
        grad_checkpointing: bool
        forward_head: Any

    def forward(self, x: Features, attn_mask: None = None, is_causal: bool = False) -> torch.Tensor:
        """Return logits, shape (B, K)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Features, attn_mask: None = None, is_causal: bool = False) -> torch.Tensor:
        """Return tokens, shape (B, P + N, C)."""
        if not torch.jit.is_scripting():
            x = as_features(x)
        bias: torch.Tensor | None = None
        if len(x.side_inputs) > 0:
            bias = x.side_inputs[0]
        tokens = self.norm_pre(self.patch_drop(x.x))
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                tokens = checkpoint(block, tokens, attn_mask=bias)
            else:
                tokens = block(tokens, attn_mask=bias)
        return self.norm(tokens)


class VisionTransformerPerception(_TokenPerception, BackboneHalf, VisionTransformer):
    """See ``_TokenPerception``."""


class VisionTransformerDistilledPerception(_TokenPerception, BackboneHalf, VisionTransformerDistilled):
    """See ``_TokenPerception``."""


class VisionTransformerAdapter(TokenAdapter):
    """``VisionTransformer`` and its subclasses: tokens already carry their position and prefix at the cut."""

    def half_classes(self, backbone: nn.Module) -> tuple[type[nn.Module] | None, type[nn.Module] | None]:
        blocks: Any = backbone.blocks
        later = [block for block in blocks if not isinstance(block, OptionPassThrough)]
        takes_mask = all('attn_mask' in signature(block.forward).parameters for block in later)
        return None, self.perception_class if later and takes_mask else None

    def prepare_perception(self, perception_branch: nn.Module) -> None:
        perception_branch._pos_embed = pass_through  # type: ignore[assignment]

    def takes_attention_bias(self, perception_branch: nn.Module) -> bool:
        return isinstance(perception_branch, _TokenPerception)

    def notes_stages(self, half: nn.Module) -> bool:
        return False


class VisionTransformerRelPosAdapter(TokenAdapter):
    """``VisionTransformerRelPos``: blocks may share their relative positions, which then pass beside the tokens."""

    def half_classes(self, backbone: Any) -> tuple[type[nn.Module] | None, type[nn.Module] | None]:
        shares = backbone.shared_rel_pos is not None
        return (self.extractor_class, self.perception_class) if shares else (None, None)


class VisionTransformerRelPosExtractor(BackboneHalf, VisionTransformerRelPos):
    """A bias of attention scores that all blocks share passes beside the tokens."""

    def forward_features(self, x: torch.Tensor) -> Features:
        """Return tokens, shape (B, P + N, C), and the bias."""
        shared: Any = self.shared_rel_pos
        return Features(super().forward_features(x), [shared.get_bias()])


class VisionTransformerRelPosPerception(BackboneHalf, VisionTransformerRelPos):
    """See ``VisionTransformerRelPosExtractor``."""

    def forward_features(self, x: Features) -> torch.Tensor:
        """Return tokens, shape (B, P + N, C)."""
        tokens, (bias,) = x
        for block in self.blocks:
            tokens = checkpoint(block, tokens, bias) if self.grad_checkpointing else block(tokens, shared_rel_pos=bias)
        return self.norm(tokens)


class EvaHalf(BackboneHalf, Eva):
    """Rotary position embeddings pass beside the tokens, where they depend on the image's size or are learned."""

    def forward_features(self, x: Crossing, attn_mask: None = None, is_causal: bool = False) -> Crossing:
        """Return tokens, shape (B, P + N, C), and the embeddings; or the tokens of the last block, normalised."""
        if isinstance(x, Features):
            tokens, (rope,) = x
        else:
            tokens, rope = self._pos_embed(self.patch_embed(x))  # type: ignore[assignment]
        tokens = self.norm_pre(tokens)
        for index, block in enumerate(self.blocks):
            own = rope[index] if self.rope_mixed else rope
            tokens = checkpoint(block, tokens, rope=own) if self.grad_checkpointing else block(tokens, rope=own)
        return self.norm(tokens) if isinstance(x, Features) else Features(tokens, [rope])


class EvaAdapter(Adapter):
    """``Eva``: elsewhere, each half looks its rotary embeddings up in a buffer of its own."""

    def half_classes(self, backbone: Any) -> tuple[type[nn.Module] | None, type[nn.Module] | None]:
        travels = backbone.rope is not None and (backbone.dynamic_img_size or backbone.rope_mixed)
        return (self.extractor_class, self.perception_class) if travels else (None, None)

    def notes_stages(self, half: nn.Module) -> bool:
        return True


class BeitPerception(BackboneHalf, Beit):
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
    Eva: EvaAdapter(EvaHalf, EvaHalf),
    MlpMixer: TokenAdapter(),
    VisionTransformer: VisionTransformerAdapter(None, VisionTransformerPerception),
    VisionTransformerDistilled: VisionTransformerAdapter(None, VisionTransformerDistilledPerception),
    VisionTransformerRelPos: VisionTransformerRelPosAdapter(
        VisionTransformerRelPosExtractor, VisionTransformerRelPosPerception
    ),
    VisionTransformerSAM: VisionTransformerSAMAdapter(),
}
