"""Explanations of files of images, drawn on one scale or each map on its own, by one process or several.

The range of a common scale is known after the last image only: until then the small maps are kept, not the images,
which are read again for drawing.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn as nn
from huggingface_hub.utils import tqdm

from ..data.images import Preprocessing
from ..data.sources import Source
from ..errors import TimmAbnError
from ..maps.colormaps import DIVERGING_COLORMAP
from ..maps.explanation import Explanation, MultiTaskExplanation
from ..networks.network import AttentionBranchNet
from .files import Drawing, Prepared, overlay_paths, prepared_batches, range_of, task_stems, write_maps

__all__ = ['ExplainedImage', 'ExplainedImages', 'Selection', 'explain_files']

Range = tuple[float, float]
T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which maps are shown, and in which range of values.

    Attributes:
        shown: 'attention'; 'class' for the map of one class; 'contrast' for that less the mean of the other classes'.
        class_index: The class; None for the most probable one of each image, and of a multi-task network for its most
            probable tasks.
        scale: 'own' for the range of each map, 'common' for that of all maps, 'absolute' for that of a sigmoid, [0, 1].
    """

    shown: str = 'attention'
    class_index: int | None = None
    scale: str = 'own'


@dataclasses.dataclass(frozen=True)
class ExplainedImage:
    """The explanation of one image, as its tables show it.

    Attributes:
        source: Where it comes from.
        classes: Indices of the most probable classes, in falling order.
        probabilities: Of these.
        ranges: Least and greatest value of each map that is drawn: of one, or of one per task in ``classes``.
        overlays: Where these are drawn.
    """

    source: Source
    classes: list[int]
    probabilities: list[float]
    ranges: list[Range]
    overlays: list[Path]


@dataclasses.dataclass(frozen=True)
class ExplainedImages:
    """The results of a run, the same in every process.

    Attributes:
        images: Those that could be read, in the order of the sources.
        problems: Those that could not, with the reason.
        value_range: What all maps were drawn in; None if each has its own range.
    """

    images: list[ExplainedImage]
    problems: list[tuple[Source, str]]
    value_range: Range | None


def explain_files(
    model: nn.Module,
    sources: Sequence[Source],
    folder: Path,
    names: Sequence[str],
    selection: Selection,
    drawing: Drawing,
    top_k: int = 5,
    batch_size: int = 16,
    device: torch.device | None = None,
) -> ExplainedImages:
    """Explain images and write their overlays; under ``torch.distributed`` each process takes its share of the images.

    Args:
        model: An ABN or a CAM baseline, in evaluation mode.
        sources: The images.
        folder: Where overlays go.
        names: Names of the model's classes, after which the files of tasks are called.
        selection: Which maps, and in which range.
        drawing: How; its range is that of ``selection``, and the colours of a contrast are always 'coolwarm'.
        top_k: Most probable classes to tell of an image.
        batch_size: Images at once.
        device: Where to compute.

    Raises:
        TimmAbnError: The model has no such maps, or they have no such scale.
    """
    value_range = _known_range(model, selection)
    colormap = DIVERGING_COLORMAP if selection.shown == 'contrast' else drawing.colormap
    drawing = dataclasses.replace(drawing, colormap=colormap, value_range=value_range)
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if _is_distributed() else (0, 1)
    preprocessing = Preprocessing(model)
    images: list[ExplainedImage] = []
    problems: list[tuple[Source, str]] = []
    kept: dict[Path, dict[str, torch.Tensor]] = {}
    # without a terminal there is no progress bar
    own = sources[rank::world_size]
    bar = tqdm(own, 'explain', unit='image', disable=None if len(sources) > 1 > rank else True)
    for batch in prepared_batches(bar, preprocessing, batch_size, problems):
        for prepared, image, maps in _explained(model, batch, folder, task_stems(names), selection, top_k, device):
            images.append(image)
            if selection.scale == 'common':
                kept[prepared.source.path] = maps
            else:
                write_maps(folder, prepared, maps, drawing)
    images = _of_all_processes(images)
    if selection.scale == 'common':
        value_range = _common_range((image.ranges for image in images), colormap)
        drawing = dataclasses.replace(drawing, value_range=value_range)
        read_before = [source for source in own if source.path in kept]
        for (prepared,) in prepared_batches(read_before, preprocessing, 1, problems):
            write_maps(folder, prepared, kept[prepared.source.path], drawing)
    return _in_order(images, _of_all_processes(problems), sources, value_range)


def _explained(
    model: Any,
    batch: Sequence[Prepared],
    folder: Path,
    stems: Sequence[str],
    selection: Selection,
    top_k: int,
    device: torch.device | None,
) -> Iterator[tuple[Prepared, ExplainedImage, dict[str, torch.Tensor]]]:
    """Yield each image of a batch, what is known of it, and the maps to draw."""
    explanation = model.explain(torch.stack([prepared.x for prepared in batch]).to(device))
    top_probabilities, top_classes = explanation.top_k(top_k)
    probabilities, classes = top_probabilities.tolist(), top_classes.tolist()
    shown = _shown_maps(explanation, selection)
    of_tasks = shown.shape[1] > 1
    if of_tasks:
        shown = shown.gather(1, top_classes[:, :, None, None].expand(-1, -1, *shown.shape[2:]))
    shown = shown.cpu()  # one tensor per batch: where maps are kept, many small ones would fragment the memory
    for index, prepared in enumerate(batch):
        endings = [f'.{stems[task]}' for task in classes[index]] if of_tasks else ['']
        maps = dict(zip(endings, shown[index : index + 1].split(1, dim=1), strict=True))
        ranges = [range_of(values) for values in maps.values()]
        overlays = overlay_paths(folder, prepared.source, maps)
        yield prepared, ExplainedImage(prepared.source, classes[index], probabilities[index], ranges, overlays), maps


def _shown_maps(explanation: Explanation, selection: Selection) -> torch.Tensor:
    """Return the maps that are shown, shape (B, 1, h, w), or (B, T, h, w) of several tasks."""
    if selection.shown == 'attention':
        return explanation.attention_map
    if isinstance(explanation, MultiTaskExplanation) and selection.class_index is None and selection.shown == 'class':
        return explanation.class_maps  # type: ignore[return-value]  # of a multi-task network it is never None
    classes = None if selection.class_index is None else torch.full((len(explanation),), selection.class_index)
    return explanation.class_map(classes) if selection.shown == 'class' else explanation.contrast_map(classes)


def _known_range(model: Any, selection: Selection) -> Range | None:
    """Return the range in which all maps are drawn, as far as it is known before the first image.

    Raises:
        TimmAbnError: The maps have no such scale.
    """
    if selection.scale == 'own':
        return None
    if selection.shown == 'attention' and not isinstance(model, AttentionBranchNet):
        raise TimmAbnError(
            'the attention map of a CAM model is stretched to the range of each image, and has no other scale; --show '
            f'class draws the map itself{"" if selection.scale == "common" else ", with --scale common"}'
        )
    if selection.scale == 'common':
        return None
    if selection.shown != 'attention':
        raise TimmAbnError(f'{selection.shown} maps have no bounds, and so no absolute scale; use --scale common')
    if model.config['attention_map'] != 'sigmoid':
        raise TimmAbnError(
            f'attention maps of the kind {model.config["attention_map"]!r} are not bounded by [0, 1] as those of the '
            "kind 'sigmoid' are; use --scale common"
        )
    return 0.0, 1.0


def _common_range(ranges: Iterable[Sequence[Range]], colormap: str) -> Range | None:
    """Return the range that holds all of these, symmetric for a diverging colour map; None if there is none."""
    values = [value for some in ranges for pair in some if all(map(math.isfinite, pair)) for value in pair]
    if not values:
        return None
    if colormap != DIVERGING_COLORMAP:
        return min(values), max(values)
    limit = max(map(abs, values)) or 1.0  # maps that are 0 everywhere are neutral
    return -limit, limit


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _of_all_processes(own: list[T]) -> list[T]:
    """Return what all processes have, in any order."""
    if not _is_distributed():
        return own
    found: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, own)
    return [entry for entries in found for entry in entries]


def _in_order(
    images: Sequence[ExplainedImage],
    problems: Sequence[tuple[Source, str]],
    sources: Sequence[Source],
    value_range: Range | None,
) -> ExplainedImages:
    """Return the results of a run, in the order of the sources."""
    position = {source.path: index for index, source in enumerate(sources)}
    lost = {source.path for source, _ in problems}  # one may become unreadable before it is drawn
    return ExplainedImages(
        sorted((i for i in images if i.source.path not in lost), key=lambda image: position[image.source.path]),
        sorted(problems, key=lambda problem: position[problem[0].path]),
        value_range,
    )
