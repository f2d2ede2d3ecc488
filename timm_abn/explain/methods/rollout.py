"""Attention rollout (Abnar & Zuidema, ACL 2020, arXiv 2005.00928): how tokens mix on their way through the blocks."""

import threading
from typing import Any

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from ...split import family_of
from .explainer import Explainer, full_precision
from .halves import CUT, halves_of

__all__ = ['RolloutExplainer']


class RolloutExplainer(Explainer):
    """The product over the blocks of ``(A + I) / 2``, where A is the attention of a block, averaged over its heads.

    The map is the share of each image token in what the classifier reads: the class token, or the mean of the image
    tokens where these are pooled. It is the same for all classes, but follows the target task's attention map in an
    Attention Branch Network of several tasks. What the mechanism does to the tokens is not part of it. Models whose
    tokens do not attend to all others in each block (all but ViT, DeiT) are refused.
    """

    name, layer = 'rollout', 'all blocks'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._halves = halves_of(model, CUT)
        perception, layout = self._halves.perception, self._halves.layout
        self._product = _Product()
        modules = [module for half in (self._halves.extractor, perception) for module in _attention_of(half)]
        if layout.layout != 'NLC' or not modules or any(self._halves.per_image):  # tokens of other streams
            raise self._refusal()
        for module in modules:
            module.fused_attn = False  # the fused kernel does not tell its weights
            module.attn_drop = self._product
        self._reads_class_token = layout.num_prefix_tokens > 0 and perception.global_pool == 'token'

    def _refusal(self) -> TimmAbnError:
        family = family_of(self._halves.perception).__name__
        return TimmAbnError(f"'rollout' needs tokens that attend to all others in each block, {family} has none.")

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        halves = self._halves
        targets = halves.targets(images, targets)
        self._product.begin()
        try:
            features = halves.extract(images, targets)
            halves.forward_perception(features)
        finally:
            product = self._product.end()
        if product is None or product.shape[1:] != (features.x.shape[1], features.x.shape[1]):
            raise self._refusal()
        prefix = halves.layout.num_prefix_tokens
        rows = product[:, :1] if self._reads_class_token else product[:, prefix:].mean(dim=1, keepdim=True)
        return halves.layout.to_maps(rows.transpose(1, 2), images)


class _Product(nn.Module):
    """Stands where attention weights pass, and multiplies them up; each thread has a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def begin(self) -> None:
        """Begin a product."""
        self._local.product, self._local.running = None, True

    def end(self) -> torch.Tensor | None:
        """Return the product, shape (B, N, N), if there is one, and forget it."""
        product, self._local.product, self._local.running = self._local.product, None, False
        return product

    def forward(self, attention: torch.Tensor) -> torch.Tensor:
        """Return ``attention``, shape (B, heads, N, N)."""
        if getattr(self._local, 'running', False):
            mean = full_precision(attention).mean(dim=1)
            mixed = (mean + torch.eye(mean.shape[1], device=mean.device, dtype=mean.dtype)) / 2
            self._local.product = mixed if self._local.product is None else mixed @ self._local.product
        return attention


def _attention_of(half: Any) -> list[Any]:
    """Return the modules of the blocks that compute attention weights, and can be asked for them."""
    blocks = getattr(half, 'blocks', nn.ModuleList())
    return [module for module in blocks.modules() if hasattr(module, 'fused_attn') and hasattr(module, 'attn_drop')]
