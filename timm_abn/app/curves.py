"""Deletion and insertion curves of one photo: does the prediction hang on the pixels that a map points to?"""

import dataclasses

import torch

from ..explain.metrics import area_under_curve, deletion_and_insertion_curves, replaced_fractions, usable_maps
from .models import ServedModel
from .session import Session, target_of

__all__ = ['STEPS', 'Curves', 'curves_of']

STEPS = 16  # as few as show the shape: each is two forward passes


@dataclasses.dataclass(frozen=True)
class Curves:
    """The probability of a class while pixels are taken from a photo, or given back to it, in the order of a map."""

    fractions: list[float]  # of the pixels, from 0 to 1
    deletion: list[float]  # while they are replaced by the mean colour; lower is better
    insertion: list[float]  # while they replace a blurred photo; higher is better
    deletion_area: float
    insertion_area: float


def curves_of(
    session: Session, served: ServedModel, values: torch.Tensor, target: int | None = None, steps: int = STEPS
) -> Curves | None:
    """Return the curves of a map of shape (1, 1, h, w), or None if it is flat, so that its order means nothing.

    The probability is that of the class, or task, ``target``, or of the most probable one.
    """
    if not bool(usable_maps(values.float())):
        return None
    targets = [target_of(session, target)]
    fractions = replaced_fractions(steps, session.x.shape[2:])
    curves = deletion_and_insertion_curves(served.model, session.x, values.float(), targets, steps, batch_size=8)
    deletion, insertion = (curve[0].tolist() for curve in curves)
    areas = (area_under_curve(curve, fractions).item() for curve in curves)
    return Curves(fractions.tolist(), deletion, insertion, *areas)
