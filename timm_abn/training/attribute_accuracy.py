"""Accuracy of multi-label predictions: the share of attributes that are predicted right."""

from typing import Any

import torch
from timm.task.evaluator import MultiLabelClassificationEvaluator

__all__ = ['AttributeEvaluator']


class AttributeEvaluator(MultiLabelClassificationEvaluator):
    """timm's evaluator for multi-label training, and ``accuracy``: the mean of the attributes' accuracies, in percent.

    This is what the paper reports of CelebA (section 4.4).
    """

    metric_names = (*MultiLabelClassificationEvaluator.metric_names, 'accuracy')  # type: ignore[assignment]

    def compute(self, distributed: bool = False) -> dict[str, float]:
        """Return the metrics, over all processes if distributed."""
        metrics: dict[str, Any] = super().compute(distributed)
        right = torch.zeros(2, dtype=torch.float64)  # how many attributes are predicted right, and how many there are
        for logits, targets in zip(self.outputs, self.targets):
            is_right = (logits.sigmoid() >= self.threshold) == targets.bool()
            right += torch.tensor([is_right.sum().item(), is_right.numel()])
        if distributed:
            right = right.to(self.device)
            torch.distributed.all_reduce(right)
        metrics['accuracy'] = (100 * right[0] / right[1].clamp(min=1)).item()
        return metrics
