"""Deletion and insertion of one photo, both by the mean colour: does the prediction hang on where a map points?"""

import dataclasses

import torch

from ..explain.metrics import replacement_curves, usable_maps
from .models import ServedModel
from .session import Session, target_of

__all__ = ['STEPS', 'Curves', 'curves_of']

STEPS = 16  # as few as show the shape: each is two forward passes


@dataclasses.dataclass(frozen=True)
class Curves:
    """The probability of a class while pixels are taken from a photo, or given back to it, in the order of a map."""

    fractions: list[float]  # of the pixels, from 0 to 1
    deletion: list[float]  # while they are replaced by the mean colour; lower is better
    insertion: list[float]  # while they are given back; higher is better
    deletion_area: float
    insertion_area: float

    @property
    def gain(self) -> float:
        """The symmetric relevance gain: higher is better, a map of noise has 0."""
        return self.insertion_area - self.deletion_area


def curves_of(
    session: Session, served: ServedModel, values: torch.Tensor, target: int | None = None, steps: int = STEPS
) -> Curves | None:
    """Return the curves of a map of shape (1, 1, h, w), or None if it is flat, so that its order means nothing.

    The probability is that of the class, or task, ``target``, or of the most probable one.
    """
    if not bool(usable_maps(values.float())):
        return None
    targets = [target_of(session, target)]
    curves = replacement_curves(served.model, session.x, values.float(), targets, steps, batch_size=8)
    areas = curves.deletion.item(), curves.insertion.item()
    return Curves(curves.fractions.tolist(), curves.deleted[0].tolist(), curves.inserted[0].tolist(), *areas)
