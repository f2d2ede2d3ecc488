"""MultiTaskAttentionBranchNet: one attention map, and one answer, for each of several binary tasks.

    images ─► feature_extractor ─► features ─────────► mechanism, T times ─► perception_branch ─► row t of T x 2 outputs
                                       │                     ▲
                                       └─► attention_branch ─► T attention maps
                                                 └───────────► attention logits

Reference: the paper, section 3.4.
"""

from typing import Any

from ..errors import TimmAbnError
from .attention_branch import MultiTaskAttentionBranch
from .network import AttentionBranchNet

__all__ = ['MultiTaskAttentionBranchNet']


class MultiTaskAttentionBranchNet(AttentionBranchNet):
    """Attention Branch Network for multi-task learning, such as the attributes of a face.

    It is an ``AttentionBranchNet`` around another attention branch, which makes T maps and knows what the outputs of
    the perception branch under these maps say. Like every ABN it returns ``(logits, attention_logits)`` in training
    mode and ``logits`` in evaluation mode, here of shape (B, T) with one logit per task: its sigmoid is the probability
    of a yes. timm's multi-label training, losses and metrics apply unchanged.

    ``forward_features``, and what ``forward_intermediates`` returns of stages after the cut, have a leading dimension
    B * T, the T results of an image in succession. With ``num_classes=0`` pooled features have shape (B, T, C), and
    ``attention_classes`` says how many tasks there are.
    Attention maps, those of ``explain()`` and those given as ``attention``, have shape (B, T, h, w).
    """

    branch_class = MultiTaskAttentionBranch

    def __init__(self, *args: Any, task_chunk_size: int = 8, **kwargs: Any) -> None:
        """
        Args:
            *args: See ``AttentionBranchNet``.
            task_chunk_size: How many tasks pass the perception branch as one batch, which bounds the memory. Batch norm
                in training mode sees each chunk as a batch; with 1 it is the authors' published form. Evaluation does
                not depend on it.
            **kwargs: See ``AttentionBranchNet``; ``num_classes`` is the number of tasks (T), ``attention_map`` is
                'sigmoid' or 'raw' (see ``MultiTaskAttentionBranch``).

        Raises:
            TimmAbnError: An argument has no meaning; the message names it and says what would be right.
        """
        if isinstance(task_chunk_size, bool) or not isinstance(task_chunk_size, int) or task_chunk_size < 1:
            raise TimmAbnError(f'task_chunk_size must be a whole number of 1 or more, got {task_chunk_size!r}.')
        super().__init__(*args, **kwargs)
        self.task_chunk_size = task_chunk_size
