"""Any function as an explainer."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from .evaluation_copy import evaluation_copy
from .explainer import Explainer

__all__ = ['FunctionExplainer']


class FunctionExplainer(Explainer):
    """Calls a function of the model, images and targets, and checks what it returns.

    The function is given the model itself, and is responsible for what it does to it.
    """

    name = 'function'

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, torch.Tensor, torch.Tensor], Any]) -> None:
        """
        Args:
            model: Any model.
            function: Called with the model, images (B, C, H, W) and target classes (B,), on the device of the images;
                returns maps of shape (B, 1, h, w).
        """
        super().__init__(model)
        self._model, self._function = model, function
        self._predictor = evaluation_copy(model)

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        if targets is None:
            targets = self._predictor(images).argmax(dim=1)
        with torch.enable_grad():
            maps = self._function(self._model, images, targets)
        shape = tuple(maps.shape) if isinstance(maps, torch.Tensor) else None
        if shape is None or len(shape) != 4 or shape[:2] != (len(images), 1):
            name = getattr(self._function, '__name__', type(self._function).__name__)
            found = type(maps).__name__ if shape is None else shape
            raise TimmAbnError(f'{name} must return maps of shape ({len(images)}, 1, h, w), got {found}.')
        return maps.detach().to(images.device)
