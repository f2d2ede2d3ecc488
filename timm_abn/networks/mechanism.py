"""The attention mechanism (paper, section 3.2), in whatever layout a backbone has its features."""

from typing import Dict, Optional, Tuple

import torch
import torch.nn as nn
from torch.jit import Final

from ..errors import TimmAbnError
from .choices import MECHANISMS
from .gated_features import GatedFeatures, gate_each

__all__ = ['MECHANISMS', 'FeatureLayout', 'Mechanism', 'check_choice']


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

    def extra_repr(self) -> str:
        """Return what ``repr`` says in parentheses."""
        return f'{self.layout!r}, num_prefix_tokens={self.num_prefix_tokens}, reduction={self.reduction}'


class Mechanism(nn.Module):
    """Applies an attention map to features.

    ``residual`` (paper, Eq. 2, the default): ``features * (1 + attention_map)``. ``product`` (Eq. 1):
    ``features * attention_map``. Only the small factor is computed twice; the features are read and written once.
    """

    residual: Final[bool]

    def __init__(self, mechanism: str = 'residual', layout: Optional[FeatureLayout] = None) -> None:
        """
        Args:
            mechanism: 'residual' or 'product'.
            layout: Layout of the features; (B, C, h, w) if not given.

        Raises:
            ValueError: There is no such mechanism.
        """
        super().__init__()
        check_choice('mechanism', mechanism, MECHANISMS)
        self.residual = mechanism == 'residual'
        self.layout = layout if layout is not None else FeatureLayout()

    def forward(
        self,
        features: torch.Tensor,
        attention_map: torch.Tensor,
        num_maps: int = 1,
        convolved: Optional[Dict[str, torch.Tensor]] = None,
    ) -> torch.Tensor:
        """Return gated features, in the layout of ``features``; of several maps with a leading dimension B * T.

        Args:
            features: Features of the extractor.
            attention_map: Shape (B, 1, h, w), or (B, T, h, w): the T results of an image follow each other.
            num_maps: Number of maps (T).
            convolved: Where gated features may be lazy: what keeps the results of their shared convolutions (see
                ``GatedFeatures``).
        """
        factor = self.factor(attention_map)
        if convolved is not None and not torch.jit.is_scripting():
            return GatedFeatures.create(features, factor, convolved)
        if num_maps == 1:
            return self.layout.gate(features, factor)
        if self.layout.layout == 'NCHW':
            return gate_each(features, factor)
        return self.layout.gate(features.repeat_interleave(num_maps, dim=0), factor.flatten(0, 1).unsqueeze(1))

    def factor(self, attention_map: torch.Tensor) -> torch.Tensor:
        """Return what features are multiplied by, in the shape of ``attention_map``."""
        return 1.0 + attention_map if self.residual else attention_map

    def extra_repr(self) -> str:
        """Return what ``repr`` says in parentheses."""
        return 'residual' if self.residual else 'product'


def check_choice(name: str, value: str, choices: Tuple[str, ...]) -> None:
    """Raise TimmAbnError unless the argument ``name`` has one of its values."""
    if value not in choices:
        raise TimmAbnError(f'{name} must be one of {", ".join(map(repr, choices))}, got {value!r}.')
