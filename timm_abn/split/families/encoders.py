"""Vision encoders of language models, wrapped in classifiers: Qwen3, DeepSeek, Gemma 4; and NaFlexViT."""

from typing import Any

import torch
import torch.nn as nn
from timm.models.deepseek_vit import DeepseekVitEncoder
from timm.models.gemma4_vit import Gemma4VitClassifier, Gemma4VitEncoder
from timm.models.naflexvit import NaFlexVit
from timm.models.qwen3_vit import Qwen3VitEncoder

from ..adapter import Adapter, BackboneHalf
from ..features import Crossing, Features

__all__ = ['ADAPTERS']


class _Encoder:
    """Tokens become maps (B, h, w, C) again behind the blocks, and an aligner or a pool, of the other half, follows."""

    forward_features: Any

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features, shape (B, h, w, C)."""
        return self.forward_features(x)


class DeepseekVitExtractor(_Encoder, BackboneHalf, DeepseekVitEncoder):
    """See ``_Encoder``."""


class Qwen3VitExtractor(_Encoder, BackboneHalf, Qwen3VitEncoder):
    """See ``_Encoder``."""


class Qwen3VitPerception(BackboneHalf, Qwen3VitEncoder):
    """Position embeddings are added before the blocks; the rotary ones follow from the grid."""

    def _pos_embed(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.flatten(1, 2), self.rope.get_embed(shape=[x.shape[1], x.shape[2]])


class Gemma4VitExtractor(BackboneHalf, Gemma4VitEncoder):
    """Blocks and the pool behind them want the places of the tokens."""

    def forward(self, x: torch.Tensor, patch_coord: None = None, patch_valid: None = None) -> Features:
        """Return tokens, shape (B, N, C), and their places (B, N, 2)."""
        x, places, padding = self.patch_embed(x, patch_coord, patch_valid)
        return Features(self._encode(x, places, padding), [places])


class Gemma4VitClassifierExtractor(BackboneHalf, Gemma4VitClassifier):
    """The head pools what the encoder returns."""

    def forward(self, x: torch.Tensor) -> Features:
        """See ``Gemma4VitExtractor``."""
        crossing: Any = self.forward_features(x)
        return crossing


class _Embedded(nn.Module):
    """Takes the place of an embedding: tokens and places are there already, and images have no padding."""

    def forward(self, x: Features, *options: Any) -> tuple[torch.Tensor, torch.Tensor, None]:
        return x.x, x.side_inputs[0], None


class Gemma4VitPerception(BackboneHalf, Gemma4VitEncoder):
    """Only images are checked for their size."""

    def _assert_raw_img_conformant(self, x: Any) -> None:
        pass


class Gemma4VitAdapter(Adapter):
    """``Gemma4VitEncoder``: see its halves."""

    def prepare_perception(self, perception_branch: nn.Module) -> None:
        perception_branch.patch_embed = _Embedded()


class Gemma4VitClassifierAdapter(Adapter):
    """``Gemma4VitClassifier``: ``feature_info`` is that of the encoder inside."""

    def stage(self, backbone: nn.Module, name: str) -> str:
        return f'encoder.{name}'


class NaFlexVitHalf(BackboneHalf, NaFlexVit):
    """Blocks may be called with rotary position embeddings, which pass beside the tokens; images need no masks."""

    def _forward_embeds(self, x: Any, *options: Any, **named: Any) -> dict[str, Any]:
        if isinstance(x, dict):
            return x  # embedded already
        if isinstance(x, torch.Tensor) and x.ndim > 3:
            return super()._forward_embeds(x, *options, **named)
        tokens, rope = (x, None) if isinstance(x, torch.Tensor) else (x.x, x.side_inputs[0])
        return dict(patches=tokens, rope_embeds=rope)


class NaFlexVitExtractor(NaFlexVitHalf):
    """See ``NaFlexVitHalf``."""

    def forward_features(self, x: torch.Tensor, *options: Any, **named: Any) -> Crossing:
        """Return tokens, shape (B, P + N, C), and their rotary position embeddings if there are any."""
        embedded: Any = self._forward_embeds(x, None, None, None)
        tokens: Any = super().forward_features(embedded)
        rope: torch.Tensor | None = embedded['rope_embeds']
        return tokens if rope is None else Features(tokens, [rope])


ADAPTERS: dict[type[nn.Module], Adapter] = {
    DeepseekVitEncoder: Adapter(DeepseekVitExtractor),
    Gemma4VitClassifier: Gemma4VitClassifierAdapter(Gemma4VitClassifierExtractor),
    Gemma4VitEncoder: Gemma4VitAdapter(Gemma4VitExtractor, Gemma4VitPerception),
    NaFlexVit: Adapter(NaFlexVitExtractor, NaFlexVitHalf),
    Qwen3VitEncoder: Adapter(Qwen3VitExtractor, Qwen3VitPerception),
}
