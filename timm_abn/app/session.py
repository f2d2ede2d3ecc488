"""What one visitor looks at: a photo, what the model says of it, and the pictures that show that."""

import dataclasses

import torch
from PIL import Image

from ..data.images import Box, draw_overlay
from ..explain.runs import map_words
from ..maps.colormaps import DIVERGING_COLORMAP
from ..maps.explanation import Explanation
from ..maps.operations import centre_maps, normalize_maps
from ..records import EXPLAINED_BY, explained_by
from .models import ServedModel
from .photos import Photo, shown_size, to_shown_box

__all__ = [
    'MAPS',
    'Session',
    'class_kind',
    'draw_kind',
    'draw_map',
    'first_map',
    'map_of',
    'maps_of',
    'method_map',
    'open_session',
    'prepare',
    'scale_of',
    'sequential',
    'target_of',
    'top_classes',
]

MAPS = ('attention map', 'class map', 'contrast with the other classes', 'attention map times class map')


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """What is known of a photo under a model; it belongs to one visitor, and is replaced, not changed."""

    photo: Photo
    shown: Image.Image  # the photo in the size in which it is shown
    shown_box: Box  # the part of that which the model sees
    x: torch.Tensor  # the model's input, shape (1, C, H, W)
    box: Box  # the part of the photo which the model sees
    explanation: Explanation

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the photo."""
        return self.photo.size

    @property
    def probabilities(self) -> torch.Tensor:
        """Of all classes, or tasks, shape (K,)."""
        return self.explanation.probabilities[0]


def prepare(served: ServedModel, photo: Photo, pixels: Image.Image) -> tuple[torch.Tensor, Box]:
    """Return the input of a model, shape (1, C, H, W), and the part of the photo that it sees.

    ``pixels`` are those of the photo, or of the picture that is kept of it.

    Raises:
        TimmAbnError: The photo is too long and thin for the model.
    """
    x, box = served.preprocessing(pixels)
    return x[None], box if pixels.size == photo.size else to_shown_box(box, pixels.size, photo.size)


def open_session(photo: Photo, served: ServedModel, x: torch.Tensor, box: Box) -> Session:
    """Return what a model says of a photo that was prepared for it."""
    x, picture, shown = x.to(served.device), photo.picture, shown_size(photo.size)
    resample = Image.Resampling.NEAREST if shown[0] > 4 * picture.width else Image.Resampling.BICUBIC
    return Session(
        photo=photo,
        shown=picture.resize(shown, resample, reducing_gap=2.0),
        shown_box=to_shown_box(box, photo.size, shown),
        x=x,
        box=box,
        explanation=served.model.explain(x),
    )


def target_of(session: Session, target: int | None) -> int:
    """Return the class, or task, that is explained: the one that was chosen, or the most probable."""
    return int(session.probabilities.argmax()) if target is None else target


def maps_of(served: ServedModel) -> tuple[str, ...]:
    """Return those of ``MAPS`` that a model has: the first is what is painted on, or else explains it."""
    if served.is_painted:
        return MAPS
    return MAPS[0 if served.model.refinement is not None else 1 : 3]


def first_map(served: ServedModel) -> str:
    """Return which of ``MAPS`` is shown first of a model: the one that explains it best, as far as is known."""
    return MAPS[EXPLAINED_BY.index(explained_by(served.model))]


def class_kind(session: Session, served: ServedModel) -> str | None:
    """Return which of ``MAPS`` tells the classes, or tasks, of a model apart; None if no map does."""
    if served.has_tasks or not served.is_painted:
        return maps_of(served)[0]
    return None if session.explanation.class_maps is None else MAPS[1]


def scale_of(
    session: Session, served: ServedModel, kind: str, target: int | None = None
) -> tuple[str, tuple[str, ...], str]:
    """Return the colour map in which ``draw_kind`` draws, what its colours mean, and what the map is, in words."""
    name = served.class_names[target_of(session, target)]
    words = map_words(served.model, EXPLAINED_BY[MAPS.index(kind)].removesuffix('_map'), name)
    if kind == MAPS[2]:
        return DIVERGING_COLORMAP, (f'against {name}', '0', f'for {name}'), words
    return *sequential(_is_of_class(served, kind)), words


def sequential(from_zero: bool) -> tuple[str, tuple[str, ...]]:
    """Return the colour map of a map of one sign, and what its ends mean."""
    return 'viridis', ('0 or less' if from_zero else 'lowest', 'greatest')


def _is_of_class(served: ServedModel, kind: str) -> bool:
    return kind == MAPS[1] or not served.is_painted


def map_of(session: Session, served: ServedModel, kind: str, target: int | None = None) -> torch.Tensor:
    """Return a map of the model's own, shape (1, 1, h, w); ``kind`` is one of ``MAPS``, a class map less its mean.

    Raises:
        TimmAbnError: The model has no such map.
    """
    explanation, classes = session.explanation, torch.tensor([target_of(session, target)])
    if kind == MAPS[0] and not served.is_painted:  # it is of one class
        explanation = served.model.explain(session.x, classes, class_maps=False)
    return dataclasses.replace(explanation, explained_by=EXPLAINED_BY[MAPS.index(kind)]).explaining_map(classes)


def draw_map(
    session: Session,
    values: torch.Tensor,
    value_range: tuple[float, float] | None = None,
    both_signs: bool = False,
    full_size: bool = False,
) -> Image.Image:
    """Return the photo with a map of shape (1, 1, h, w) laid over the part that the model saw.

    The colours span ``value_range``, by default the range of the map. With ``both_signs`` 0 is neutral: red above, blue
    below. ``full_size`` is that of the picture that is kept of the photo, not of what is shown of it.
    """
    values = values.float().cpu()
    in_range = centre_maps(values) if both_signs else normalize_maps(values, value_range)
    colormap = DIVERGING_COLORMAP if both_signs else 'viridis'
    if full_size:
        picture = session.photo.picture
        box = to_shown_box(session.box, session.size, picture.size)
        return draw_overlay(picture, in_range, box, colormap=colormap)
    return draw_overlay(session.shown, in_range, session.shown_box, colormap=colormap)


def draw_kind(
    session: Session, served: ServedModel, kind: str, target: int | None = None, full_size: bool = False
) -> Image.Image:
    """Return ``draw_map`` of what ``map_of`` returns; of the map of a class what is above 0."""
    values = map_of(session, served, kind, target)
    value_range = (0.0, max(values.max().item(), 0.0)) if _is_of_class(served, kind) else None
    return draw_map(session, values, value_range, both_signs=kind == MAPS[2], full_size=full_size)


def method_map(session: Session, served: ServedModel, method: str, target: int | None = None) -> torch.Tensor:
    """Return the map of one of the model's ``explainers``, shape (1, 1, h, w)."""
    targets = torch.tensor([target_of(session, target)], device=session.x.device)
    return served.explainers[method](session.x, targets)


def top_classes(session: Session, count: int = 5) -> list[int]:
    """Return the most probable classes, or tasks, in falling order."""
    return session.probabilities.topk(min(count, len(session.probabilities))).indices.tolist()
