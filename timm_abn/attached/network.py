"""AttachedNet: a trained backbone that stays as it is, and an attention branch whose map explains its prediction.

images ─► feature_extractor ─► features ─► perception_branch ─► logits, those of the backbone
                                   │
                                   └─► attention_branch ─► attention map, class maps, attention logits
"""

from typing import Any

import torch
import torch.fx
import torch.nn as nn

from ..errors import TimmAbnError
from ..maps.explanation import Explanation
from ..networks.attention_branch import AttentionBranch
from ..networks.gate import ATTACHED
from ..networks.given_maps import given_or_predicted
from ..networks.network import ForwardPass
from ..networks.parts import build_parts
from ..networks.scripting import ignored_by_torchscript
from ..networks.split_network import SplitNetwork
from ..records import are_exclusive, explained_by
from ..split import Features

__all__ = ['AttachedNet']

torch.fx.wrap('given_or_predicted')  # a leaf of fx graphs, for which it is open whether a map will be given


class AttachedNet(SplitNetwork):
    """A trained backbone with an attention branch that does not gate, and is trained to explain it.

    Both halves are frozen when it is built, and stay in evaluation mode. A map that is given in place of the predicted
    one gates relative to that, ``(1 + given) / (1 + predicted)``, so that an edited map changes the prediction where,
    and as far as, it was edited.
    """

    def __init__(
        self,
        backbone: str | nn.Module = 'resnet50',
        pretrained_backbone: bool | str = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            backbone: See ``AttentionBranchNet``.
            pretrained_backbone: See ``AttentionBranchNet``.
            device: Where to create parameters.
            dtype: Type of the parameters.
            **kwargs: See ``AttentionBranchNet``; the map is a soft sigmoid map of the residual mechanism.

        Raises:
            TimmAbnError: An argument has no meaning; the message names it and says what would be right.
        """
        super().__init__()
        parts = build_parts(backbone, kwargs, pretrained_backbone, device, dtype, init='random', multi_task=False)
        config = self.config = parts.config
        if (config.mechanism, config.attention_map) != ('residual', 'sigmoid'):
            raise TimmAbnError(
                "an attached branch has mechanism='residual' and attention_map='sigmoid', got "
                f'{config.mechanism!r} and {config.attention_map!r}.'
            )
        self.take_parts(parts)
        self.feature_extractor = parts.cut.feature_extractor.requires_grad_(False)
        self.attention_branch = AttentionBranch(parts.stage, config, config.branch_classes, device=device, dtype=dtype)
        self.gate = parts.gate
        self.gate.record(ATTACHED, device)
        self.perception_branch = parts.cut.perception_branch.requires_grad_(False)

    @ignored_by_torchscript
    def train(self, mode: bool = True) -> 'AttachedNet':
        """Set the mode of the branch; both halves stay in evaluation mode."""
        super().train(mode)
        self.feature_extractor.eval()
        self.perception_branch.eval()
        return self

    def extra_repr(self) -> str:
        """Return what the network was built from."""
        return f'{super().extra_repr()} (the map explains, and does not gate)'

    def forward(
        self,
        x: torch.Tensor,
        attention: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return logits (B, K), those of the backbone; in training mode ``(logits, attention_logits)``.

        Args:
            x: Images, shape (B, in_chans, H, W).
            attention: A map to gate by, relative to the predicted one, shape (B, 1, h, w).
        """
        if self.training and not torch.jit.is_scripting():
            seen = self.forward_pass(x, attention)
            return seen.logits, self.attention_branch.attention_logits(seen.class_features)
        if attention is None or self.attention_branch is None:
            return self.forward_perception(self.extract(x))  # nobody reads the map
        return self.forward_pass(x, attention).logits

    def forward_pass(self, images: torch.Tensor, attention: torch.Tensor | None = None) -> ForwardPass:
        """Return what one forward pass sees (see ``AttentionBranchNet.forward_pass``)."""
        features = self.extract(images)
        class_features = self.attention_branch.forward_features(self.layout.to_maps(features.x, images))
        predicted = self.attention_branch.attention_map(class_features)
        attention_map = given_or_predicted(attention, predicted)
        gated = features if attention is None else self.gate(features, attention_map, predicted)
        return ForwardPass(features, class_features, attention_map, self.forward_perception(gated))

    def attended(self, features: Features, images: torch.Tensor, attention: torch.Tensor | None) -> Features:
        """Return the features that the second half is given: gated by a given map alone."""
        if attention is None or self.attention_branch is None:
            return features
        predicted = self.attention_map(features, images, None)
        return self.gate(features, given_or_predicted(attention, predicted), predicted)

    @ignored_by_torchscript
    @torch.no_grad()
    def explain(self, images: torch.Tensor, attention: torch.Tensor | None = None) -> Explanation:
        """Predict, and say where the prediction looks: one forward pass, no gradients.

        Args:
            images: Normalised images, shape (B, in_chans, H, W).
            attention: See ``forward``.

        Returns:
            See ``AttentionBranchNet.explain``; ``map_gates`` is False unless a map is given.

        Raises:
            TimmAbnError: See ``AttentionBranchNet.explain``.
        """
        self.check_explainable(images, attention)
        seen = self.forward_pass(images, attention)
        known = dict(map_gates=attention is not None, exclusive=are_exclusive(self), explained_by=explained_by(self))
        return self.attention_branch.explanation(seen.logits, seen.attention_map, seen.class_features, **known)
