"""The terms of the training loss, one by one, in the log and summary of timm's script, which know their sum alone."""

import logging
from collections.abc import Mapping

import torch

__all__ = ['TermLog', 'describe_terms', 'term_log']

_logger = logging.getLogger(__name__)


class TermLog:
    """Means of the terms over an epoch, those of this process."""

    def __init__(self) -> None:
        self.begin({})

    def begin(self, weights: Mapping[str, float]) -> None:
        """Start over, without any batch; only terms that have a weight are counted."""
        self.weights = dict(weights)
        self.sums: dict[str, torch.Tensor] = {}
        self.num_samples: dict[str, int] = {}

    def watch(self, terms: Mapping[str, torch.Tensor], batch_size: int) -> None:
        """Count the terms of a batch, before they are weighted."""
        for name, term in terms.items():
            if name in self.weights:  # kept where it was computed, so that no device has to wait
                self.sums[name] = self.sums.get(name, 0) + term.float() * batch_size
                self.num_samples[name] = self.num_samples.get(name, 0) + batch_size

    def add_to(self, epoch: int, train_metrics: dict[str, float]) -> None:
        """Log the means of an epoch, add them to its metrics, and begin the next."""
        means = {name: (total / self.num_samples[name]).item() for name, total in self.sums.items()}
        if not means:
            return
        total = sum(self.weights[name] * value for name, value in means.items())
        parts = ' + '.join(_times(self.weights[name]) + f'{name} {value:.4g}' for name, value in means.items())
        self.begin(self.weights)
        _logger.info(f'Training of epoch {epoch}: loss {total:.4g} = {parts}')
        train_metrics.update({f'{name}_loss': value for name, value in means.items()})


def describe_terms(weights: Mapping[str, float]) -> str:
    """Return a loss in words, as the sum of its terms."""
    return ' + '.join(_times(weight) + name for name, weight in weights.items())


def _times(weight: float) -> str:
    return '' if weight == 1 else f'{weight:g} x '


term_log = TermLog()  # of the run in this process
