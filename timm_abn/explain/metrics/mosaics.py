"""GridPG, the grid pointing game: in a mosaic of images, does the map of a class lie on the image of that class?

Böhle, Fritz, Schiele, "B-cos Networks: Alignment is All We Need for Interpretability", CVPR 2022, section 4 (Eq. 14).
No masks are needed, only images that a model classifies with confidence, so that the map is tested, not the model.
"""

import math
from typing import NamedTuple

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from ...maps.operations import upsample_maps
from .checks import check_evaluation_mode, check_images, check_positive, usable_maps
from .predictions import Explainer, predict

__all__ = [
    'CONFIDENCE',
    'Mosaics',
    'draw_members',
    'explain_mosaics',
    'grid_pointing_game',
    'join_mosaics',
    'make_mosaics',
]

CONFIDENCE = 0.8  # least probability of the label of an image that is shown
COUNT = 50


class Mosaics(NamedTuple):
    """Mosaics of n x n images, row by row.

    Attributes:
        images: Shape (M, C, n * H, n * W).
        classes: The class of each cell, shape (M, n * n); those of a mosaic are distinct.
        members: Which of the given images each cell shows, shape (M, n * n); images that are shown twice are not
            independent, which intervals must take into account.
    """

    images: torch.Tensor
    classes: torch.Tensor
    members: torch.Tensor


def make_mosaics(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    cells: int = 3,
    count: int = COUNT,
    min_confidence: float = CONFIDENCE,
    seed: int = 0,
    batch_size: int = 64,
) -> Mosaics:
    """Build mosaics of images that a model classifies correctly and with confidence, each of another class.

    For each mosaic classes are drawn without replacement, and then one image of each.

    Args:
        model: A classifier, in evaluation mode. It must take images of ``cells`` times the size.
        images: Normalised images, shape (N, C, H, W).
        labels: Their classes, shape (N,).
        cells: Images along each side of a mosaic (n).
        count: How many mosaics (M).
        min_confidence: Least probability of the label.
        seed: Seed of the draws, which depend on nothing else.
        batch_size: Images per forward pass.

    Raises:
        TimmAbnError: There are fewer than ``cells ** 2`` classes with such an image, or an argument is invalid.
    """
    check_evaluation_mode(model)
    check_images(images)
    for name, value in dict(cells=cells, count=count, batch_size=batch_size).items():
        check_positive(name, value)
    if labels.shape != (len(images),) or labels.is_floating_point():
        raise TimmAbnError(
            f'labels must be {len(images)} whole numbers, one per image, got {tuple(labels.shape)} of {labels.dtype}.'
        )
    labels = labels.cpu()
    confidence, predicted = predict(model, images, batch_size).cpu().max(dim=1)
    confidence = confidence.where(predicted == labels, 0)
    members = draw_members(labels, confidence, cells, count, min_confidence, seed)
    mosaics = join_mosaics(images[members.to(images.device)])
    return Mosaics(mosaics, labels[members].to(images.device), members)


def draw_members(
    labels: torch.Tensor,
    confidence: torch.Tensor,
    cells: int,
    count: int = COUNT,
    min_confidence: float = CONFIDENCE,
    seed: int = 0,
) -> torch.Tensor:
    """Return which images each mosaic shows, shape (M, n * n); see ``make_mosaics``.

    Args:
        labels: The class of each image, shape (N,).
        confidence: Its probability, shape (N,); 0 where another class is predicted.
        cells: Images along each side of a mosaic (n).
        count: How many mosaics (M).
        min_confidence: Least probability of the label.
        seed: Seed of the draws, which depend on nothing else.
    """
    chosen = (confidence >= min_confidence).nonzero()[:, 0]
    classes = labels[chosen].unique()
    if len(classes) < cells**2:
        raise TimmAbnError(
            f'Mosaics of {cells} x {cells} need images of {cells**2} classes that are predicted rightly with a '
            f'probability of {min_confidence} or more; of {len(labels)} images {len(chosen)} are, of {len(classes)} '
            f'classes.'
        )
    generator = torch.Generator().manual_seed(seed)
    by_class = {int(label): chosen[labels[chosen] == label] for label in classes}
    drawn_members = []
    for _ in range(count):
        drawn = classes[torch.randperm(len(classes), generator=generator)[: cells**2]].tolist()
        pools = [by_class[label] for label in drawn]
        drawn_members.append([int(pool[torch.randint(len(pool), (1,), generator=generator)]) for pool in pools])
    return torch.tensor(drawn_members)


def join_mosaics(images: torch.Tensor) -> torch.Tensor:
    """Return mosaics (M, C, n * H, n * W) of the images of their cells, row by row, shape (M, n * n, C, H, W)."""
    cells = math.isqrt(images.shape[1])
    rows = images.unflatten(1, (cells, cells))  # M, row, column, C, H, W
    return rows.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def explain_mosaics(explainer: Explainer, mosaics: Mosaics, batch_size: int = 64) -> torch.Tensor:
    """Return the map of each cell's class over the whole mosaic, shape (M, n * n, h, w)."""
    check_positive('batch_size', batch_size)
    num_cells = mosaics.classes.shape[1]
    targets = mosaics.classes.flatten()
    owners = torch.arange(len(mosaics.images), device=targets.device).repeat_interleave(num_cells)
    maps = [
        explainer(mosaics.images[owner], target).detach()
        for owner, target in zip(owners.split(batch_size), targets.split(batch_size), strict=True)
    ]
    return torch.cat(maps)[:, 0].unflatten(0, (-1, num_cells))


def grid_pointing_game(maps: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Return the share of the positive values of the map of class k that lies in cell k, shape (M, n * n), in [0, 1].

        L_k = sum over pixels p of cell k of max(M_k,p, 0) / sum over all pixels p of max(M_k,p, 0)

    A constant map would get 1 / n^2. Flat maps, those without a positive value, and those with a NaN
    or an infinity give NaN.

    Args:
        maps: Shape (M, n * n, h, w), map k for the class in cell k, row by row (see ``explain_mosaics``).
        size: Height and width of the mosaics, to which maps are upsampled bilinearly.

    Raises:
        TimmAbnError: The number of maps is not a square, or its root does not divide the size.
    """
    num_cells = maps.shape[1] if maps.ndim == 4 else 0
    cells = math.isqrt(num_cells)
    height, width = size
    if not cells or cells**2 != num_cells or height % cells or width % cells:
        raise TimmAbnError(
            f'maps must have shape (M, n * n, h, w) with an n that divides the size of the mosaics, {height} x '
            f'{width}, got {tuple(maps.shape)}.'
        )
    positive = upsample_maps(maps.detach(), (height, width)).clamp(min=0)
    by_cell = positive.unflatten(3, (cells, -1)).unflatten(2, (cells, -1)).sum(dim=(3, 5)).flatten(2)
    shares = by_cell.diagonal(dim1=1, dim2=2) / by_cell.sum(dim=2)
    return shares.masked_fill(~usable_maps(maps.flatten(0, 1)).view(shares.shape), float('nan'))
