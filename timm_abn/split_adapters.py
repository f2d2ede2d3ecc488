"""What some families of timm need to be cut, beyond modules that let the features pass."""
from typing import Any, Dict, List, Optional, Tuple, Type

import torch
import torch.nn as nn
from timm.models import VisionTransformer, VisionTransformerSAM

__all__ = [
    'Adapter', 'OptionPassThrough', 'PassThrough', 'find_adapter', 'no_classifier', 'pass_through', 'register_adapter',
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

    def perception_intermediates(
            self,
            perception_branch: nn.Module,
            features: torch.Tensor,
            indices: List[int],
            norm: bool,
            stop_early: bool,
    ) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        """Return the final features and those of the stages ``indices``, in the backbone's own layout."""
        final, intermediates = perception_branch.forward_intermediates(  # type: ignore[operator]
            features, indices=indices, norm=norm, stop_early=stop_early, output_fmt='NCHW')
        return final, intermediates


class VisionTransformerAdapter(Adapter):
    """``VisionTransformer`` and its subclasses: tokens already carry their position and prefix at the cut."""

    def prepare_perception(self, perception_branch: nn.Module) -> None:
        perception_branch._pos_embed = pass_through  # type: ignore[assignment]

    def perception_intermediates(
            self,
            perception_branch: nn.Module,
            features: torch.Tensor,
            indices: List[int],
            norm: bool,
            stop_early: bool,
    ) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        # The family's own forward_intermediates reads the image's height and width, which tokens do not have.
        intermediates = []
        for index, block in enumerate(perception_branch.blocks):  # type: ignore[arg-type]
            if stop_early and index > max(indices):
                break
            features = block(features)
            if index in indices:
                intermediates.append(perception_branch.norm(features) if norm else features)  # type: ignore[operator]
        return perception_branch.norm(features), intermediates  # type: ignore[operator]


class _ToChannelsLast(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1)


class VisionTransformerSAMAdapter(Adapter):
    """``VisionTransformerSAM``: the features, which are NHWC, leave the extractor through an NCHW neck."""

    def prepare_extractor(self, feature_extractor: nn.Module) -> None:
        feature_extractor.neck = _ToChannelsLast()


_ADAPTERS: Dict[Type[nn.Module], Adapter] = {
    VisionTransformer: VisionTransformerAdapter(),
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
    return Adapter()
