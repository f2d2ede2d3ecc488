"""Random maps: the floor that every method has to be better than."""

import zlib

import torch
import torch.nn as nn

from .explainer import Explainer

__all__ = ['RandomExplainer']


class RandomExplainer(Explainer):
    """Uniform in [0, 1), place by place; drawn anew for each image, always the same for the same image."""

    name = 'random'

    def __init__(self, model: nn.Module, seed: int = 0, size: tuple[int, int] = (14, 14)) -> None:
        """
        Args:
            model: Any model; it is not looked at.
            seed: Of the draws.
            size: Height and width of the maps.
        """
        super().__init__(model)
        self._seed, self._size = seed, size

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        maps = torch.empty(len(images), 1, *self._size)
        for image, one_map in zip(images.cpu().contiguous(), maps):
            # the pixels are the seed: an image has the same map in any batch
            content = zlib.crc32(image.view(torch.uint8).numpy().tobytes(), self._seed)
            one_map.uniform_(generator=torch.Generator().manual_seed(content))
        return maps.to(images.device)
