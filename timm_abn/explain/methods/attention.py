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
    """The map that an Attention Branch Network multiplies its features by (paper, section 3.2), or of an attached one.

    The first is the same for all classes; the second (``AttachedNet``) is of the target class, and gates nothing.
    Other models are refused. A network of several tasks has one map per task, and the one of the target task is
    returned. Nothing after the cut is run, except to find the tasks that are predicted.
    """

    name = 'attention'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        is_attached = isinstance(model, AttachedNet)
        if not is_attached and (not isinstance(model, SplitNetwork) or model.attention_branch is None):
            raise TimmAbnError(
                f"'attention' needs an Attention Branch Network, or an attached one, got {type(model).__name__}."
            )
        self._network: Any = evaluation_copy(model)
        self._is_attached = is_attached
        self.layer = 'last features' if is_attached else str(self._network.config.split)
        self._several = not is_attached and self._network.attention_branch.num_maps > 1

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        network = self._network
        if self._is_attached:
            return network.explain(images, targets, class_maps=False).attention_map
        if self._several and targets is None:
            explanation = network.explain(images)
            return of_classes(explanation.attention_map, explanation.logits.argmax(dim=1))
        attention_map = network.attention_map(network.extract(images), images, None)
        return of_classes(attention_map, targets) if self._several else attention_map  # type: ignore[arg-type]
