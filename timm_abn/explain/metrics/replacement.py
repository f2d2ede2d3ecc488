"""Images of which more and more is replaced, in the order of a map, and what a model says of them.

The rank of each pixel is computed once. An image of which n pixels are replaced is then one ``torch.where`` of
rank < n, written into a buffer that all batches share: beside the forward pass of a network that costs next to nothing.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from ...maps.operations import upsample_maps
from .predictions import probability_function

__all__ = ['pixel_ranks', 'rank_places', 'scores_of_replaced']


def rank_places(values: torch.Tensor) -> torch.Tensor:
    """Return the place of each of the values (B, N) in falling order, from 0; equal ones keep their own order."""
    order = values.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(values.shape[1], dtype=torch.int32, device=values.device)
    return torch.empty_like(order, dtype=torch.int32).scatter_(1, order, places.expand_as(order))


def pixel_ranks(maps: torch.Tensor, size: Sequence[int], patch_size: int = 1) -> torch.Tensor:
    """Return the place of each pixel in falling order of a map, (B, 1, h, w) upsampled bilinearly to (B, 1, H, W).

    All pixels of a patch have its place, in the order of the mean of the map in each.
    """
    values = F.avg_pool2d(upsample_maps(maps, size), patch_size)
    ranks = rank_places(values.flatten(1)).view_as(values)
    return ranks.repeat_interleave(patch_size, dim=2).repeat_interleave(patch_size, dim=3)


@torch.no_grad()
def scores_of_replaced(
    model: nn.Module,
    images: torch.Tensor,
    replacements: torch.Tensor,
    ranks: torch.Tensor,
    counts: list[int],
    targets: torch.Tensor,
    batch_size: int,
    impute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the probabilities of the targets for images of which some pixels are replaced, shape (B, len(counts)).

    Pixels of an image (B, C, H, W) whose rank (B, 1, H, W) is below the count come from ``replacements``, of its
    shape; ``impute`` has the last word, told which those are. ``batch_size`` images pass the model at once, whichever
    image they were made from.
    """
    if not counts:
        return targets.new_empty((len(images), 0), dtype=torch.float32)
    probabilities_of = probability_function(model)
    total = len(images) * len(counts)
    limits = torch.tensor(counts, dtype=torch.int32, device=images.device).view(-1, 1, 1, 1)
    is_channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    buffer = torch.empty(
        (min(batch_size, total), *images.shape[1:]),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last if is_channels_last else torch.contiguous_format,
    )
    selected = torch.empty((len(buffer), *ranks.shape[1:]), dtype=torch.bool, device=images.device)
    targets_of_all = targets.repeat_interleave(len(counts))
    scores = []
    for start in range(0, total, batch_size):
        stop = min(start + batch_size, total)
        for index, steps, rows in _pieces(start, stop, len(counts)):
            torch.lt(ranks[index], limits[steps], out=selected[rows])
            torch.where(selected[rows], replacements[index], images[index], out=buffer[rows])
        batch = buffer[: stop - start]
        probabilities = probabilities_of(model(batch if impute is None else impute(batch, selected[: stop - start])))
        scores.append(probabilities.gather(1, targets_of_all[start:stop, None])[:, 0])
    return torch.cat(scores).view(len(images), len(counts))


def _pieces(start: int, stop: int, num_counts: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield what a batch holds of each image: its index, a slice of the counts, and their rows in the batch.

    The batch holds the rows from ``start`` to before ``stop`` of those of all images, ``num_counts`` per image.
    """
    for index in range(start // num_counts, (stop - 1) // num_counts + 1):
        before = index * num_counts
        first, last = max(start, before), min(stop, before + num_counts)
        yield index, slice(first - before, last - before), slice(first - start, last - start)
