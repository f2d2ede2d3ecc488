"""Baselines: what stands in an image where it is deleted, or not yet inserted."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import resolve_model_data_config

from ...errors import TimmAbnError, suggest

__all__ = ['BASELINES', 'Baseline', 'gaussian_blur', 'make_baseline']

BASELINES = ('mean', 'black', 'blur', 'linear')
BLUR_KERNEL_SIZE, BLUR_SIGMA = 11, 5.0  # Petsiuk et al., section 4.2 and their code

Baseline = str | torch.Tensor


def make_baseline(baseline: Baseline, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return baselines in the shape and type of ``images``; equal ones share memory.

    Args:
        baseline: 'mean', zeros of the normalised input, which is the mean colour; 'black', a pixel of 0 after the
            model's normalisation; 'blur', the images under a Gaussian blur; 'linear', zeros where nothing is left to
            interpolate from (``imputation``); or a tensor that can be broadcast to ``images``, such as other
            images, normalised.
        model: Its ``pretrained_cfg`` gives the normalisation, which only 'black' needs.
        images: Normalised images, shape (B, C, H, W).

    Raises:
        TimmAbnError: There is no such baseline, or it does not fit the images or the model.
    """
    if isinstance(baseline, torch.Tensor):
        return _given(baseline, images)
    if baseline in ('mean', 'linear'):
        return images.new_zeros(1).expand(images.shape)
    if baseline == 'black':
        return images.new_tensor(_black(model, images.shape[1]))[:, None, None].expand(images.shape)
    if baseline == 'blur':
        return gaussian_blur(images)
    otherwise = f'there are {", ".join(map(repr, BASELINES))}, or pass a tensor'
    raise TimmAbnError(f'There is no baseline {baseline!r}; {suggest(str(baseline), BASELINES, otherwise)}.')


def _given(baseline: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    try:
        return baseline.to(images).expand(images.shape)
    except RuntimeError:
        raise TimmAbnError(
            f'baseline must have a shape that can be broadcast to that of the images, {tuple(images.shape)}, got '
            f'{tuple(baseline.shape)}.'
        ) from None


def _black(model: nn.Module, channels: int) -> list[float]:
    if not getattr(model, 'pretrained_cfg', None):
        raise TimmAbnError(
            "baseline 'black' needs a model with a pretrained_cfg, which gives its normalisation; pass a tensor."
        )
    config = resolve_model_data_config(model)
    mean, std = ([*config[key]] * (channels if len(config[key]) == 1 else 1) for key in ('mean', 'std'))
    if not len(mean) == len(std) == channels:
        raise TimmAbnError(
            f"baseline 'black' needs a mean and std for each of {channels} channels in the model's pretrained_cfg, got "
            f'{len(mean)} and {len(std)}; pass a tensor.'
        )
    return [-m / s for m, s in zip(mean, std)]


def gaussian_blur(images: torch.Tensor) -> torch.Tensor:
    """Return images under a Gaussian blur of kernel 11 and sigma 5, reflected at their borders.

    Rows, then columns, which is the same as one convolution with the outer product of the kernel and faster. (RISE's
    code pads with zeros instead, which darkens the borders.) Images that are too small to be reflected are refused.
    """
    radius = BLUR_KERNEL_SIZE // 2
    channels, height, width = images.shape[1:]
    if min(height, width) <= radius:
        raise TimmAbnError(
            f"baseline 'blur' needs images of more than {radius} pixels in height and width, got {height} x {width}."
        )
    # float32 at least: a kernel of float16 would not sum to 1
    dtype = images.dtype if images.dtype == torch.float64 else torch.float32
    places = torch.arange(-radius, radius + 1, dtype=dtype, device=images.device)
    kernel = torch.exp(-(places**2) / (2 * BLUR_SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1)
    padded = F.pad(images.to(dtype), (radius,) * 4, mode='reflect')
    rows = F.conv2d(padded, kernel, groups=channels)
    return F.conv2d(rows, kernel.transpose(2, 3), groups=channels).to(images.dtype)
