"""Accuracy of the attention branch on the validation set, beside that of the perception branch; and of attributes.

timm's scripts validate a model by the logits that it returns, which are those of the perception branch. This module
adds those of the attention branch: the summary, log and results of the scripts have ``attention_top1`` and
``attention_top5`` next to ``top1`` and ``top5``.
"""

import logging
from collections.abc import Callable
from typing import Any

import timm.task
import timm.utils
import torch
import torch.nn as nn
from timm.task.evaluator import MultiLabelClassificationEvaluator
from timm.utils import reduce_tensor, unwrap_model

from .replacing import replace
from .term_log import term_log

__all__ = ['AttributeEvaluator', 'BothBranches', 'BranchEvaluator', 'extend_timm_metrics']

_logger = logging.getLogger(__name__)


class BothBranches(nn.Module):
    """A model under evaluation: returns logits, and hands the attention logits to the metrics of the validation.

    ``module`` may be in wrappers that timm's ``unwrap_model`` removes (DDP, EMA, ``torch.compile``). Both come from one
    forward pass. A compiled model is evaluated without its compiled forward, which computes no attention logits.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module  # the name that unwrap_model looks for, so that checkpoints hold the model's own names

    def train(self, mode: bool = True) -> 'BothBranches':
        """Set the mode of the model; validation begins with ``eval()``."""
        if not mode:
            _validation.begin()
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of images (B, in_chans, H, W)."""
        if self.training:
            return self.module(x)
        explanation = unwrap_model(self.module).explain(x)
        _validation.attention_logits = explanation.attention_logits
        return explanation.logits


class BranchEvaluator:
    """Two of timm's evaluators, one per branch, with the interface of a single one.

    Metrics of the second get the prefix ``attention_``.
    """

    def __init__(self, perception: Any, attention: Any) -> None:
        self.perception, self.attention = perception, attention

    def __getattr__(self, name: str) -> Any:
        return getattr(self.perception, name)

    def reset(self) -> None:
        """Start over, without any batch."""
        self.perception.reset()
        self.attention.reset()

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch of logits (B, K), and classes (B,) or probabilities (B, K)."""
        self.perception.update(output, target)
        attention_logits = _validation.take(len(output))
        if attention_logits is not None:
            self.attention.update(attention_logits, target)

    def summary(self) -> dict[str, float]:
        """Return the metrics of this process so far."""
        return self._together(self.perception.summary(), self.attention.summary())

    def compute(self, distributed: bool = False) -> dict[str, float]:
        """Return the metrics, over all processes if distributed."""
        return self._together(self.perception.compute(distributed), self.attention.compute(distributed))

    def _together(self, perception: dict[str, float], attention: dict[str, float]) -> dict[str, float]:
        if self.attention.num_samples:
            perception.update({f'attention_{name}': value for name, value in attention.items()})
        return perception


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


class _Validation:
    """The validation under way, for scripts that call ``accuracy()`` themselves (timm's, up to 1.0.29 at least)."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.attention_logits: torch.Tensor | None = None
        self.sums: dict[str, float] = {}
        self.num_samples = 0

    def take(self, batch_size: int) -> torch.Tensor | None:
        """Return the attention logits of the batch just evaluated, once."""
        attention_logits, self.attention_logits = self.attention_logits, None
        if attention_logits is None or len(attention_logits) != batch_size:
            return None  # another model's batch, or predictions of augmented copies put together
        return attention_logits

    def add(self, accuracies: dict[str, torch.Tensor], batch_size: int) -> None:
        for name, accuracy in accuracies.items():
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                accuracy = reduce_tensor(accuracy, torch.distributed.get_world_size())
            self.sums[name] = self.sums.get(name, 0.0) + accuracy.item() * batch_size
        self.num_samples += batch_size


_validation = _Validation()


def extend_timm_metrics() -> None:
    """Let timm's metrics see the attention branch, and count attributes that are predicted right."""
    replace(timm.utils, 'accuracy', _accuracy)
    replace(timm.utils, 'update_summary', _update_summary)
    # a class, and one that derives from timm's; its validate.py, which has no task, takes it by one of these names
    for module in (timm.task, timm.task.evaluator):
        module.MultiLabelClassificationEvaluator = AttributeEvaluator  # type: ignore[attr-defined]


def _accuracy(
    timm_accuracy: Callable, output: torch.Tensor, target: torch.Tensor, topk: Any = (1,)
) -> list[torch.Tensor]:
    attention_logits = _validation.take(len(output))
    if attention_logits is not None:
        values = timm_accuracy(attention_logits, target, topk)
        _validation.add({f'attention_top{k}': value for k, value in zip(topk, values)}, len(output))
    return timm_accuracy(output, target, topk)


def _update_summary(
    timm_update: Callable, epoch: int, train_metrics: Any, eval_metrics: Any, *args: Any, **kwargs: Any
) -> None:
    term_log.add_to(epoch, train_metrics)
    if eval_metrics and _validation.num_samples:
        eval_metrics.update({name: total / _validation.num_samples for name, total in _validation.sums.items()})
        shown = {name: value for name, value in eval_metrics.items() if name.endswith(('top1', 'top5'))}
        accuracies = ', '.join(f'{name} {value:.2f}' for name, value in shown.items())
        _logger.info(f'Validation of epoch {epoch}, both branches: {accuracies}')
        _validation.begin()
    timm_update(epoch, train_metrics, eval_metrics, *args, **kwargs)
