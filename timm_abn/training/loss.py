"""The training loss of an ABN, L_attention + L_perception (paper, Eq. 3), for any loop.

With PyTorch, Lightning or Accelerate it is two lines::

    criterion = AttentionBranchLoss(nn.CrossEntropyLoss())
    loss = criterion(model(images), targets)
"""

import math
from typing import Callable, Tuple, Union

import torch
import torch.nn as nn

from .errors import TrainingError

__all__ = ['AttentionBranchLoss', 'check_weight']


class AttentionBranchLoss(nn.Module):
    """Sum of one criterion over the logits of both branches (paper, Eq. 3).

    In training mode an ABN returns ``(logits, attention_logits)``; in evaluation mode it returns ``logits``, whose loss
    is that of the perception branch alone.
    """

    def __init__(self, criterion: Callable[..., torch.Tensor], attention_loss_weight: float = 1.0) -> None:
        """
        Args:
            criterion: Loss of logits and targets, of one branch.
            attention_loss_weight: Weight of the attention branch's loss; 1 in the paper.

        Raises:
            TrainingError: The weight is negative or not finite.
        """
        super().__init__()
        check_weight(attention_loss_weight)
        self.criterion = criterion
        self.attention_loss_weight = attention_loss_weight

    def forward(
        self,
        output: Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor]],
        target: torch.Tensor,
    ) -> torch.Tensor:
        """Return the loss.

        Args:
            output: What an ABN returned: ``(logits, attention_logits)``, or ``logits``, each of shape (B, K).
            target: What the criterion wants: classes (B,), or probabilities (B, K).
        """
        if isinstance(output, torch.Tensor):
            return self.criterion(output, target)
        logits, attention_logits = output
        attention_loss = self.criterion(attention_logits, target)
        return self.criterion(logits, target) + self.attention_loss_weight * attention_loss

    def extra_repr(self) -> str:  # noqa: D102
        return f'attention_loss_weight={self.attention_loss_weight}'


def check_weight(weight: float) -> None:
    """Raise TrainingError unless ``weight`` can be the weight of a loss."""
    if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
        raise TrainingError(f'attention_loss_weight must be a finite number that is not negative, got {weight!r}.')
