"""The class maps that a model makes while it predicts."""

from typing import Any

import torch
import torch.nn as nn

from ...attached.network import AttachedNet
from ...errors import TimmAbnError
from ...maps.operations import less_mean
from ...models.cam_models import ClassActivationMapping
from ...networks.split_network import SplitNetwork
from ...records import answers, are_exclusive
from .evaluation_copy import evaluation_copy
from .explainer import Explainer, target_classes

__all__ = ['ClassMapExplainer']


class ClassMapExplainer(Explainer):
    """The class map of the target class, less its mean, from the attention branch or from a CAM model of the package.

    The mean over the places is the branch's logit of the class, or the model's, and says nothing of any place. Of an
    attached network it is the evidence of its head. Other models are refused.
    """

    name, centred = 'class_map', True

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if not isinstance(model, (SplitNetwork, AttachedNet, ClassActivationMapping)):
            raise TimmAbnError(
                f"'class_map' needs a model with class maps (ABN, CAM, attached), got {type(model).__name__}; "
                "'cam' makes them for other models."
            )
        self._model: Any = evaluation_copy(model)
        self.layer = str(self._model.config.split) if isinstance(model, SplitNetwork) else 'last features'

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        model = self._model
        if not isinstance(model, AttachedNet):
            return less_mean(model.explain(images).class_map(targets))
        seen = model.look(images, with_cut=False)
        logits = answers(model.forward_head(seen.features), are_exclusive(model)) if targets is None else seen.last
        return less_mean(model.class_map(seen.last, target_classes(logits, targets)))
