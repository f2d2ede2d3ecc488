"""Refinement: evidence at a finer resolution, trained on photos to say what a prediction stands on.

    z = a n(up(evidence)) + out(g(3x3 g(3x3 [P1(features at the cut), up(P2(last features)), n(up(evidence))])))

P1 and P2 are 1x1 convolutions on channels standardised by fixed statistics, n takes the mean over the places off and
divides by the deviation, g is a norm and GELU. ``out`` starts at zero, so that z starts as the evidence.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ['Refinement', 'standardize_maps']

WIDTH = 64


def standardize_maps(maps: torch.Tensor) -> torch.Tensor:
    """Return maps (B, T, h, w) of mean 0 and deviation 1 over the places, one by one; a flat map becomes 0."""
    deviation, mean = torch.std_mean(maps, dim=(2, 3), keepdim=True, correction=0)
    # what is only rounding must not be blown up to look like evidence
    is_flat = deviation <= 1e-5 * mean.abs()
    return torch.where(is_flat, 0.0, (maps - mean) / deviation.clamp(min=torch.finfo(maps.dtype).tiny))


class Refinement(nn.Module):
    """The trained part of an attached network: a map of one class, at the resolution of the cut."""

    if TYPE_CHECKING:  # buffers
        cut_mean: torch.Tensor
        cut_std: torch.Tensor
        last_mean: torch.Tensor
        last_std: torch.Tensor

    def __init__(
        self,
        cut_channels: int,
        last_channels: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            cut_channels: Of the features before the last stage.
            last_channels: Of the last features.
            device: Where to create parameters.
            dtype: Type of the parameters.
        """
        super().__init__()
        dd: dict[str, Any] = dict(device=device, dtype=dtype)
        for name, channels in (('cut', cut_channels), ('last', last_channels)):
            self.register_buffer(f'{name}_mean', torch.zeros(channels, 1, 1, **dd))
            self.register_buffer(f'{name}_std', torch.ones(channels, 1, 1, **dd))
        self.from_cut = nn.Conv2d(cut_channels, WIDTH, 1, **dd)
        self.from_last = nn.Conv2d(last_channels, WIDTH, 1, **dd)
        self.conv1 = nn.Conv2d(2 * WIDTH + 1, WIDTH, 3, padding=1, **dd)
        self.norm1 = nn.GroupNorm(1, WIDTH, **dd)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, **dd)
        self.norm2 = nn.GroupNorm(1, WIDTH, **dd)
        self.out = nn.Conv2d(WIDTH, 1, 1, **dd)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)
        self.scale = nn.Parameter(torch.ones((), **dd))  # a

    def forward(self, cut: torch.Tensor, last: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
        """Return z, shape (B, 1, H, W), of any value.

        Args:
            cut: Features before the last stage, shape (B, C, H, W).
            last: Last features, shape (B, D, h, w).
            evidence: Of the class to explain, shape (B, 1, h, w).
        """
        size = cut.shape[2:]
        start = standardize_maps(_resized(evidence, size)).to(cut.dtype)
        fine = self.from_cut((cut - self.cut_mean) / self.cut_std)
        coarse = _resized(self.from_last((last - self.last_mean) / self.last_std), size)
        x = torch.cat([fine, coarse, start], dim=1)
        x = F.gelu(self.norm1(self.conv1(x)))
        x = F.gelu(self.norm2(self.conv2(x)))
        return self.scale * start + self.out(x)

    def set_statistics(self, features: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Set the statistics of channels to those of batches of features, ``cut`` and ``last`` as in ``forward``."""
        moments = [
            [torch.stack([x.double().mean((2, 3)), x.double().square().mean((2, 3))]) for x in both]
            for both in features
        ]
        for name, own in zip(('cut', 'last'), zip(*moments)):
            mean, square = torch.cat(own, dim=1).mean(dim=1)[:, :, None, None]
            getattr(self, f'{name}_mean').copy_(mean)
            getattr(self, f'{name}_std').copy_((square - mean.square()).clamp(min=0).sqrt() + 1e-3)


def _resized(maps: torch.Tensor, size: torch.Size) -> torch.Tensor:
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size, mode='bilinear', align_corners=False)
