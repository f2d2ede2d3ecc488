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

__all__ = ['MAPS', 'Session', 'draw_map', 'map_of', 'method_map', 'open_session', 'target_of', 'top_classes']

MAPS = ('attention map', 'class map', 'contrast with the other classes')


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """What is known of a photo under a model; it belongs to one visitor, and is replaced, not changed."""

    photo: Photo
    size: tuple[int, int]  # width and height, upright
    shown: Image.Image  # the photo in the size in which it is shown
    shown_box: Box  # the part of that which the model sees
    x: torch.Tensor  # the model's input, shape (1, C, H, W)
    box: Box  # the part of the photo which the model sees
    explanation: Explanation

    @property
    def probabilities(self) -> torch.Tensor:
        """Of all classes, or tasks, shape (K,)."""
        return self.explanation.probabilities[0]


def open_session(photo: Photo, served: ServedModel, pixels: Image.Image | None = None) -> Session:
    """Return what a model says of a photo, whose pixels may be decoded already.

    Raises:
        TimmAbnError: The photo is too long and thin for the model.
    """
    photo = dataclasses.replace(photo, levels=served.preprocessing.levels)
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
    """Return the class, or task, that is explained: the one that was chosen, or the most probable."""
    return int(session.probabilities.argmax()) if target is None else target


def map_of(session: Session, served: ServedModel, kind: str, target: int | None = None) -> torch.Tensor:
    """Return a map of the model's own, shape (1, 1, h, w); ``kind`` is one of ``MAPS``.

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
    """Return the photo with a map of shape (1, 1, h, w) laid over the part that the model saw.

    The colours span ``value_range``, by default the range of the map. With ``both_signs`` 0 is neutral: red above, blue
    below. ``full_size`` is the size of the photo, not of what is shown of it.
    """
    values = values.float().cpu()
    in_range = centre_maps(values) if both_signs else normalize_maps(values, value_range)
    colormap = DIVERGING_COLORMAP if both_signs else 'viridis'
    if full_size:
        return draw_overlay(session.photo.pixels(), in_range, session.box, colormap=colormap)
    return draw_overlay(session.shown, in_range, session.shown_box, colormap=colormap)


def method_map(session: Session, served: ServedModel, method: str, target: int | None = None) -> torch.Tensor:
    """Return the map of one of the model's ``explainers``, shape (1, 1, h, w)."""
    targets = torch.tensor([target_of(session, target)], device=session.x.device)
    return served.explainers[method](session.x, targets)


def top_classes(session: Session, count: int = 5) -> list[int]:
    """Return the most probable classes, or tasks, in falling order."""
    return session.probabilities.topk(min(count, len(session.probabilities))).indices.tolist()
