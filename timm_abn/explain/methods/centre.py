"""A Gaussian in the middle: the floor that a method has to be better than on photos, whose objects stand there."""

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from .explainer import Explainer

__all__ = ['CentreExplainer']


class CentreExplainer(Explainer):
    """The same map for all images, of their size: ``exp(-d^2 / (2 sigma^2))``, 1 in the middle."""

    name = 'centre'

    def __init__(self, model: nn.Module, sigma: float = 0.25) -> None:
        """
        Args:
            model: Any model; it is not looked at.
            sigma: Standard deviation, in heights and in widths of the image.

        Raises:
            TimmAbnError: ``sigma`` is not positive.
        """
        super().__init__(model)
        if not sigma > 0:
            raise TimmAbnError(f'sigma must be more than 0, got {sigma}.')
        self._sigma = sigma

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        rows, columns = (self._along(length, images.device) for length in images.shape[2:])
        return torch.outer(rows, columns).repeat(len(images), 1, 1, 1)

    def _along(self, length: int, device: torch.device) -> torch.Tensor:
        distance = (2 * torch.arange(length, device=device) + 1 - length) / (2 * length)
        return torch.exp(-(distance**2) / (2 * self._sigma**2))
