"""Accuracy of multi-label predictions: the share of attributes that are predicted right."""

from typing import Any

import torch
from timm.task.evaluator import MultiLabelClassificationEvaluator

__all__ = ['AttributeEvaluator', 'attribute_accuracy']


def attribute_accuracy(logits: torch.Tensor, targets: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    """Return the accuracy of each attribute, shape (T,), in percent, of logits and of targets of 0 and 1, (N, T).

    An attribute counts as predicted from the probability ``threshold`` on.
    """
    return 100 * ((logits.sigmoid() >= threshold) == targets.bool()).double().mean(dim=0)


class AttributeEvaluator(MultiLabelClassificationEvaluator):
    """timm's evaluator for multi-label training, and ``accuracy``: the mean of the attributes' accuracies, in percent.

    This is what the paper reports of CelebA (section 4.4).
    """

    metric_names = (*MultiLabelClassificationEvaluator.metric_names, 'accuracy')  # type: ignore[assignment]

    def compute(self, distributed: bool = False) -> dict[str, float]:
        """Return the metrics, over all processes if distributed."""
        metrics: dict[str, Any] = super().compute(distributed)
        totals = torch.zeros(2, dtype=torch.float64)  # sum of the accuracies of images, and their number
        for logits, targets in zip(self.outputs, self.targets):
            accuracy = attribute_accuracy(logits, targets, self.threshold).mean()
            totals += torch.stack([accuracy * len(logits), torch.tensor(len(logits))])
        if distributed:
            totals = totals.to(self.device)
            torch.distributed.all_reduce(totals)
        metrics['accuracy'] = (totals[0] / totals[1].clamp(min=1)).item()
        return metrics
