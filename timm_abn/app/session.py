"""What one visitor looks at: a photo, what the model says of it, and the pictures that show that."""

import dataclasses

import torch
from PIL import Image

from ..data.images import Box, draw_overlay
from ..maps.colormaps import DIVERGING_COLORMAP
from ..maps.explanation import Explanation
from ..maps.operations import centre_maps, normalize_maps
from .models import ServedModel
from .photos import Photo, shown_size, to_shown_box

__all__ = ['MAPS', 'Session', 'draw_map', 'map_of', 'method_overlay', 'open_session', 'target_of']

MAPS = ('attention map', 'class map', 'contrast with the other classes')


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """What is known of a photo under a model; it belongs to one visitor, and is replaced, not changed.

    Attributes:
        photo: As it was uploaded.
        size: Its width and height, upright.
        shown: The photo in the size in which it is shown.
        shown_box: The part of that which the model sees.
        x: The model's input, shape (1, C, H, W).
        box: The part of the photo which the model sees.
        explanation: What the model says.
    """

    photo: Photo
    size: tuple[int, int]
    shown: Image.Image
    shown_box: Box
    x: torch.Tensor
    box: Box
    explanation: Explanation

    @property
    def probabilities(self) -> torch.Tensor:
        """Of all classes, or tasks, shape (K,)."""
        return self.explanation.probabilities[0]


def open_session(photo: Photo, served: ServedModel, pixels: Image.Image | None = None) -> Session:
    """Return what a model says of a photo.

    Args:
        photo: The photo.
        served: The model.
        pixels: Those of the photo, if they are decoded already.

    Raises:
        TimmAbnError: The photo is too long and thin for the model.
    """
    pixels = photo.pixels() if pixels is None else pixels
    x, box = served.preprocessing(pixels)
    x = x[None].to(served.device)
    shown = shown_size(pixels.size)
    resample = Image.Resampling.NEAREST if shown[0] > 4 * pixels.width else Image.Resampling.BICUBIC
    return Session(
        photo=photo,
        size=pixels.size,
        shown=pixels.resize(shown, resample, reducing_gap=2.0),
        shown_box=to_shown_box(box, pixels.size, shown),
        x=x,
        box=box,
        explanation=served.model.explain(x),
    )


def target_of(session: Session, target: int | None) -> int:
    """Return the class, or task, that is explained: the one that was chosen, or the most probable.

    Args:
        session: The session.
        target: What was chosen.
    """
    return int(session.probabilities.argmax()) if target is None else target


def map_of(session: Session, served: ServedModel, kind: str, target: int | None = None) -> torch.Tensor:
    """Return a map of the model's own, shape (1, 1, h, w).

    Args:
        session: The session.
        served: Its model.
        kind: One of ``MAPS``.
        target: The class, or task, that it is of; the most probable by default.

    Raises:
        TimmAbnError: The model has no such map.
    """
    index = target_of(session, target)
    if kind == MAPS[0]:
        maps = session.explanation.attention_map
        return maps[:, index : index + 1] if served.has_tasks else maps
    classes = torch.tensor([index])
    if kind == MAPS[1]:
        return session.explanation.class_map(classes)
    return session.explanation.contrast_map(classes)


def draw_map(
    session: Session,
    values: torch.Tensor,
    value_range: tuple[float, float] | None = None,
    both_signs: bool = False,
    full_size: bool = False,
) -> Image.Image:
    """Return the photo with a map laid over the part that the model saw.

    Args:
        session: The session.
        values: Shape (1, 1, h, w).
        value_range: What has the first and the last colour; the range of the map by default.
        both_signs: Whether 0 is neutral: red above, blue below.
        full_size: Whether to draw in the size of the photo, not of what is shown of it.
    """
    values = values.float().cpu()
    in_range = centre_maps(values) if both_signs else normalize_maps(values, value_range)
    colormap = DIVERGING_COLORMAP if both_signs else 'viridis'
    if full_size:
        return draw_overlay(session.photo.pixels(), in_range, session.box, colormap=colormap)
    return draw_overlay(session.shown, in_range, session.shown_box, colormap=colormap)


def method_overlay(session: Session, served: ServedModel, method: str, target: int | None = None) -> Image.Image:
    """Return the photo with the map of another method.

    Args:
        session: The session.
        served: Its model.
        method: One of the model's ``explainers``.
        target: The class, or task, that is explained; the most probable by default.
    """
    return draw_map(session, method_map(session, served, method, target))


def method_map(session: Session, served: ServedModel, method: str, target: int | None = None) -> torch.Tensor:
    """Return the map of another method, shape (1, 1, h, w); see ``method_overlay``."""
    targets = torch.tensor([target_of(session, target)], device=session.x.device)
    return served.explainers[method](session.x, targets)


def top_classes(session: Session, count: int = 5) -> list[int]:
    """Return the most probable classes, or tasks, in falling order.

    Args:
        session: The session.
        count: How many.
    """
    return session.probabilities.topk(min(count, len(session.probabilities))).indices.tolist()
