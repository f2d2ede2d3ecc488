"""Editing attention maps: paint on the map of an image, and see what the prediction makes of it.

Mitsuhara et al., "Embedding Human Knowledge into Deep Neural Network via Attention Map", arXiv 1905.03540, section 3:
people correct the map of an ABN, and the network predicts with it.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data.images import Box, ImageError, image_errors, to_rgb
from ..errors import TimmAbnError
from ..maps.explanation import Explanation
from ..networks.multi_task import MultiTaskAttentionBranchNet
from ..networks.network import AttentionBranchNet

__all__ = ['Edit', 'check_editable', 'edit_prediction', 'edited_map', 'read_painting']


@dataclasses.dataclass(frozen=True)
class Edit:
    """A prediction before its attention map was edited, and after.

    Attributes:
        before: What the network says with its own map, of one image.
        task: Whose map was edited; None of a network with one map.
        edited_map: Shape (1, 1, h, w).
        probabilities: Of all classes, or tasks, with the edited map, shape (K,), float32.
    """

    before: Explanation
    task: int | None
    edited_map: torch.Tensor
    probabilities: torch.Tensor

    @property
    def predicted_map(self) -> torch.Tensor:
        """The network's own map, shape (1, 1, h, w)."""
        return _map_of_task(self.before, self.task)


def read_painting(path: str | Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Read what somebody painted, as an image of mode 'LA': how bright, and how opaque.

    Args:
        path: Image in any mode; colours count by their luminance.
        size: Width and height of the photo, to which the painting is brought. It may be smaller or larger, but not of
            other proportions: a mask of what the model cuts out of a photo would lie in the wrong place.

    Raises:
        ImageError: The file cannot be read, or has other proportions than the photo.
    """
    with image_errors(path), Image.open(path) as image:
        image.load()
        if image.has_transparency_data:
            rgba = image.convert('RGBA')
            painting = Image.merge('LA', (rgba.convert('RGB').convert('L'), rgba.getchannel('A')))
        else:
            painting = to_rgb(image).convert('LA')
    if size is None or painting.size == size:
        return painting
    (width, height), (own_width, own_height) = size, painting.size
    if abs(own_width * height - own_height * width) > max(width, height):  # more than rounding to whole pixels
        raise ImageError(
            f'{path} has {own_width} x {own_height} pixels, the photo {width} x {height}: a mask shows the whole '
            'photo, in its proportions.'
        )
    return painting.resize((width, height), Image.Resampling.BOX)


def edited_map(predicted: torch.Tensor, painting: Image.Image, box: Box) -> torch.Tensor:
    """Return a map with what was painted over it, shape (1, 1, h, w).

    Each place becomes the mean of what was painted on its pixels: black is 0, white is 1. Where the painting is
    transparent, or does not reach, the predicted value stays; where part of it is, it counts by its part.

    Args:
        predicted: Shape (1, 1, h, w), in [0, 1].
        painting: Of mode 'LA', in the size of the photo (``read_painting``).
        box: The part of the photo that the map lies over (``Preprocessing``).
    """
    height, width = predicted.shape[2:]
    # premultiplied, so that what is transparent has no colour
    averaged = painting.crop(box).convert('La').resize((width, height), Image.Resampling.BOX)
    light, opacity = torch.from_numpy(np.array(averaged)).to(predicted).div(255).permute(2, 0, 1)
    return predicted * (1 - opacity) + light


def check_editable(model: Any, task: int | None = None) -> None:
    """Raise an error unless a model predicts with maps of [0, 1] that are given, and it is clear whose map is edited.

    Args:
        model: Any model.
        task: The task whose map is edited.

    Raises:
        TimmAbnError: The model has no such map.
    """
    if not isinstance(model, AttentionBranchNet):
        raise TimmAbnError(
            f'{type(model).__name__} has no attention map that its prediction could follow: only Attention Branch '
            'Networks do.'
        )
    kind = model.config.attention_map
    if kind != 'sigmoid':
        raise TimmAbnError(
            f"maps are painted in [0, 1], black to white; those of the kind {kind!r} have other bounds than 'sigmoid'."
        )
    has_tasks = isinstance(model, MultiTaskAttentionBranchNet)
    if has_tasks and task is None:
        raise TimmAbnError(
            f'the model has {model.num_classes} attention maps, one per task: name the task to edit (--task).'
        )
    if task is not None and not has_tasks:
        raise TimmAbnError('the model has one attention map for all classes, and no tasks: name none.')


@torch.no_grad()
def edit_prediction(
    model: Any,
    x: torch.Tensor,
    painting: Image.Image,
    box: Box,
    task: int | None = None,
    before: Explanation | None = None,
) -> Edit:
    """Predict with a map that was painted on.

    The map is given to the network as it is, also under hard attention, which would keep the greatest values only: to
    hide a place paint it black. With the insertion 'neutral' a grey of 0.5 is what the backbone knows; with
    'explaining' the map gates relative to the predicted one, so that only what was painted differently counts
    (``timm_abn.Mechanism``).

    Args:
        model: An ABN in evaluation mode.
        x: The image, normalised, shape (1, C, H, W).
        painting: See ``edited_map``.
        box: See ``edited_map``.
        task: The task whose map is edited, of a multi-task network.
        before: What ``model.explain(x)`` returned, if that is known.

    Raises:
        TimmAbnError: See ``check_editable``.
    """
    check_editable(model, task)
    before = model.explain(x) if before is None else before
    edited = edited_map(_map_of_task(before, task), painting, box)
    maps = edited
    if task is not None:
        maps = before.attention_map.clone()
        maps[:, task] = edited[:, 0]
    return Edit(before, task, edited, before.probabilities_of(model(x, attention=maps))[0])


def _map_of_task(explanation: Explanation, task: int | None) -> torch.Tensor:
    return explanation.attention_map if task is None else explanation.attention_map[:, task : task + 1]
