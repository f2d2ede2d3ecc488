"""Targets that carry masks through timm's loaders and training loop, which know of one tensor per image.

Nothing between data set and loss looks into a target of several dimensions and of type uint8: it is stacked, and moved
to the device. The bytes of the label stand in planes of their own before the masks, so that its type survives.
"""

import math
from typing import Any

import torch

from .errors import TrainingError

__all__ = ['is_packed', 'pack_target', 'unpack_target']


def pack_target(label: Any, masks: torch.Tensor) -> torch.Tensor:
    """Return a target that holds both, of shape (planes of the label + T, H, W), uint8.

    Args:
        label: Class, or what is true of K attributes, shape (K,).
        masks: Shape (T, H, W), uint8; one that is 0 everywhere is missing.
    """
    label = torch.as_tensor(label)
    label = label.to(torch.int64 if label.ndim == 0 else torch.float32)
    content = label.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8)
    planes = torch.zeros(_num_planes(len(content), masks), *masks.shape[1:], dtype=torch.uint8)
    planes.view(-1)[: len(content)] = content
    return torch.cat([planes, masks])


def is_packed(target: torch.Tensor) -> bool:
    """Return whether a batch of targets holds masks."""
    return target.ndim == 4 and target.dtype == torch.uint8


def unpack_target(
    target: torch.Tensor,
    num_maps: int,
    num_labels: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the labels, of shape (B,) int64 or (B, K) float32, and the masks, of shape (B, T, H, W) uint8.

    Args:
        target: Stacked results of ``pack_target``.
        num_maps: Number of masks per image (T).
        num_labels: Number of attributes (K); None for a class.

    Raises:
        TrainingError: The target has another number of masks.
    """
    size = 8 if num_labels is None else 4 * num_labels
    num_planes = _num_planes(size, target)
    if target.shape[1] != num_planes + num_maps:
        raise TrainingError(
            f'the network has {num_maps} attention maps, but the data {target.shape[1] - num_planes} masks per image.'
        )
    content = target[:, :num_planes].flatten(1)[:, :size].clone(memory_format=torch.contiguous_format)
    labels = content.view(torch.int64).squeeze(1) if num_labels is None else content.view(torch.float32)
    return labels, target[:, num_planes:]


def _num_planes(size: int, masks: torch.Tensor) -> int:
    return math.ceil(size / (masks.shape[-2] * masks.shape[-1]))
