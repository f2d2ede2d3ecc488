"""What crosses a cut: features, which an attention map gates, and side inputs, which pass ungated."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

__all__ = ['Crossing', 'Features', 'as_features', 'repeat_side_inputs']


class Features(NamedTuple):
    """What the first half of a backbone hands to the second.

    Attributes:
        x: The features, which an attention map gates.
        side_inputs: What else the second half reads: class tokens, rotary embeddings, other streams, a bias of
            attention scores. Most families have none.
    """

    x: torch.Tensor
    side_inputs: list[torch.Tensor]


# what a half returns, and its other half is called with: features alone where there are no side inputs
Crossing = torch.Tensor | Features


def as_features(crossing: Crossing) -> Features:
    """Return what crosses a cut as ``Features``."""
    return crossing if isinstance(crossing, Features) else Features(crossing, [])


def repeat_side_inputs(side_inputs: list[torch.Tensor], per_image: Sequence[bool], count: int) -> list[torch.Tensor]:
    """Return the side inputs, which may have a row ``per_image``, of ``count`` features of each image in succession."""
    return [
        tensor.repeat_interleave(count, dim=0) if has_rows and count > 1 else tensor
        for tensor, has_rows in zip(side_inputs, per_image)
    ]
