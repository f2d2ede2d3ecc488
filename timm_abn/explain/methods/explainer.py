"""What all explainers have in common: images and target classes in, one map per image out."""

import inspect
from typing import ClassVar

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from ...records import num_answers

__all__ = ['Explainer', 'full_precision', 'method_title', 'of_classes', 'target_classes']


class Explainer:
    """Makes a map for each image of a batch that shows where a model looks.

    An explainer uses the model in evaluation mode and does not modify it: its mode, parameters and gradients stay the
    same, and it gets no hooks. If weights change later, in training, the explainer uses the new ones; after moving the
    model to another device or replacing its classifier, create a new explainer.

    Explainers may be called under ``torch.no_grad`` or ``torch.inference_mode``, and from several threads.

    Attributes:
        name: Its name for ``create_explainer``.
        layer: Layer of its maps: the path of a module in the backbone, such as 'layer4' (for an attention branch, the
            module whose features it reads), else 'input', 'last features' or 'all blocks'; '' if there is none.
        centred: Whether each map is returned minus its spatial mean, to be drawn where it is above 0.
        num_classes: Number of answers that targets can be (``timm_abn.records``); None if the model does not say.
    """

    name: ClassVar[str]
    layer: str = ''
    centred: bool = False

    @classmethod
    def takes_layer(cls, method: str | None = None) -> bool:
        """Return whether a layer can be chosen; ``method`` is that of another package."""
        return 'layer' in inspect.signature(cls.__init__).parameters

    def __init__(self, model: nn.Module) -> None:
        self.num_classes: int | None = num_answers(model) if hasattr(model, 'num_classes') else None

    def __call__(self, images: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """Return one map per image, shape (B, 1, h, w), in float32, on the device of the images.

        Args:
            images: Normalised images, shape (B, C, H, W).
            targets: Class, or task, that each map is to explain, shape (B,); by default the one with the greatest
                logit.

        Raises:
            TimmAbnError: Images or targets have the wrong shape, or there is no such class.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise TimmAbnError(
                f'images must be floats of shape (B, C, H, W), got {images.dtype} of shape {tuple(images.shape)}.'
            )
        with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode can have no gradients
            if targets is not None:
                targets = self._checked(targets, images)
            return self._maps(images, targets).float()

    def _checked(self, targets: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        if not isinstance(targets, torch.Tensor) or targets.shape != images.shape[:1] or targets.is_floating_point():
            found = f'{targets.dtype} of shape {tuple(targets.shape)}' if isinstance(targets, torch.Tensor) else targets
            raise TimmAbnError(f'targets must be integers of shape ({len(images)},), one class per image, got {found}.')
        if self.num_classes is not None and len(targets):
            low, high = int(targets.min()), int(targets.max())
            if low < 0 or high >= self.num_classes:
                wrong = low if low < 0 else high
                raise TimmAbnError(f'targets must be classes from 0 to {self.num_classes - 1}, got {wrong}.')
        return targets.to(images.device, torch.long)

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """Return the maps; called without gradients, which an explainer that needs them switches on."""
        raise NotImplementedError


def method_title(method: str, layer: str) -> str:
    """Return what sheets and pages call a method: 'grad_cam at layer4'."""
    return f'{method} at {layer}' if layer else method


def target_classes(logits: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
    """Return the classes to explain, shape (B,): those that were asked for, else the predicted ones."""
    return logits.argmax(dim=1) if targets is None else targets


def of_classes(maps: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return the map of each image that belongs to its class: of maps (B, K, h, w) and classes (B,), (B, 1, h, w)."""
    return maps[torch.arange(len(maps), device=maps.device), classes].unsqueeze(1)


def full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float32, or in float64 if that is what it is in, to be summed up."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
