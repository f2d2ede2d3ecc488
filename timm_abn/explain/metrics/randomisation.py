"""Does a map change when the network forgets what it learned about its classes?

After Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3, of which this is the first step: only
the head is reinitialised. A map that stays similar shows the image, not what was learned about it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn as nn

__all__ = ['random_head']


@contextlib.contextmanager
def random_head(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Reinitialise the classifier of a model, and the attention branch if there is one, while the block runs.

    Each tensor of weights is drawn from a Gaussian with its own mean and deviation, in place, so that existing
    explainers of the model use it. Afterwards all weights are restored bit for bit.

    Example:
        >>> with random_head(model):  # doctest: +SKIP
        ...     others = explainer(images, targets)
        >>> rank_correlation(maps, others)  # near 1: the map ignores what was learned  # doctest: +SKIP

    Args:
        model: A classifier; if it is not from timm, its last module with weights counts as the head.
        seed: Seed of the weights.
    """
    weights = _head_weights(model)
    kept = [tensor.detach().clone() for tensor in weights]
    generator = torch.Generator().manual_seed(seed)
    try:
        for tensor, values in zip(weights, kept):
            deviation, mean = torch.std_mean(values.float(), correction=0)
            _set(tensor, torch.randn(values.shape, generator=generator).to(values.device) * deviation + mean)
        yield
    finally:
        for tensor, values in zip(weights, kept):
            _set(tensor, values)


def _head_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the classifier, or classifiers, and of the attention branch."""
    network: Any = model
    found = network.get_classifier() if hasattr(model, 'get_classifier') else None
    heads = [*(found if isinstance(found, (tuple, list)) else [found]), getattr(model, 'attention_branch', None)]
    weights = {id(p): p for head in heads if isinstance(head, nn.Module) for p in head.parameters()}
    last = [list(module.parameters(recurse=False)) for module in model.modules()]
    return list(weights.values()) or next((own for own in reversed(last) if own), [])


def _set(tensor: torch.Tensor, values: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(values)
