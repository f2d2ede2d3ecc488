"""GridPG over a data set: mosaics of images that are predicted rightly, drawn from what a first reading found."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from safetensors import safe_open
from timm.models import get_model_input_config

from ...data.samples import Sample, read_samples
from ...errors import TimmAbnError, one_line
from ...records import are_exclusive
from ..metrics import Mosaics, draw_members, explain_mosaics, grid_pointing_game, join_mosaics
from ..metrics.predictions import Explainer
from .batches import batch_of

__all__ = ['Grid', 'check_grid', 'draw_grid', 'score_grid']


class Grid(NamedTuple):
    """Which samples each mosaic shows, by their indices, and their classes: both of shape (M, n * n)."""

    members: torch.Tensor
    classes: torch.Tensor


def check_grid(model: nn.Module, cells: int) -> None:
    """Raise TimmAbnError if classes do not exclude each other, or the model does not take images of this size."""
    if isinstance(cells, bool) or not isinstance(cells, int) or cells < 2:
        raise TimmAbnError(f'grid must be a whole number of 2 or more, got {cells!r}.')
    if not are_exclusive(model):
        raise TimmAbnError(
            'a grid shows one class in each cell, and the answers of this network do not exclude each other.'
        )
    channels, height, width = get_model_input_config(model)['input_size']
    first = next(model.parameters())
    try:
        with torch.no_grad():
            model(first.new_zeros(1, channels, cells * height, cells * width))
    except Exception as error:  # whatever its layers raise
        size = f'{cells * height} x {cells * width}'
        raise TimmAbnError(
            f'a grid of {cells} x {cells} needs a network that takes images of {size} pixels: {one_line(error)}'
        ) from None


def draw_grid(parts: Sequence[Path], cells: int, seed: int) -> Grid:
    """Draw mosaics of the images of all parts.

    Raises:
        TimmAbnError: Too few classes have images that are predicted rightly and with confidence.
    """
    indices: list[int] = []
    labels: list[int] = []
    confidence: list[float] = []
    for part in parts:
        with safe_open(part, framework='pt') as file:
            facts = json.loads(file.metadata()['facts'])
            if facts['rows']:
                most = file.get_tensor('probabilities').amax(dim=1).tolist()
                for index, row, probability in zip(facts['indices'], facts['rows'], most):  # of the first method
                    indices.append(index)
                    labels.append(-1 if row['label'] is None else row['label'])
                    confidence.append(probability if row['label'] == row['predicted'] == row['target'] else 0)
    members = draw_members(torch.tensor(labels), torch.tensor(confidence), cells, seed=seed)
    return Grid(torch.tensor(indices)[members], torch.tensor(labels)[members])


def score_grid(
    model: nn.Module, samples: Sequence[Sample], methods: Mapping[str, Explainer], grid: Grid, batch_size: int
) -> dict[str, Any]:
    """Return for each method the scores of all cells of mosaics, and the indices of the samples that they show."""
    problems: list[str] = []
    shown = grid.members.flatten().tolist()
    read = read_samples(samples, shown, problems)
    if problems:
        raise TimmAbnError(f'{problems[0]}: it could be read earlier.')
    images = batch_of(model, read).unflatten(0, grid.members.shape)
    mosaics = Mosaics(join_mosaics(images), grid.classes.to(images.device), grid.members)
    size = mosaics.images.shape[2:]
    shares = {
        method: grid_pointing_game(explain_mosaics(explainer, mosaics, batch_size), size).flatten().tolist()
        for method, explainer in methods.items()
    }
    return dict(shown=shown, shares=shares)
