"""AttentionBranchNet: any timm backbone, cut in two, with an attention branch between the halves.

    images ─► feature_extractor ─► features ──────────────► gate ─► perception_branch ─► logits
                                       │                      ▲
                                       └─► attention_branch ─► attention map
                                                 └───────────► attention logits, class maps

Reference: Fukui, Hirakawa, Yamashita, Fujiyoshi, "Attention Branch Network: Learning of Attention Mechanism for Visual
Explanation", CVPR 2019.
"""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.fx
import torch.nn as nn

from ..maps.explanation import Explanation
from ..records import are_exclusive, explained_by
from ..split import Features
from .attention_branch import AttentionBranch
from .given_maps import given_or_predicted
from .parts import build_parts
from .scripting import ignored_by_torchscript
from .split_network import SplitNetwork

__all__ = ['AttentionBranchNet', 'ForwardPass']

torch.fx.wrap('given_or_predicted')  # a leaf of fx graphs, for which it is open whether a map will be given


class ForwardPass(NamedTuple):
    """Results of one forward pass; ``explain()`` and every loss use them.

    Attributes:
        features: What crosses the cut, before the gate.
        class_features: Input of the attention branch's map and prediction, shape (B, K, h, w).
        attention_map: The map that gates, predicted or given, shape (B, 1, h, w), or (B, T, h, w) for several tasks.
        logits: Shape (B, K).
    """

    features: Features
    class_features: torch.Tensor
    attention_map: torch.Tensor
    logits: torch.Tensor


class AttentionBranchNet(SplitNetwork):
    """Attention Branch Network over a timm backbone.

    In training mode the model returns ``(logits, attention_logits)``, in evaluation mode ``logits``, like timm's DeiT
    with its two heads. The training loss is the sum of the losses of both (paper, Eq. 3).

    Attributes:
        config: Configuration of the network (see ``AbnConfig``).
        feature_extractor: First half of the backbone, up to and including the module ``config.split``.
        attention_branch: Computes the attention map from the features.
        gate: Applies the attention map to the features.
        perception_branch: Second half of the backbone.
    """

    branch_class: ClassVar[type[AttentionBranch]] = AttentionBranch
    multi_task: ClassVar[bool] = False

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
            backbone: Name of a timm model, or a timm model, whose parameters become the network's.
            pretrained_backbone: Start both halves, and the copied stage of the attention branch, from timm's
                pretrained weights of the backbone, or from the weights in this file. If you pass a model: whether it is
                trained, so that the copied stage keeps its weights.
            device: Where to create parameters.
            dtype: Type of the parameters.
            **kwargs: Fields of ``AbnConfig`` (``split``, ``mechanism``, ``gate``, ``num_classes``, ...). All others are
                passed to ``timm.create_model`` for the backbone (``img_size``, ``drop_path_rate``, ...).

        Raises:
            TimmAbnError: An argument has no meaning; the message names it and says what would be right.
        """
        super().__init__()
        parts = build_parts(backbone, kwargs, pretrained_backbone, device, dtype, multi_task=self.multi_task)
        config = self.config = parts.config
        self.take_parts(parts)
        self.feature_extractor = parts.cut.feature_extractor
        self.attention_branch = self.branch_class(
            parts.stage, config, config.branch_classes, device=device, dtype=dtype
        )
        self.gate = parts.gate
        # the perception branch comes last: timm's AGC clipping leaves out the last two parameters, its classifier
        self.perception_branch = parts.cut.perception_branch

    def forward(
        self,
        x: torch.Tensor,
        attention: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return logits (B, K); in training mode ``(logits, attention_logits)``.

        Args:
            x: Images, shape (B, in_chans, H, W).
            attention: Attention map to use instead of the predicted one, shape (B, 1, h, w), of any floating type.
        """
        if self.attention_branch is None:  # pruned: nothing is left to attend to
            return self.forward_perception(self.extract(x))
        if self.training and not torch.jit.is_scripting():
            seen = self.forward_pass(x, attention)
            # both outputs are made last, which is where tools that trace graphs look for them
            return seen.logits, self.attention_branch.attention_logits(seen.class_features)
        features = self.extract(x)
        return self.predict(features, self.attention_map(features, x, attention))

    def forward_pass(self, images: torch.Tensor, attention: torch.Tensor | None = None) -> ForwardPass:
        """Return the results of one forward pass.

        Args:
            images: Shape (B, in_chans, H, W).
            attention: See ``forward``.
        """
        features = self.extract(images)
        class_features = self.attention_branch.forward_features(self.layout.to_maps(features.x, images))
        attention_map = given_or_predicted(attention, self.attention_branch.attention_map(class_features))
        return ForwardPass(features, class_features, attention_map, self.predict(features, attention_map))

    def predict(self, features: Features, attention_map: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape (B, K), of features under an attention map."""
        return self.forward_perception(self.gate(features, attention_map))

    @ignored_by_torchscript
    @torch.no_grad()
    def explain(self, images: torch.Tensor, attention: torch.Tensor | None = None) -> Explanation:
        """Predict, and say where the prediction looks: one forward pass, no gradients.

        Args:
            images: Normalised images, shape (B, in_chans, H, W).
            attention: See ``forward``.

        Returns:
            Logits (B, K), attention map (B, 1, h, w), attention logits (B, K) and class maps (B, K, h, w).

        Raises:
            TimmAbnError: The model is in training mode, has lost its attention branch to
                ``prune_intermediate_layers``, an argument has the wrong shape, or a given map values that none has.
        """
        self.check_explainable(images, attention)
        seen = self.forward_pass(images, attention)
        known: dict[str, bool | str] = dict(exclusive=are_exclusive(self), explained_by=explained_by(self))
        return self.attention_branch.explanation(seen.logits, seen.attention_map, seen.class_features, **known)
