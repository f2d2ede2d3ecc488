"""Adapters: the form in which families of timm declare what they need to be cut, beyond pass-through modules."""

import dataclasses
from collections import OrderedDict
from typing import Any

import torch
import torch.nn as nn

from .features import Features

__all__ = ['Adapter', 'BackboneHalf', 'family_of']


class BackboneHalf:
    """Marks the classes that halves of a family become, which are subclasses of the family's own.

    A half keeps the parameters and attributes that timm gave it, and computes otherwise: the first returns what crosses
    the cut, ``Features(x, side_inputs)``, or the features alone if there are no side inputs; the second is given the
    same, with gated features. Modules of the other half are there as modules that let everything pass.

    Such classes are at the level of a module, so that halves can be copied and pickled, and keep nothing between calls.
    """


def family_of(module: nn.Module) -> type[nn.Module]:
    """Return the class that timm gave a module, whatever class it has as a half."""
    return next(c for c in type(module).__mro__ if issubclass(c, nn.Module) and not issubclass(c, BackboneHalf))


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """What a family needs beyond pass-through modules. The base class is right for most families.

    Whatever an adapter declares, a cut is proven before it is used: it is refused if the halves compute something
    other than the backbone does.

    Attributes:
        extractor_class: Subclass of the family's class, and of ``BackboneHalf``, that the first half becomes.
        perception_class: The same for the second half.
        result: Which of the tensors are the features, where a module returns several.
        split: Path of the module to cut after by default; None for the one that ``feature_info`` suggests.
    """

    extractor_class: type[nn.Module] | None = None
    perception_class: type[nn.Module] | None = None
    result: int = 0
    split: str | None = None

    def notes_stages(self, half: nn.Module) -> bool:
        """Return whether features of stages are noted as modules return them, since timm's method does not fit."""
        return isinstance(half, BackboneHalf)

    def half_classes(self, backbone: nn.Module) -> tuple[type[nn.Module] | None, type[nn.Module] | None]:
        """Return what the halves of this backbone become, None where they stay of its class."""
        return self.extractor_class, self.perception_class

    def default_split(self, backbone: nn.Module) -> str | None:
        """Return the path of the module to cut after, None for the one that ``feature_info`` suggests."""
        return self.split

    def stage(self, backbone: nn.Module, name: str) -> str:
        """Return the path of the module that ends a stage of ``feature_info``, where the family names another one."""
        return name

    def prepare_extractor(self, feature_extractor: nn.Module) -> None:
        """Undo the work that the backbone does between its modules after the cut."""

    def prepare_perception(self, perception_branch: nn.Module) -> None:
        """Skip the work that the backbone does between its modules before the cut."""

    def prepare_proof(self, module: nn.Module) -> None:
        """Let a copy of the backbone, or of a half, on the meta device show what it computes."""

    def features_of(self, output: Any) -> torch.Tensor | None:
        """Return the features among what the module before the cut returns, None if there are none."""
        if isinstance(output, (tuple, list)) and self.extractor_class is not None and len(output) > self.result:
            output = output[self.result]
        return output if isinstance(output, torch.Tensor) else None

    def arranged(self, half: nn.Module, path: str, output: Any) -> Any:
        """Return what a module of a half returns, with tokens in the order of their places if they are in another."""
        return output

    def num_prefix_tokens(self, perception_branch: nn.Module) -> int:
        """Return how many tokens at the cut come before those of the image: none if the class token joins later."""
        joins_later = getattr(perception_branch, 'cls_token', None) is not None
        return 0 if joins_later else getattr(perception_branch, 'num_prefix_tokens', 0)

    def attention_stage(
        self, perception_branch: nn.Module, in_channels: int, device: torch.device | None, dtype: torch.dtype | None
    ) -> tuple['OrderedDict[str, nn.Module]', int, str] | None:
        """Return the attention branch's first stage, its width and its name; None for a copy or residual blocks."""
        return None

    def takes_attention_bias(self, perception_branch: nn.Module) -> bool:
        """Return whether the second half reads a bias of attention scores, (B, 1, 1, N), as a side input."""
        return False

    def perception_intermediates(
        self, half: Any, features: Features, indices: list[int], norm: bool, stop_early: bool, intermediates_only: bool
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Do what the backbone's ``forward_intermediates`` does, with features in place of images."""
        return half.forward_intermediates(
            features if features.side_inputs else features.x,
            indices=indices,
            norm=norm,
            stop_early=stop_early,
            output_fmt='NCHW',
            intermediates_only=intermediates_only,
        )
