"""Editing attention maps: paint on the map of an image, and see what the prediction makes of it.

Mitsuhara et al., "Embedding Human Knowledge into Deep Neural Network via Attention Map", arXiv 1905.03540, section 3:
people correct the map of an ABN, and the network predicts with it.
"""

import dataclasses

import numpy as np
import torch
import torch.nn as nn
from PIL import Image

from ..data.images import Box
from ..errors import TimmAbnError
from ..maps.explanation import Explanation
from ..networks.given_maps import check_values
from ..networks.split_network import SplitNetwork
from ..records import probabilities_of

__all__ = ['Edit', 'check_editable', 'edit_prediction', 'edited_map']


@dataclasses.dataclass(frozen=True)
class Edit:
    """A prediction before its attention map was edited, and after.

    Attributes:
        before: What the network says with its own map, of one image.
        task: Whose map was edited; None of a network with one map.
        predicted_map: The network's own map, shape (1, 1, h, w).
        edited_map: Shape (1, 1, h, w).
        probabilities: Of all classes, or tasks, with the edited map, shape (K,), float32.
    """

    before: Explanation
    task: int | None
    predicted_map: torch.Tensor
    edited_map: torch.Tensor
    probabilities: torch.Tensor


def check_editable(model: nn.Module) -> None:
    """Raise TimmAbnError unless a model predicts with maps of [0, 1] that are given."""
    if not isinstance(model, SplitNetwork):
        raise TimmAbnError(
            f'{type(model).__name__} has no attention map that gates its prediction; only Attention Branch Networks do.'
        )
    kind = model.config.attention_map
    if kind != 'sigmoid':
        raise TimmAbnError(
            f"maps are painted in [0, 1], black to white; maps of kind {kind!r} have other bounds than 'sigmoid'."
        )


def edited_map(predicted: torch.Tensor, painting: Image.Image, box: Box) -> torch.Tensor:
    """Return a map with what was painted over it, shape (1, 1, h, w).

    Each place becomes the mean of what was painted on its pixels: black is 0, white is 1. Where the painting is
    transparent, or does not reach, the predicted value stays; where part of it is, it counts by its part.

    Args:
        predicted: Shape (1, 1, h, w), in [0, 1].
        painting: Of mode 'LA', in the size of the photo.
        box: The part of the photo that the map lies over (``Preprocessing``).
    """
    height, width = predicted.shape[2:]
    # premultiplied, so that what is transparent has no colour
    averaged = painting.crop(box).convert('La').resize((width, height), Image.Resampling.BOX)
    light, opacity = torch.from_numpy(np.array(averaged)).to(predicted).div(255).permute(2, 0, 1)
    return predicted * (1 - opacity) + light


@torch.no_grad()
def edit_prediction(
    model: SplitNetwork, before: Explanation, x: torch.Tensor, painting: Image.Image, box: Box, task: int | None = None
) -> Edit:
    """Predict with a map that was painted on.

    The map is given to the network as it is, also under hard attention, which would keep the greatest values only: to
    hide a place paint it black. With ``init='neutral'`` a grey of 0.5 is what the backbone knows.

    Args:
        model: In evaluation mode (``check_editable``).
        before: What ``model.explain(x)`` returned.
        x: The image, normalised, shape (1, C, H, W).
        painting: See ``edited_map``.
        box: See ``edited_map``.
        task: The task whose map is edited, of a multi-task network.
    """
    maps = before.attention_map.clone()
    place = slice(None) if task is None else slice(task, task + 1)
    predicted = before.attention_map[:, place]
    maps[:, place] = edited = edited_map(predicted, painting, box)
    check_values(maps, model.config.attention_map)
    edited_answer = probabilities_of(model(x, attention=maps).float(), before.exclusive)
    return Edit(before, task, predicted, edited, edited_answer[0])
