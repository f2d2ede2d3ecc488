"""Features, and what travels beside them from one half of a backbone to the other."""

from collections.abc import Sequence

import torch

__all__ = ['Packed', 'beside_of_tasks', 'pack', 'unpack']

# what the first half of a backbone returns, and the second is given: features alone, or with tensors beside them
Packed = torch.Tensor | tuple[torch.Tensor, ...]


def unpack(packed: Packed) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the features, and what travels beside them."""
    if isinstance(packed, torch.Tensor):
        return packed, []
    features, *beside = packed
    return features, beside


def pack(features: torch.Tensor, beside: Sequence[torch.Tensor]) -> Packed:
    """Return what a second half is given."""
    return (features, *beside) if len(beside) else features


def beside_of_tasks(beside: Sequence[torch.Tensor], per_image: Sequence[bool], count: int) -> list[torch.Tensor]:
    """Return what travels beside features of which each image has several in succession.

    Args:
        beside: What travels beside the features of a batch.
        per_image: Whether each of it has a row for each image.
        count: How many features an image has.
    """
    rows_of = zip(beside, per_image)
    return [t.repeat_interleave(count, dim=0) if has_rows and count > 1 else t for t, has_rows in rows_of]
