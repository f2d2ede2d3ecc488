"""Adapters: the form in which families of timm declare what they need to be cut, beyond pass-through modules."""

import dataclasses
from collections import OrderedDict
from typing import Any

import torch
import torch.nn as nn

from .features import Features

__all__ = ['Adapter', 'BackboneHalf', 'family_of']


class BackboneHalf:
    """Marks the classes of a family's halves, which are subclasses of the family's own class.

    A half keeps the parameters and attributes of the timm model but computes something else. The first half returns
    what crosses the cut: ``Features(x, side_inputs)``, or the features alone if there are no side inputs. The second
    half receives the same, with gated features. The modules of the other half are replaced by pass-through modules.

    Define such classes at module level, so that halves can be copied and pickled, and keep no state between calls.
    """


def family_of(module: nn.Module) -> type[nn.Module]:
    """Return the class that timm gave a module, whatever class it has as a half."""
    return next(c for c in type(module).__mro__ if issubclass(c, nn.Module) and not issubclass(c, BackboneHalf))


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """What a family needs beyond pass-through modules. The base class is right for most families.

    Whatever an adapter declares, a cut is proven before it is used: it is refused if the halves do not compute exactly
    what the backbone computes.

    Attributes:
        extractor_class: Class of the first half, a subclass of the family's class and of ``BackboneHalf``.
        perception_class: The same for the second half.
        result: Index of the features if a module returns several tensors.
        split: Path of the module to cut after by default; None for the one that ``feature_info`` suggests.
    """

    extractor_class: type[nn.Module] | None = None
    perception_class: type[nn.Module] | None = None
    result: int = 0
    split: str | None = None

    def notes_stages(self, half: nn.Module) -> bool:
        """Return whether features of stages are recorded from module outputs, because timm's method does not fit."""
        return isinstance(half, BackboneHalf)

    def half_classes(self, backbone: nn.Module) -> tuple[type[nn.Module] | None, type[nn.Module] | None]:
        """Return the classes of the halves of this backbone, None for a half that keeps its class."""
        return self.extractor_class, self.perception_class

    def default_split(self, backbone: nn.Module) -> str | None:
        """Return the path of the module to cut after, None for the one that ``feature_info`` suggests."""
        return self.split

    def stage(self, backbone: nn.Module, name: str) -> str:
        """Return the path of the module that ends a stage of ``feature_info``, if the family names another one."""
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
        """Return the output of a module of a half, with tokens in the order of their positions."""
        return output

    def num_prefix_tokens(self, perception_branch: nn.Module) -> int:
        """Return how many tokens at the cut precede those of the image: 0 if the class token joins later."""
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
