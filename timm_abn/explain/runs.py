"""Explanations of files of images, drawn on one scale or each map on its own, by one process or several.

The range of a common scale is known after the last image only: until then the small maps are kept, not the images,
which are read again for drawing.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..attached.network import AttachedNet
from ..data.images import Preprocessing
from ..data.sources import Source
from ..errors import TimmAbnError
from ..maps.colormaps import DIVERGING_COLORMAP
from ..maps.explanation import Explanation, MultiTaskExplanation
from ..networks.network import AttentionBranchNet
from ..progress import Progress
from ..records import EXPLAINED_BY
from .files import Drawing, Prepared, Range, long_names, prepared_batches, range_of, write_maps
from .metrics.checks import check_predictions
from .processes import of_all_processes, rank_and_size

__all__ = ['ExplainedImage', 'ExplainedImages', 'explain_files', 'map_words', 'task_stems']

_WORDS = dict(
    attention='attention map',
    contrast='class map of {} minus the mean of the other classes',
    product='attention map times the class map of {}',
    **{'class': 'class map of {}'},
)
_ATTACHED_WORDS = dict(
    attention="evidence for {}, from the model's own head, refined on photos",
    contrast="evidence for {}, from the model's own head, minus the mean of the other classes",
    product=_WORDS['product'],
    **{'class': "evidence for {}, from the model's own head"},
)

_LONGEST_STEM = 40  # characters; names of files end at 255 bytes


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
    model: Any,
    sources: Sequence[Source],
    folder: Path,
    names: Sequence[str],
    drawing: Drawing,
    top_k: int = 5,
    batch_size: int = 16,
    device: torch.device | None = None,
) -> ExplainedImages:
    """Explain images and write their overlays; under ``torch.distributed`` each process takes its share of the images.

    Args:
        model: One that explains itself (``timm_abn.load_model``), in evaluation mode.
        sources: The images.
        folder: Where overlays go.
        names: Names of the model's classes, after which the files of tasks are called.
        drawing: Which maps, and how.
        top_k: Most probable classes to tell of an image.
        batch_size: Images at once.
        device: Where to compute.

    Raises:
        TimmAbnError: The model has no such maps, or they have no such scale.
    """
    value_range = _known_range(model, drawing)
    is_evidence = isinstance(model, AttachedNet) and drawing.shown == 'attention'
    drawing = dataclasses.replace(drawing, from_zero=is_evidence or drawing.shown == 'class')
    rank, world_size = rank_and_size()
    preprocessing, stems = Preprocessing(model), task_stems(names)
    images: list[ExplainedImage] = []
    problems: list[tuple[Source, str]] = []
    kept: dict[Path, dict[str, torch.Tensor]] = {}
    own = sources[rank::world_size]
    steps = Progress(own, 'explain', 'image', shown=len(sources) > 1 > rank)
    for batch in prepared_batches(steps, preprocessing, batch_size, problems):
        explanation = _explain(model, torch.stack([prepared.x for prepared in batch]).to(device), drawing)
        check_predictions(explanation.logits)
        for prepared, image, maps in _explained(explanation, batch, folder, stems, drawing, top_k):
            images.append(image)
            if drawing.scale == 'common':
                kept[prepared.source.path] = maps
            else:
                with long_names(prepared.source, problems):
                    write_maps(folder, prepared, maps, drawing, value_range)
    images = of_all_processes(images)
    if drawing.scale == 'common':
        value_range = _common_range([pair for image in images for pair in image.ranges], drawing)
        read_before = [source for source in own if source.path in kept]
        for (prepared,) in prepared_batches(read_before, preprocessing, 1, problems):
            with long_names(prepared.source, problems):
                write_maps(folder, prepared, kept[prepared.source.path], drawing, value_range)
    problems = of_all_processes(problems)
    position = {source.path: index for index, source in enumerate(sources)}
    lost = {source.path for source, _ in problems}  # one may become unreadable before it is drawn
    return ExplainedImages(
        sorted((i for i in images if i.source.path not in lost), key=lambda image: position[image.source.path]),
        sorted(problems, key=lambda problem: position[problem[0].path]),
        value_range,
    )


def _explain(model: Any, images: torch.Tensor, drawing: Drawing) -> Explanation:
    """Explain images, of models whose attention map is of one class that of the drawing."""
    if not isinstance(model, AttachedNet):
        return model.explain(images)
    index = drawing.class_index
    classes = None if index is None else torch.full((len(images),), index)
    return model.explain(images, classes, class_maps=drawing.shown != 'attention')


def _explained(
    explanation: Explanation,
    batch: Sequence[Prepared],
    folder: Path,
    stems: Sequence[str],
    drawing: Drawing,
    top_k: int,
) -> Iterator[tuple[Prepared, ExplainedImage, dict[str, torch.Tensor]]]:
    """Yield each image of a batch, what is known of it, and the maps to draw."""
    probabilities, classes = explanation.top_k(top_k)
    shown = _shown_maps(explanation, drawing)
    of_tasks = shown.shape[1] > 1
    if of_tasks:
        shown = shown.gather(1, classes[:, :, None, None].expand(-1, -1, *shown.shape[2:]))
    shown = shown.cpu()  # one tensor per batch: where maps are kept, many small ones would fragment the memory
    for index, (prepared, top, likely) in enumerate(zip(batch, classes.tolist(), probabilities.tolist())):
        endings = [f'.{stems[task]}' for task in top] if of_tasks else ['']
        maps = dict(zip(endings, shown[index : index + 1].split(1, dim=1), strict=True))
        overlays = [Path(f'{folder / prepared.source.name}{ending}.overlay.png') for ending in maps]
        yield prepared, ExplainedImage(prepared.source, top, likely, [*map(range_of, maps.values())], overlays), maps


def _shown_maps(explanation: Explanation, drawing: Drawing) -> torch.Tensor:
    """Return the maps that are shown, shape (B, 1, h, w), or (B, T, h, w) of several tasks."""
    if drawing.shown == 'attention':
        return explanation.attention_map
    kind = next(kind for kind in EXPLAINED_BY if kind.removesuffix('_map') == drawing.shown)
    shown = dataclasses.replace(explanation, explained_by=kind)
    is_of_all = isinstance(explanation, MultiTaskExplanation) and kind != 'contrast' and drawing.class_index is None
    if not is_of_all:
        index = drawing.class_index
        return shown.explaining_map(None if index is None else torch.full((len(explanation),), index))
    tasks = torch.arange(explanation.logits.shape[1])
    return torch.cat([shown.explaining_map(task.repeat(len(explanation))) for task in tasks], dim=1)


def map_words(model: Any, shown: str, name: str | None = None) -> str:
    """Return what is shown of a model (see ``Drawing``), of the class of this name, and what gates, in words."""
    is_attached = isinstance(model, AttachedNet)
    if is_attached and shown == 'attention' and model.refinement is None:
        shown = 'class'  # which it is, stretched
    words = (_ATTACHED_WORDS if is_attached else _WORDS)[shown].format(
        name or ('each task' if getattr(getattr(model, 'config', None), 'multi_task', False) else 'the predicted class')
    )
    gates = isinstance(model, AttentionBranchNet)
    if shown == 'attention' and not is_attached:
        return f'{words}, which {"gates" if gates else "explains but does not gate"}'
    return f'{words}; {"the attention map is what gates" if gates else "it does not gate"}'


def _known_range(model: Any, drawing: Drawing) -> Range | None:
    """Return the range in which all maps are drawn, as far as it is known before the first image.

    Raises:
        TimmAbnError: The maps have no such scale.
    """
    if drawing.scale == 'own':
        return None
    if drawing.shown == 'attention' and not isinstance(model, (AttentionBranchNet, AttachedNet)):
        raise TimmAbnError(
            'the attention map of a CAM model is stretched to the range of each image, and has no other scale; --show '
            f'class draws the map itself{"" if drawing.scale == "common" else ", with --scale common"}'
        )
    if drawing.scale == 'common':
        return None
    if drawing.shown != 'attention' or isinstance(model, AttachedNet):
        raise TimmAbnError(
            f'{drawing.shown} maps have no bounds and so no absolute scale; use --scale common'
            f'{"" if isinstance(model, AttachedNet) else ", or --show attention"}'
        )
    if model.config.attention_map != 'sigmoid':
        raise TimmAbnError(
            f'attention maps of the kind {model.config.attention_map!r} are not bounded by [0, 1] as those of the '
            "kind 'sigmoid' are; use --scale common"
        )
    return 0.0, 1.0


def _common_range(ranges: Sequence[Range], drawing: Drawing) -> Range | None:
    """Return the range that holds all that is drawn of these, symmetric for two directions; None if there is none."""
    values = [value for pair in ranges if all(map(math.isfinite, pair)) for value in pair]
    if not values:
        return None
    if drawing.colors != DIVERGING_COLORMAP:
        return 0.0 if drawing.from_zero else min(values), max(values)
    limit = max(map(abs, values)) or 1.0  # maps that are 0 everywhere are neutral
    return -limit, limit


def task_stems(names: Sequence[str]) -> list[str]:
    """Return what to call the files of each task: its name, and its index if others would be called the same."""
    stems = [re.sub(r'\W+', '_', name)[:_LONGEST_STEM] for name in names]
    counts = Counter(stem.casefold() for stem in stems)  # some file systems do not tell a from A
    return [stem if counts[stem.casefold()] == 1 else f'{stem}.{index}' for index, stem in enumerate(stems)]
