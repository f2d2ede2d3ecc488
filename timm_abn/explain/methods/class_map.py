"""The class maps that a model makes while it predicts."""

from typing import Any

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from ...models.cam_models import ClassActivationMapping
from ...networks.split_network import SplitNetwork
from .evaluation_copy import evaluation_copy
from .explainer import Explainer

__all__ = ['ClassMapExplainer']


class ClassMapExplainer(Explainer):
    """The class map of the target class, of any sign, from the attention branch or from a CAM model of the package.

    Other models are refused.
    """

    name = 'class_map'

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if not isinstance(model, (SplitNetwork, ClassActivationMapping)):
            raise TimmAbnError(
                f"'class_map' needs a model that makes class maps (ABN, CAM), got {type(model).__name__}; "
                "'cam' makes those of other models."
            )
        self._model: Any = evaluation_copy(model)

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        explanation = self._model.explain(images)
        return explanation.class_map(targets)
