"""MultiTaskAttentionBranchNet: one attention map, and one answer, for each of several binary tasks.

    images ─► feature_extractor ─► features ─────────► mechanism, T times ─► perception_branch ─► row t of T x 2 outputs
                                       │                     ▲
                                       └─► attention_branch ─► T attention maps
                                                 └───────────► attention logits

Reference: the paper, section 3.4.
"""

from typing import Any, Dict, List

import torch
import torch.nn as nn

from .attention_branch import MultiTaskAttentionBranch
from .attention_stage import AttentionStage
from .explanation import MultiTaskExplanation
from .gated_features import GatedFeatures, gate_each
from .network import AttentionBranchNet

__all__ = ['MultiTaskAttentionBranchNet']


class MultiTaskAttentionBranchNet(AttentionBranchNet):
    """Attention Branch Network for multi-task learning, such as the attributes of a face.

    Like every ABN it returns ``(logits, attention_logits)`` in training mode and ``logits`` in evaluation mode, here of
    shape (B, T) with one logit a task: its sigmoid is the probability of a yes. The perception branch has two outputs a
    task, no and yes, as in the paper; the logit is their difference, whose sigmoid is the softmax of the two. timm's
    multi-label training, losses and metrics apply unchanged.

    ``forward_features``, and what ``forward_intermediates`` returns of stages after the cut, have a leading dimension
    B * T, the T results of an image in succession. With ``num_classes=0`` pooled features have shape (B, T, C), and
    ``attention_classes`` says how many tasks there are.
    Attention maps, those of ``explain()`` and those given as ``attention``, have shape (B, T, h, w).
    """

    outputs_per_class = 2
    _explanation_class = MultiTaskExplanation

    def __init__(
        self,
        *args: Any,
        task_chunk_size: int = 8,
        attention_norm: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            *args: See ``AttentionBranchNet``.
            task_chunk_size: How many tasks pass the perception branch as one batch, which bounds the memory. Batch norm
                in training mode sees each chunk as a batch; with 1 it is the authors' published form. Evaluation does
                not depend on it.
            attention_norm: Only for networks of a single task.
            **kwargs: See ``AttentionBranchNet``; ``num_classes`` is the number of tasks (T), ``attention_map`` is
                'sigmoid' or 'raw' (see ``MultiTaskAttentionBranch``).

        Raises:
            ValueError: An argument has no meaning; the message names it and says what would be right.
        """
        if isinstance(task_chunk_size, bool) or not isinstance(task_chunk_size, int) or task_chunk_size < 1:
            raise ValueError(f'task_chunk_size must be a whole number of 1 or more, got {task_chunk_size!r}.')
        if not attention_norm:
            raise ValueError('attention_norm=False needs multi_task=False: a multi-task attention branch has no norm.')
        super().__init__(*args, **kwargs)
        self.task_chunk_size = task_chunk_size

    def _create_attention_branch(
        self,
        stage: AttentionStage,
        num_classes: int,
        attention_map: str,
        attention_norm: bool,
        **dd: Any,
    ) -> nn.Module:
        return MultiTaskAttentionBranch(stage, num_classes, attention_map, **dd)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return logits (B, T), or pooled features (B, T, C).

        Args:
            x: Features as returned by ``forward_features``, of B * T maps.
            pre_logits: Return pooled features.
        """
        outputs = self.perception_branch.forward_head(x, pre_logits=pre_logits)
        num_tasks = self._num_maps()
        if pre_logits or not self.num_classes:
            return outputs.unflatten(0, (-1, num_tasks))
        return self._answers(outputs, 0, num_tasks)

    def _num_maps(self) -> int:
        return self.attention_branch.num_classes

    def _gate(self, features: torch.Tensor, attention_map: torch.Tensor) -> torch.Tensor:
        """Return features gated by each of the maps, with a leading dimension B * T."""
        factors = self.mechanism.factor(attention_map)
        if self.layout.layout == 'NCHW':
            return gate_each(features, factors)
        repeated = features.repeat_interleave(factors.shape[1], dim=0)
        return self.layout.gate(repeated, factors.flatten(0, 1).unsqueeze(1))

    def _perceive(self, features: torch.Tensor, attention_map: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, T), or (B, T, C) without a classifier.

        Args:
            features: Features of the extractor.
            attention_map: Shape (B, T, h, w).
        """
        num_tasks = self._num_maps()
        shares_convolutions = False
        if not torch.jit.is_scripting():
            shares_convolutions = self._shares_convolutions(features)
        convolved: Dict[str, torch.Tensor] = {}
        answers: List[torch.Tensor] = []
        for start in range(0, num_tasks, self.task_chunk_size):
            count = min(self.task_chunk_size, num_tasks - start)
            chunk = attention_map[:, start : start + count]
            if shares_convolutions:
                gated = self._gate_later(features, chunk, convolved)
            else:
                gated = self._gate(features, chunk)
            answers.append(self._answers(self.perception_branch(gated), start, count))
        return torch.cat(answers, dim=1)

    @torch.jit.unused
    def _gate_later(
        self,
        features: torch.Tensor,
        attention_map: torch.Tensor,
        convolved: Dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Return gated features that share ``convolved``."""
        return GatedFeatures.create(features, self.mechanism.factor(attention_map), convolved)

    @torch.jit.unused
    def _shares_convolutions(self, features: torch.Tensor) -> bool:
        """Return whether gated features can be lazy: in a layout where they pay, and where their kind does not matter.

        It matters to whatever records the operations, or runs parts of the forward pass again for the gradients.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(features) is not torch.Tensor:
            return False
        if self.layout.layout != 'NCHW':
            return False
        return not torch.is_grad_enabled() or not any(
            getattr(module, 'grad_checkpointing', False) or hasattr(module, 'checkpoint_fn')  # timm's, PyTorch's
            for module in self.perception_branch.modules()
        )

    def _answers(self, outputs: torch.Tensor, start: int, count: int) -> torch.Tensor:
        """Return what ``count`` tasks from task ``start`` on say, shape (B, count).

        Args:
            outputs: Outputs of the perception branch, shape (B * count, T * 2), no before yes.
        """
        if not self.num_classes:
            return outputs.unflatten(0, (-1, count))
        pairs = outputs.reshape(-1, count, self.num_classes, 2)[:, :, start : start + count]
        no_and_yes = pairs.diagonal(dim1=1, dim2=2)
        return no_and_yes[:, 1] - no_and_yes[:, 0]
