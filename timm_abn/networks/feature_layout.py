"""How a backbone lays out its features, and the way from there to maps and back."""

import math

import torch
import torch.nn as nn
from torch.jit import Final

from ..split import Split, SplitError

__all__ = ['FeatureLayout', 'feature_layout']


class FeatureLayout(nn.Module):
    """Translates between a backbone's layout of features and maps of shape (B, C, h, w)."""

    layout: Final[str]
    num_prefix_tokens: Final[int]
    reduction: Final[int]
    pads: Final[bool]

    def __init__(
        self,
        layout: str = 'NCHW',
        num_prefix_tokens: int = 0,
        reduction: int = 1,
        pads: bool = False,
    ) -> None:
        """
        Args:
            layout: 'NCHW', 'NHWC' or 'NLC' (tokens).
            num_prefix_tokens: Tokens before those of the image (class and register tokens), for 'NLC'.
            reduction: Pixels of the image per token, along one side, for 'NLC'.
            pads: Whether the backbone pads images to whole tokens (timm's ``dynamic_img_pad``), for 'NLC'.
        """
        super().__init__()
        self.layout = layout
        self.num_prefix_tokens = num_prefix_tokens
        self.reduction = reduction
        self.pads = pads

    def to_maps(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return features as (B, C, h, w), without prefix tokens; ``images`` tells the grid of tokens."""
        if self.layout == 'NLC':
            tokens = features[:, self.num_prefix_tokens :].transpose(1, 2)
            height, width = images.shape[2], images.shape[3]
            if self.pads:
                height, width = height + self.reduction - 1, width + self.reduction - 1
            height, width = height // self.reduction, width // self.reduction
            return tokens.reshape(tokens.shape[0], tokens.shape[1], height, width)
        if self.layout == 'NHWC':
            return features.permute(0, 3, 1, 2)
        return features

    def gate(self, features: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Return features multiplied by ``factor`` of shape (B, 1, h, w); prefix tokens are not changed."""
        if self.layout == 'NLC':
            factor = factor.flatten(2).transpose(1, 2)
            factor = nn.functional.pad(factor, (0, 0, self.num_prefix_tokens, 0), value=1.0)
        elif self.layout == 'NHWC':
            factor = factor.permute(0, 2, 3, 1)
        return features * factor

    def gate_around_mean(self, features: torch.Tensor, factor: torch.Tensor, is_hard: bool = False) -> torch.Tensor:
        """Return features whose distances to their mean over the places are multiplied by ``factor``.

        Args:
            features: Features in this layout; prefix tokens are not changed, and not part of the mean.
            factor: Shape (B, 1, h, w).
            is_hard: Leave the places where the factor is 0 out of the mean, so that nothing is known of them.
        """
        prefix = features[:, :0]
        places = [2, 3]
        if self.layout == 'NLC':
            prefix, features = features[:, : self.num_prefix_tokens], features[:, self.num_prefix_tokens :]
            factor = factor.flatten(2).transpose(1, 2)
            places = [1]
        elif self.layout == 'NHWC':
            factor = factor.permute(0, 2, 3, 1)
            places = [1, 2]
        if is_hard:
            seen = (factor != 0).to(features.dtype)
            mean = (features * seen).sum(dim=places, keepdim=True) / seen.sum(dim=places, keepdim=True).clamp(min=1)
        else:
            mean = features.mean(dim=places, keepdim=True)
        gated = mean + (features - mean) * factor
        return torch.cat([prefix, gated], dim=1) if self.layout == 'NLC' else gated

    def extra_repr(self) -> str:
        """Return what ``repr`` says in parentheses."""
        return f'{self.layout!r}, num_prefix_tokens={self.num_prefix_tokens}, reduction={self.reduction}'


def feature_layout(parts: Split) -> tuple[FeatureLayout, int]:
    """Return the layout of the features at a cut, and their channels.

    Raises:
        SplitError: They are neither maps nor tokens.
    """
    shape = parts.feature_shape
    if len(shape) == 2:
        num_prefix_tokens = parts.num_prefix_tokens
        height, width = parts.image_size
        reduction = round(math.sqrt(height * width / (shape[0] - num_prefix_tokens)))
        pads = bool(getattr(getattr(parts.feature_extractor, 'patch_embed', None), 'dynamic_img_pad', False))
        return FeatureLayout('NLC', num_prefix_tokens, reduction, pads), shape[1]
    if len(shape) != 3:
        raise SplitError(f'the features at {parts.path!r} have shape {shape}; a cut needs maps or tokens.')
    height, width = parts.image_size
    nchw, nhwc = (height / shape[axis] == width / shape[axis + 1] for axis in (1, 0))
    if nchw == nhwc:  # what a backbone says of its last features need not hold at the cut, but breaks a tie
        nhwc = getattr(parts.perception_branch, 'output_fmt', 'NCHW') == 'NHWC'
    return (FeatureLayout('NHWC'), shape[2]) if nhwc else (FeatureLayout(), shape[0])
