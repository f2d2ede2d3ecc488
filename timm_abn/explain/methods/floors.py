"""What a method has to be better than: random maps, and on photos, whose objects stand there, the middle."""

import zlib

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from .explainer import Explainer

__all__ = ['FLOORS', 'CentreExplainer', 'RandomExplainer']

FLOORS = ('random', 'centre')


class RandomExplainer(Explainer):
    """Uniform in [0, 1), place by place, at ``size``; drawn anew for each image, always the same for the same image."""

    name = 'random'

    def __init__(self, model: nn.Module, seed: int = 0, size: tuple[int, int] = (14, 14)) -> None:
        super().__init__(model)
        self._seed, self._size = seed, size

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        maps = torch.empty(len(images), 1, *self._size)
        for image, one_map in zip(images.cpu().contiguous(), maps):
            # the pixels are the seed: an image has the same map in any batch
            content = zlib.crc32(image.view(torch.uint8).numpy().tobytes(), self._seed)
            one_map.uniform_(generator=torch.Generator().manual_seed(content))
        return maps.to(images.device)


class CentreExplainer(Explainer):
    """A Gaussian, the same for all images, of their size: ``exp(-d^2 / (2 sigma^2))``, 1 in the middle.

    ``sigma`` is its standard deviation, in heights and in widths of the image.
    """

    name = 'centre'

    def __init__(self, model: nn.Module, sigma: float = 0.25) -> None:
        super().__init__(model)
        if not sigma > 0:
            raise TimmAbnError(f'sigma must be more than 0, got {sigma}.')
        self._sigma = sigma

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        sides = []
        for length in images.shape[2:]:
            distance = (2 * torch.arange(length, device=images.device) + 1 - length) / (2 * length)
            sides.append(torch.exp(-(distance**2) / (2 * self._sigma**2)))
        return torch.outer(*sides).repeat(len(images), 1, 1, 1)
