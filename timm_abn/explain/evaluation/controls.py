"""What a map has to be better than to be about its image: the mean of the same method's maps of other images.

That control looks at no pixel of the image, only at what it was predicted as. Each map counts alike: less its mean over
places, by its deviation, so that it is the order of places that is averaged. The map of the image itself is left out.
"""

import torch

from ..metrics import usable_maps

__all__ = ['FEWEST_OTHERS', 'MeanMaps']

FEWEST_OTHERS = 5  # of the same class; a mean of fewer is a map of these images, not of the class


class MeanMaps:
    """Sums of the maps of a method, class by class: whatever the number of images, one map of each class is kept."""

    def __init__(self) -> None:
        self._sums: dict[int, torch.Tensor] = {}
        self._counts: dict[int, int] = {}

    def add(self, maps: torch.Tensor, classes: list[int]) -> None:
        """Add maps, shape (B, 1, h, w), those that are neither flat nor hold a NaN."""
        values, usable = _standardised(maps)
        for index, is_usable, one_map in zip(classes, usable.tolist(), values):
            if is_usable:
                self._sums[index] = self._sums.get(index, 0) + one_map
                self._counts[index] = self._counts.get(index, 0) + 1

    def of_others(self, maps: torch.Tensor, classes: list[int]) -> tuple[torch.Tensor, list[bool]]:
        """Return for each of some maps that were added the mean over the others of its class.

        Returns:
            Maps, shape (B, 1, h, w), float64, NaN where there is no other map; and which of them are means over all
            other images, since fewer than five others are of the class.
        """
        values, usable = _standardised(maps)
        of_all: list[bool] = []
        found = []
        everything, number = sum(self._sums.values(), torch.zeros_like(values[0])), sum(self._counts.values())
        for index, is_usable, one_map in zip(classes, usable.tolist(), values):
            others = self._counts.get(index, 0) - is_usable
            of_all.append(others < FEWEST_OTHERS)
            total, others = (everything, number - is_usable) if of_all[-1] else (self._sums[index], others)
            found.append((total - one_map) / others if others else one_map * torch.nan)
        return torch.stack(found), of_all


def _standardised(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return maps with mean 0 and deviation 1 over places, those that say nothing 0 everywhere; and which do."""
    usable = usable_maps(maps)
    deviation, mean = torch.std_mean(maps.double(), dim=(1, 2, 3), keepdim=True, correction=0)
    values = (maps.double() - mean) / deviation
    return values.where(usable.view(-1, 1, 1, 1), 0), usable
