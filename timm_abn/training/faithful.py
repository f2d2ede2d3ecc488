"""What training for faithful maps needs besides both predictions: what the network says of what its map keeps.

The paper's loss (Eq. 3) does not ask an attention map to be faithful, and it is not: a constant does as well. Here
the network looks a second time, at the image seen through its own map, so that a loss can ask that its prediction
stands. The idea is that of T-TAME (Ntrougkas et al., arXiv 2403.04523), which trains a separate branch after the fact.
It may look a third time, at the features where its map is not, so that a loss can ask that these say nothing; GAIN (Li
et al., CVPR 2018, arXiv 1802.10171) asks the same of images.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _NormBase

from ..errors import TimmAbnError

__all__ = [
    'BACKGROUNDS',
    'MapTraining',
    'TrainingOutput',
    'check_map_training',
    'complement_of',
    'drawn_share',
    'greatest_half',
    'keep_running_statistics',
    'mask_images',
]

BACKGROUNDS = ('blur', 'mean', 'mixed')
LEAST_SHARE = 0.05  # of the places that a map keeps, or leaves out, where it learns an order
SLOPE = 0.1  # of a map: how far from the limit a place is surely kept, or not


class TrainingOutput(NamedTuple):
    """What a network returns in training mode under ``train_maps``; the first two are those of every ABN.

    Attributes:
        logits: Shape (B, K).
        attention_logits: Shape (B, K).
        attention_map: Shape (B, 1, h, w), or (B, T, h, w).
        masked_logits: Logits of the image that the map keeps, shape (B, K); of several tasks (B, 1), that of the task
            whose map was used. None if it is not asked for.
        tasks: The task whose map counts, drawn for each image, shape (B,); None of a network with one map.
        flipped_map: The map of the image flipped from left to right, flipped back; None if it is not asked for.
        complement_logits: Logits of the features, or, of a map that does not gate, of the image, where the map is not,
            of the shape of ``masked_logits``; None if they are not asked for.
    """

    logits: torch.Tensor
    attention_logits: torch.Tensor
    attention_map: torch.Tensor
    masked_logits: torch.Tensor | None = None
    tasks: torch.Tensor | None = None
    flipped_map: torch.Tensor | None = None
    complement_logits: torch.Tensor | None = None


class MapTraining(nn.Module):
    """How a network in training looks at its own maps; it has no parameters, and nothing to save.

    Attributes:
        background: What takes the place of what the map does not keep; None to leave the masked image out.
        flips: Whether the map of the flipped image is wanted.
        complement: Whether the prediction from where the map is not is wanted.
    """

    def __init__(
        self,
        background: str | None = 'mixed',
        flips: bool = False,
        complement: bool = False,
    ) -> None:
        """
        Args:
            background: 'blur', the image under a Gaussian blur; 'mean', the mean colour; 'mixed', one of them, or
                another image of the batch, drawn for each image, so that no baseline is learned by heart.
            flips: Whether the map of the flipped image is wanted.
            complement: Whether the prediction from where the map is not is wanted.

        Raises:
            TimmAbnError: There is no such background.
        """
        super().__init__()
        if background is not None and background not in BACKGROUNDS:
            raise TimmAbnError(f'background must be one of {", ".join(map(repr, BACKGROUNDS))}, got {background!r}.')
        self.background = background
        self.flips = flips
        self.complement = complement

    def extra_repr(self) -> str:  # noqa: D102
        return f'background={self.background!r}, flips={self.flips}, complement={self.complement}'


def check_map_training(map_type: str, mechanism: Any, background: str | None, complement: bool) -> None:
    """Check that the maps of a network can be trained so.

    Args:
        map_type: 'sigmoid', or a kind whose values are not in [0, 1].
        mechanism: The ``Mechanism`` of the network.
        background: See ``MapTraining``.
        complement: See ``MapTraining``.

    Raises:
        TimmAbnError: Maps are not in [0, 1], or the mechanism hides nothing.
    """
    if background is not None and map_type != 'sigmoid':
        raise TimmAbnError(
            f"images can be seen through maps in [0, 1] only: attention_map='sigmoid', not {map_type!r}."
        )
    if complement and map_type != 'sigmoid':
        raise TimmAbnError(f"only maps in [0, 1] have a complement: attention_map='sigmoid', not {map_type!r}.")
    if complement and mechanism.insertion == 'explaining':
        if background is None:
            raise TimmAbnError('complement of a map that explains needs a background, got None: images are masked.')
    elif complement and mechanism.residual:
        raise TimmAbnError("complement needs mechanism='product', got 'residual': Eq. 2 hides nothing.")


def mask_images(images: torch.Tensor, maps: torch.Tensor, background: str) -> torch.Tensor:
    """Return what maps keep of images, ``M * images + (1 - M) * background``, with gradients for the maps.

    Args:
        images: Normalised images, shape (B, C, H, W).
        maps: Shape (B, 1, h, w), in [0, 1]; upsampled bilinearly.
        background: One of ``BACKGROUNDS``.
    """
    kept = F.interpolate(maps, images.shape[2:], mode='bilinear', align_corners=False).to(images.dtype)
    return torch.lerp(_background(images, background), images, kept)


def complement_of(maps: torch.Tensor, hard: bool) -> torch.Tensor:
    """Return maps of where maps are not.

    Args:
        maps: Shape (B, T, h, w), in [0, 1].
        hard: Whether most places are exactly 0: these are the complement then, and nothing of what is kept is.
    """
    return (maps == 0).to(maps.dtype) if hard else 1 - maps


def drawn_share(maps: torch.Tensor) -> torch.Tensor:
    """Return maps that keep the greatest places of others, how many of them drawn for each image, with gradients.

    Between what is kept, near 1, and what is not, near 0, is a slope, so that places near the limit learn on which side
    of it they belong. Only the order of the places counts, as in deletion and insertion (RISE, arXiv 1806.07421).

    Args:
        maps: Shape (B, 1, h, w), in [0, 1].
    """
    places = maps.detach().flatten(1).float()
    share = LEAST_SHARE + (1 - 2 * LEAST_SHARE) * torch.rand(len(maps), 1, device=maps.device)
    limit = places.sort(dim=1, descending=True).values.gather(1, (share * places.shape[1]).long())
    return ((maps.float() - limit[:, :, None, None]) / SLOPE).sigmoid()


def greatest_half(maps: torch.Tensor) -> torch.Tensor:
    """Return maps that are 1 in the half of the places where others are greatest, and 0 elsewhere.

    Args:
        maps: Shape (B, 1, h, w).
    """
    ranks = maps.flatten(1).argsort(dim=1, descending=True).argsort(dim=1)
    return (ranks < ranks.shape[1] // 2).to(maps.dtype).view_as(maps)


@contextlib.contextmanager
def keep_running_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch norm use the statistics of each batch, and not remember them.

    In evaluation images are unmasked; statistics that masked ones take part in cost accuracy (0.4 to 1.3
    points of ABN-ResNet-20 on Fashion-MNIST). Gradient checkpointing is off meanwhile: it would compute anew once the
    statistics are remembered again.

    Args:
        network: In training mode.
    """
    norms: list[_NormBase] = [
        module for module in network.modules() if isinstance(module, _NormBase) and module.track_running_stats
    ]
    checkpointed: list[Any] = [module for module in network.modules() if getattr(module, 'grad_checkpointing', False)]
    for norm in norms:
        norm.track_running_stats = False
    for module in checkpointed:
        module.grad_checkpointing = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for module in checkpointed:
            module.grad_checkpointing = True


def _background(images: torch.Tensor, background: str) -> torch.Tensor:
    if background == 'mean':
        return torch.zeros_like(images)
    if background == 'blur':
        return _blur(images)
    choices = torch.stack([torch.zeros_like(images), _blur(images), images.roll(1, dims=0)])
    drawn = torch.randint(3 if len(images) > 1 else 2, (len(images),), device=images.device)  # one has no other
    return choices[drawn, torch.arange(len(images), device=images.device)]


def _blur(images: torch.Tensor) -> torch.Tensor:
    """Return images without detail: averaged over an eighth of their sides, and brought back smoothly."""
    size = [max(length // 8, 1) for length in images.shape[2:]]
    coarse = F.interpolate(images, size, mode='area')
    return F.interpolate(coarse, images.shape[2:], mode='bilinear', align_corners=False)
