"""Recipro-CAM (Byun & Lee 2022, arXiv 2209.14074): what the model says of one place alone, without gradients."""

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from ...maps.operations import normalize_maps
from .explainer import Explainer, full_precision, target_classes
from .halves import CUT, halves_of

__all__ = ['ReciproCamExplainer']

_GAUSSIAN = (1 / 4, 1 / 2, 1 / 4)  # along each side; the paper's window is the product, from 1/16 to 1/4


class ReciproCamExplainer(Explainer):
    """Masks all but one place of the features, place by place, and asks the second half for the target's probability.

    What is left of the features is the paper's 3x3 Gaussian window around the place, cut off at the border. The map is
    the probability of the target by place, stretched from least to greatest to [0, 1]; a flat one becomes 0. Prefix
    tokens are kept. Features are those at the cut, before the last stage: behind it one place alone may say nothing (of
    EfficientNet-lite0, 4 of 8 photos have a flat map there). Where a layer norm reads the features first (ConvNeXt) it
    undoes the window's weights, not its zeros.
    """

    name = 'recipro_cam'

    def __init__(self, model: nn.Module, layer: str = CUT, batch_size: int = 64) -> None:
        """
        Args:
            model: A timm model, with or without an attention branch.
            layer: See ``GradCamExplainer``; by default 'cut'.
            batch_size: How many masked copies pass the second half at once; copies of several images share a batch.

        Raises:
            SplitError: There is no such module, or no exact cut there.
            TimmAbnError: An option has no meaning, or the model has no classes.
        """
        super().__init__(model)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise TimmAbnError(f'batch_size must be a whole number of 1 or more, got {batch_size!r}.')
        self._batch_size = batch_size
        self._halves = halves_of(model, layer)
        self.layer = self._halves.path

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        halves = self._halves
        targets = halves.targets(images, targets)
        features = halves.extract(images, targets)
        if targets is None:
            targets = target_classes(halves.forward_perception(features._replace(x=features.x.clone())), targets)
        height, width = halves.to_maps(features.x, images).shape[2:]
        masks = _windows((height, width)).to(features.x)
        scores = []
        for copies in torch.arange(len(images) * len(masks), device=images.device).split(self._batch_size):
            image, place = copies // len(masks), copies % len(masks)
            copied = halves.of_images(features, image)
            logits = halves.forward_perception(copied._replace(x=halves.layout.gate(copied.x, masks[place])))
            scores.append(halves.probabilities(full_precision(logits)).gather(1, targets[image].unsqueeze(1)))
        return normalize_maps(torch.cat(scores).reshape(len(images), 1, height, width))


def _windows(size: tuple[int, int]) -> torch.Tensor:
    """Return one mask per place, shape (h * w, 1, h, w)."""
    rows, columns = (_windows_along(length) for length in size)
    return torch.einsum('iy,jx->ijyx', rows, columns).reshape(-1, 1, *size)


def _windows_along(length: int) -> torch.Tensor:
    places = torch.arange(length)
    distance = (places[:, None] - places[None, :]).abs()
    return torch.where(distance == 0, _GAUSSIAN[1], torch.where(distance == 1, _GAUSSIAN[0], 0.0))
