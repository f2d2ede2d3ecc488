"""MultiTaskAttentionBranchNet: one attention map, and one answer, for each of several binary tasks (section 3.4).

images ─► feature_extractor ─► features ─────────────► gate, T times ─► perception_branch ─► row t of T x 2 outputs
                                   │                     ▲
                                   └─► attention_branch ─► T attention maps
                                             └───────────► attention logits
"""

from typing import Any

import torch
import torch.nn as nn

from ..maps.explanation import MultiTaskExplanation
from ..split import Features
from ..split.features import repeat_side_inputs
from .attention_branch import AttentionBranch
from .attention_stage import init_convolutions
from .config import MOST_TASKS_AT_ONCE, AbnConfig
from .gated_features import GatedFeatures, can_be_lazy, gate_each
from .network import AttentionBranchNet
from .scripting import ignored_by_torchscript

__all__ = ['MultiTaskAttentionBranch', 'MultiTaskAttentionBranchNet']


class MultiTaskAttentionBranch(AttentionBranch):
    """Computes an attention map per task, and its own prediction, from the features at the cut (paper, section 3.4).

    A stage at full resolution and a 1x1 convolution to one channel per task give the task maps, whose spatial means are
    the attention logits. The attention maps are their sigmoid, or the task maps as they are (``'raw'``, the authors'
    published form, which can be negative). If maps start flat (see ``AttentionBranch``), the 1x1 convolution starts
    with weights of 0.
    """

    explanation_class = MultiTaskExplanation

    def build_norm(self, config: AbnConfig, device: torch.device | None, dtype: torch.dtype | None) -> None:
        """Build nothing: task maps follow from the stage."""

    def build_head(self, num_classes: int, device: torch.device | None, dtype: torch.dtype | None) -> None:
        """Build the layer that depends on the number of tasks."""
        self.num_classes = self.num_maps = num_classes
        self.map_conv = nn.Conv2d(self.stage.num_features, num_classes, 1, bias=False, device=device, dtype=dtype)
        init_convolutions(self.map_conv)
        if self.starts_flat:
            nn.init.zeros_(self.map_conv.weight)

    def forward_features(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the task maps, shape (B, T, h, w), from features at the cut, shape (B, C, h, w)."""
        return self.map_conv(self.forward_stage(maps))

    def attention_map(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the attention maps, shape (B, T, h, w): in [0, 1] for 'sigmoid', of any value for 'raw'."""
        return class_features if self.map_kind == 'raw' else self.squash(class_features)

    def class_maps(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the task maps, shape (B, T, h, w); a logit of a yes, whose mean over places is the attention logit."""
        return class_features

    def attention_logits(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the attention logits, shape (B, T): the spatial means of the task maps."""
        return class_features.mean(dim=(2, 3))


class MultiTaskAttentionBranchNet(AttentionBranchNet):
    """Attention Branch Network for multi-task learning, such as the attributes of a face.

    Like every ABN it returns ``(logits, attention_logits)`` in training mode and ``logits`` in evaluation mode, here of
    shape (B, T) with one logit per task: its sigmoid is the probability of yes. A task has two outputs, no and yes,
    as in the paper; its logit is their difference. timm's multi-label training, losses and metrics apply unchanged.

    ``forward_features``, and ``forward_intermediates`` for stages after the cut, return tensors with a leading
    dimension B * T, the T results of an image in succession. With ``num_classes=0`` pooled features have shape (B, T,
    C), and ``attention_classes`` is the number of tasks. Attention maps, those of ``explain()`` and those given as
    ``attention``, have shape (B, T, h, w).

    Attributes:
        task_chunk_size: How many tasks pass the perception branch as one batch (see ``AbnConfig``).
    """

    branch_class = MultiTaskAttentionBranch
    multi_task = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """
        Args:
            *args: See ``AttentionBranchNet``.
            **kwargs: See ``AttentionBranchNet``; ``num_classes`` is the number of tasks (T).
        """
        super().__init__(*args, **kwargs)
        self.task_chunk_size = self.config.task_chunk_size or MOST_TASKS_AT_ONCE

    def predict(self, features: Features, attention_map: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape (B, T): row t of the outputs under map t, yes minus no."""
        shared: dict[str, torch.Tensor] | None = None
        if not torch.jit.is_scripting():
            shared = self._shared_convolutions(features)
        answers: list[torch.Tensor] = []
        num_tasks = attention_map.shape[1]
        for first in range(0, num_tasks, self.task_chunk_size):
            count = min(self.task_chunk_size, num_tasks - first)
            maps = attention_map[:, first : first + count] if count < num_tasks else attention_map
            outputs = self.forward_perception(self.attend(features, maps, shared))
            answers.append(self.answers(outputs, first, count, self.num_classes > 0))
        return torch.cat(answers, dim=1) if len(answers) > 1 else answers[0]

    def attend(
        self,
        features: Features,
        attention_map: torch.Tensor,
        shared: dict[str, torch.Tensor] | None = None,
    ) -> Features:
        """Return features under several maps, (B, T, h, w), with a leading dimension B * T.

        Args:
            features: What crosses the cut.
            attention_map: The maps.
            shared: Keeps the results of convolutions that all maps share (see ``GatedFeatures``); None to share none.
        """
        count = attention_map.shape[1]
        if self.gate_scales_channels:
            factor = self.gate.factor(attention_map)
            if shared is not None and not torch.jit.is_scripting():
                return Features(GatedFeatures.create(features.x, factor, shared), features.side_inputs)
            return Features(gate_each(features.x, factor), self._side_inputs(features, count))
        copies = features.x.repeat_interleave(count, dim=0) if count > 1 else features.x
        return self.gate(Features(copies, self._side_inputs(features, count)), attention_map.flatten(0, 1).unsqueeze(1))

    def _side_inputs(self, features: Features, count: int) -> list[torch.Tensor]:
        if self.has_side_inputs:  # where it is False, TorchScript does not look further
            return repeat_side_inputs(features.side_inputs, self.side_inputs_per_image, count)
        return features.side_inputs

    @torch.jit.unused
    def _shared_convolutions(self, features: Features) -> dict[str, torch.Tensor] | None:
        several = self.attention_branch.num_maps > 1
        can_share = several and self.gate_scales_channels and not self.has_side_inputs
        return {} if can_share and can_be_lazy(features.x, self.perception_branch) else None

    def answers(self, outputs: torch.Tensor, first: int, count: int, classified: bool) -> torch.Tensor:
        """Return what some of the tasks say, shape (B, count), or pooled features, (B, count, C).

        Args:
            outputs: Outputs of the perception branch, shape (B * count, T * 2), or (B * count, C).
            first: Number of the first task.
            count: Number of tasks.
            classified: Whether they come from a classifier.
        """
        if not classified:
            return outputs.unflatten(0, (-1, count))
        pairs = outputs.reshape(-1, count, self.num_classes, 2)[:, :, first : first + count]
        no_and_yes = pairs.diagonal(dim1=1, dim2=2)
        return no_and_yes[:, 1] - no_and_yes[:, 0]

    @ignored_by_torchscript
    def predict_task(self, features: Features, maps: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """Return what one task per image says, shape (B, 1).

        Args:
            features: What crosses the cut.
            maps: The maps of these tasks, shape (B, 1, h, w).
            tasks: Numbers of the tasks, shape (B,).
        """
        pairs = self.forward_perception(self.gate(features, maps)).unflatten(1, (self.num_classes, 2))
        no_and_yes = pairs[torch.arange(len(pairs), device=pairs.device), tasks]
        return (no_and_yes[:, 1] - no_and_yes[:, 0]).unsqueeze(1)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return logits of the perception branch (B, T), or pooled features (B, T, C).

        Args:
            x: Features as returned by ``forward_features``.
            pre_logits: Return pooled features.
        """
        outputs = self.perception_branch.forward_head(x, pre_logits=pre_logits)
        if self.attention_branch is None:
            return outputs
        return self.answers(outputs, 0, self.attention_branch.num_maps, self.num_classes > 0 and not pre_logits)
