"""The attention mechanism (paper, section 3.2), in whatever layout a backbone has its features."""

from typing import Dict, Optional, Tuple

import torch
import torch.nn as nn
from torch.jit import Final

from ..errors import TimmAbnError
from .choices import MECHANISMS
from .feature_layout import FeatureLayout
from .gated_features import GatedFeatures, gate_each

__all__ = ['MECHANISMS', 'Mechanism', 'check_choice']


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
