"""Arithmetic on maps: to another size, to the range [0, 1], and over images in colour."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..errors import TimmAbnError
from .colormaps import DIVERGING_COLORMAP, colormap_table

__all__ = [
    'INTERPOLATIONS',
    'blend_maps',
    'centre_maps',
    'less_mean',
    'normalize_maps',
    'overlay_maps',
    'upsample_maps',
]

INTERPOLATIONS = ('bilinear', 'bicubic')


def upsample_maps(maps: torch.Tensor, size: Sequence[int], interpolation: str = 'bilinear') -> torch.Tensor:
    """Return maps (B, T, h, w) at another size, shape (B, T, H, W), in the range of their originals, as float32 or 64.

    Pixels are areas, as in images (``align_corners=False``); where a map shrinks, it is averaged. An ``interpolation``
    that is neither 'bilinear' nor 'bicubic', and a size that is not positive, are refused.
    """
    if interpolation not in INTERPOLATIONS:
        raise TimmAbnError(
            f'interpolation must be one of {", ".join(map(repr, INTERPOLATIONS))}, got {interpolation!r}.'
        )
    height, width = size
    if height < 1 or width < 1:
        raise TimmAbnError(f'size must be a positive height and width, got {tuple(size)}.')
    maps = maps if maps.dtype == torch.float64 else maps.float()
    shrinks = height < maps.shape[2] or width < maps.shape[3]
    resized = F.interpolate(maps, (height, width), mode=interpolation, align_corners=False, antialias=shrinks)
    # bicubic overshoots, and an attention map outside [0, 1] would be none
    return resized.clamp(maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True))


def normalize_maps(maps: torch.Tensor, value_range: tuple[float, float] | None = None) -> torch.Tensor:
    """Return maps (B, T, h, w) stretched to [0, 1], in float32 or float64, one by one; a flat map becomes 0.

    If there is a ``value_range``, its ends become 0 and 1 in all maps alike, and values beyond are clamped.
    """
    maps = maps if maps.dtype == torch.float64 else maps.float()
    if value_range is None:
        low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    else:
        low, high = maps.new_tensor(value_range)
        maps = maps.clamp(low, high)
    # of halves, whose differences are finite; the quotient is the same
    maps, low, high = maps / 2, low / 2, high / 2
    # differences that are only rounding must not be blown up to look like attention
    contrast = high - low > 1e-5 * torch.maximum(high.abs(), low.abs())
    return torch.where(contrast, (maps - low) / torch.where(contrast, high - low, 1.0), 0.0)


def less_mean(maps: torch.Tensor) -> torch.Tensor:
    """Return maps (B, T, h, w) less their mean over the places, in float32 or float64; a flat one becomes 0."""
    maps = maps if maps.dtype == torch.float64 else maps.float()
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    # rounding must not be all that is left of a map
    contrast = high - low > 1e-5 * torch.maximum(high.abs(), low.abs())
    return torch.where(contrast, maps - maps.mean(dim=(2, 3), keepdim=True), 0.0)


def centre_maps(maps: torch.Tensor) -> torch.Tensor:
    """Return maps of both signs in [0, 1] one by one, with 0 at 0.5 and the greatest magnitude at 0 or 1.

    A map that is 0 everywhere becomes 0.5.
    """
    maps = maps if maps.dtype == torch.float64 else maps.float()
    limit = maps.abs().amax(dim=(2, 3), keepdim=True)
    return 0.5 + maps / torch.where(limit > 0, limit, 1.0) / 2


def overlay_maps(
    images: torch.Tensor,
    maps: torch.Tensor,
    alpha: float = 0.5,
    colormap: str = 'viridis',
    interpolation: str = 'bilinear',
    normalize: bool = True,
) -> torch.Tensor:
    """Return images with maps of any size laid over them in colour, shape (B, 3, H, W), in the type of ``images``.

    All but ``images`` and ``maps`` (B, 1, h, w) is that of ``Explanation.overlay``.
    """
    height, width = images.shape[2:]
    if normalize:
        maps = centre_maps(maps) if colormap == DIVERGING_COLORMAP else normalize_maps(maps)
    return blend_maps(images, upsample_maps(maps, (height, width), interpolation), alpha, colormap)


def blend_maps(
    images: torch.Tensor,
    maps: torch.Tensor,
    alpha: float = 0.5,
    colormap: str = 'viridis',
) -> torch.Tensor:
    """Return images with maps of the same size laid over them in colour, in the type of ``images``.

    Images have shape (B, 3, H, W) or (B, 1, H, W), floats in [0, 1] or uint8; maps (B, 1, H, W) are clamped to [0, 1].
    Another shape, and an opacity ``alpha`` outside of [0, 1], are refused.
    """
    batch, channels, height, width = images.shape
    if channels not in (1, 3) or maps.shape != (batch, 1, height, width):
        raise TimmAbnError(
            f'images must have shape (B, 3, H, W) or (B, 1, H, W) and maps (B, 1, H, W), got {tuple(images.shape)} '
            f'and {tuple(maps.shape)}.'
        )
    if not 0.0 <= alpha <= 1.0:
        raise TimmAbnError(f'alpha must be in [0, 1], got {alpha}.')
    is_bytes = images.dtype == torch.uint8
    if not is_bytes and not (images.is_floating_point() and bool(((images >= 0) & (images <= 1)).all())):
        raise TimmAbnError(
            'images must be uint8, or floats in [0, 1] (timm_abn.data.images.denormalize undoes a normalisation), '
            f'got {images.dtype} in [{images.min().item():.4g}, {images.max().item():.4g}].'
        )
    colors = colormap_table(colormap).to(maps.device)
    levels = (maps[:, 0].nan_to_num().clamp(0, 1) * 255).round().int()
    blended = torch.empty((batch, 3, height, width), dtype=images.dtype, device=images.device)
    for channel in range(3):  # one at a time: a photo of 100 megapixels would need 1.2 GB for each float copy
        color = colors[:, channel].float()[levels] / (1 if is_bytes else 255)
        mixed = torch.lerp(images[:, channel % channels].float(), color, alpha)
        blended[:, channel] = mixed.round() if is_bytes else mixed
    return blended
