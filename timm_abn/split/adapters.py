"""What some families of timm need to be cut, beyond modules that let the features pass."""

from inspect import signature
from typing import Any, Dict, List, Optional, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.layers import ClassifierHead
from timm.models import VGG, MlpMixer, VisionTransformer, VisionTransformerRelPos, VisionTransformerSAM, checkpoint

__all__ = [
    'Adapter',
    'OptionPassThrough',
    'PassThrough',
    'find_adapter',
    'no_classifier',
    'pass_through',
    'register_adapter',
]


def pass_through(x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
    """Return ``x``: takes the place of a method (``forward_head``, ``_pos_embed``) that belongs to the other half."""
    return x


def no_classifier(*args: Any, **kwargs: Any) -> None:
    """Take the place of ``reset_classifier`` in the half that has no head."""


class PassThrough(nn.Module):
    """Identity for modules that are called with more than the features; returns its first argument."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return ``x``."""
        return x


class OptionPassThrough(nn.Module):
    """Identity for blocks and heads of timm that take options, spelled out since TorchScript has no ``**kwargs``."""

    def forward(
        self,
        x: torch.Tensor,
        attn_mask: Optional[torch.Tensor] = None,
        is_causal: bool = False,
        shared_rel_pos: Optional[torch.Tensor] = None,
        pre_logits: bool = False,
    ) -> torch.Tensor:
        """Return ``x``."""
        return x


class Adapter:
    """What a family needs beyond pass-through modules. The base class is right for most families."""

    def prepare_extractor(self, feature_extractor: nn.Module) -> None:
        """Undo the work that the backbone does between its modules after the cut."""

    def prepare_perception(self, perception_branch: nn.Module) -> None:
        """Skip the work that the backbone does between its modules before the cut."""

    def takes_attention_bias(self, perception_branch: nn.Module) -> bool:
        """Return whether ``forward`` and ``forward_features`` hand an ``attn_mask`` to blocks after the cut."""
        return False

    def checkpointed_features(
        self,
        perception_branch: nn.Module,
        features: torch.Tensor,
        attention_bias: torch.Tensor,
    ) -> torch.Tensor:
        """Do what ``forward_features`` does with an ``attn_mask``, and checkpoint blocks, which timm then does not."""
        raise NotImplementedError

    def perception_intermediates(
        self,
        perception_branch: nn.Module,
        features: torch.Tensor,
        indices: List[int],
        norm: bool,
        stop_early: bool,
        intermediates_only: bool,
    ) -> Union[List[torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]]]:
        """Do what the backbone's ``forward_intermediates`` does, with features in the place of images."""
        return perception_branch.forward_intermediates(  # type: ignore[operator]
            features,
            indices=indices,
            norm=norm,
            stop_early=stop_early,
            output_fmt='NCHW',
            intermediates_only=intermediates_only,
        )


class TokenAdapter(Adapter):
    """Families of ``blocks`` and a ``norm`` whose ``forward_intermediates`` reads the size of the images."""

    def perception_intermediates(
        self,
        perception_branch: nn.Module,
        features: torch.Tensor,
        indices: List[int],
        norm: bool,
        stop_early: bool,
        intermediates_only: bool,
        **block_arguments: torch.Tensor,
    ) -> Union[List[torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]]]:
        """Return tokens, shape (B, N, C), in the place of maps."""
        intermediates = []
        for index, block in enumerate(perception_branch.blocks):  # type: ignore[arg-type]
            if stop_early and index > max(indices):
                break
            features = block(features, **self.block_arguments(perception_branch), **block_arguments)
            if index in indices:
                intermediates.append(perception_branch.norm(features) if norm else features)  # type: ignore[operator]
        if intermediates_only:
            return intermediates
        return perception_branch.norm(features), intermediates  # type: ignore[operator]

    def block_arguments(self, perception_branch: nn.Module) -> Dict[str, torch.Tensor]:
        """Return what blocks are called with, besides the features."""
        return {}


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
    """``VisionTransformerRelPos``: blocks may share their relative positions."""

    def block_arguments(self, perception_branch: nn.Module) -> Dict[str, torch.Tensor]:
        shared = perception_branch.shared_rel_pos
        return {} if shared is None else dict(shared_rel_pos=shared.get_bias())  # type: ignore[operator,union-attr]


class VGGAdapter(Adapter):
    """``VGG``: removing stages looks into the head, of which the extractor keeps an empty one."""

    def prepare_extractor(self, feature_extractor: nn.Module) -> None:
        feature_extractor.head = ClassifierHead(feature_extractor.num_features, 0, pool_type='')  # type: ignore[arg-type]


class _ToChannelsLast(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1)


class VisionTransformerSAMAdapter(Adapter):
    """``VisionTransformerSAM``: the features, which are NHWC, leave the extractor through an NCHW neck."""

    def prepare_extractor(self, feature_extractor: nn.Module) -> None:
        feature_extractor.neck = _ToChannelsLast()


_ADAPTERS: Dict[Type[nn.Module], Adapter] = {
    nn.Module: Adapter(),
    MlpMixer: TokenAdapter(),
    VGG: VGGAdapter(),
    VisionTransformer: VisionTransformerAdapter(),
    VisionTransformerRelPos: VisionTransformerRelPosAdapter(),
    VisionTransformerSAM: VisionTransformerSAMAdapter(),
}


def register_adapter(backbone_class: Type[nn.Module], adapter: Adapter) -> None:
    """Use ``adapter`` for backbones of ``backbone_class`` and of its subclasses.

    Args:
        backbone_class: Class of the timm model.
        adapter: What the family needs.
    """
    _ADAPTERS[backbone_class] = adapter


def find_adapter(backbone: nn.Module) -> Adapter:
    """Return the adapter registered for the most specific class of ``backbone``."""
    for backbone_class in type(backbone).__mro__:
        if backbone_class in _ADAPTERS:
            return _ADAPTERS[backbone_class]
    return _ADAPTERS[nn.Module]
