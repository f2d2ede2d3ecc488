"""Checks of arguments that all metrics share, and of which maps hold any information."""

import torch
import torch.nn as nn

from ...errors import TimmAbnError

__all__ = [
    'check_evaluation_mode',
    'check_images',
    'check_maps',
    'check_masks',
    'check_positive',
    'check_predictions',
    'map_problems',
    'usable_maps',
]


def usable_maps(maps: torch.Tensor) -> torch.Tensor:
    """Return which maps (B, 1, h, w) are neither flat nor hold a NaN or an infinity, shape (B,), bool.

    A map is flat if its values differ by rounding alone, by less than 1e-5 of the largest, as in ``normalize_maps``.
    """
    flattened = maps.flatten(1)
    low, high = flattened.amin(dim=1), flattened.amax(dim=1)
    contrast = high - low > 1e-5 * torch.maximum(high.abs(), low.abs())
    return contrast & flattened.isfinite().all(dim=1)


def map_problems(maps: torch.Tensor) -> list[str]:
    """Return for each map why it says nothing, in a few words; '' for one that does."""
    usable, finite = usable_maps(maps).tolist(), maps.flatten(1).isfinite().all(dim=1).tolist()
    return [
        '' if is_usable else 'flat map' if is_finite else 'NaN or infinity in the map'
        for is_usable, is_finite in zip(usable, finite)
    ]


def check_positive(name: str, value: object) -> None:
    """Raise TimmAbnError unless the argument ``name`` is a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TimmAbnError(f'{name} must be a whole number of 1 or more, got {value!r}.')


def check_predictions(predictions: torch.Tensor) -> None:
    """Raise TimmAbnError unless predictions (B, K) are finite: of NaN nothing is the most probable class."""
    wrong = (~predictions.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if wrong:
        raise TimmAbnError(
            f'the model predicts NaN or infinity for {len(wrong)} of {len(predictions)} images: its weights hold some, '
            'or are too large for their type.'
        )


def check_evaluation_mode(model: nn.Module) -> None:
    """Raise TimmAbnError if the model is in training mode, where its outputs differ and its statistics change."""
    if getattr(model, 'training', False):
        raise TimmAbnError('metrics need a model in evaluation mode; call model.eval() first.')


def check_images(images: torch.Tensor) -> None:
    """Raise TimmAbnError unless images are a batch of floats."""
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        raise TimmAbnError(
            f'images must be floats of shape (B, C, H, W), at least one, got {tuple(images.shape)} of {images.dtype}.'
        )


def check_maps(maps: torch.Tensor, batch_size: int) -> None:
    """Raise TimmAbnError unless there is one map for each of ``batch_size`` images."""
    is_map = maps.ndim == 4 and maps.shape[1] == 1 and maps.numel() > 0 and maps.is_floating_point()
    if not is_map or len(maps) != batch_size:
        raise TimmAbnError(
            f'maps must be floats of shape ({batch_size}, 1, h, w), one per image, got {tuple(maps.shape)} of '
            f'{maps.dtype}.'
        )


def check_masks(maps: torch.Tensor, masks: torch.Tensor) -> None:
    """Raise TimmAbnError unless there is one mask and one map per image."""
    if masks.ndim != 4 or masks.shape[1] != 1 or masks.dtype != torch.bool or masks.numel() == 0:
        raise TimmAbnError(f'masks must be bool of shape (B, 1, H, W), got {tuple(masks.shape)} of {masks.dtype}.')
    check_maps(maps, len(masks))
