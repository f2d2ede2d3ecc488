"""The attention map that a network makes while it predicts."""

from typing import Any

import torch
import torch.nn as nn

from ...attached.network import AttachedNet
from ...errors import TimmAbnError
from ...networks.split_network import SplitNetwork
from .evaluation_copy import evaluation_copy
from .explainer import Explainer, of_classes

__all__ = ['AttentionExplainer']


class AttentionExplainer(Explainer):
    """The map that an Attention Branch Network multiplies its features by (paper, section 3.2), or a refined one.

    The first is the same for all classes; the second (of an ``AttachedNet`` with a refinement) is of the target class,
    gates nothing, and is of mean 0. Other models are refused. A network of several tasks has one map per task, and the
    one of the target task is returned. Nothing after the cut is run, except to find the tasks that are predicted.
    """

    name = 'attention'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        is_attached = isinstance(model, AttachedNet)
        trained = 'refinement' if is_attached else 'attention_branch'
        if not isinstance(model, (SplitNetwork, AttachedNet)) or getattr(model, trained) is None:
            raise TimmAbnError(
                "'attention' needs an Attention Branch Network, or a refined network (timm-abn attach), got "
                f'{type(model.backbone if isinstance(model, AttachedNet) else model).__name__}.'
            )
        self._network: Any = evaluation_copy(model)
        self._is_attached = is_attached
        self.centred = is_attached
        self.layer = 'last features' if is_attached else str(self._network.config.split)
        self._several = getattr(getattr(model, 'attention_branch', None), 'num_maps', 1) > 1

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        network = self._network
        if self._is_attached:
            return network.explain(images, targets, class_maps=False).attention_map
        if self._several and targets is None:
            explanation = network.explain(images)
            return of_classes(explanation.attention_map, explanation.logits.argmax(dim=1))
        attention_map = network.attention_map(network.extract(images), images, None)
        return of_classes(attention_map, targets) if self._several else attention_map  # type: ignore[arg-type]
