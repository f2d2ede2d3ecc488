"""Cutting a timm backbone in two, exactly.

``split_backbone`` returns the two halves of a backbone: the feature extractor (everything up to and including the
module named by ``split``) and the perception branch (everything after it). Both halves are instances of the backbone's
own class with its own parameter names; what runs on the other side of the cut is replaced by a pass-through module.
No forward hooks stay behind, and no parameter is copied.

A cut is proven before it is handed out. The uncut backbone and both halves run once on the meta device, where tensors
have shapes but no values; each run is reduced to the expression that it computes (``Expressions``). The cut is exact
if and only if the halves compute the same expressions as the backbone. Cuts for which that does not hold, such as a
cut inside a residual block or a backbone that hands two tensors from stage to stage, are refused.

Families that do work between their modules (position embeddings, say) need an adapter: see ``register_adapter``.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from timm.models import get_model_input_config

from ..errors import suggest
from .adapters import find_adapter
from .expressions import Expressions
from .factor import ignores_features, ignores_places, is_behind_norms
from .features import as_features
from .halves import Plan, build_halves, plan_cut, prove
from .module_copy import copy_module, meta_tensors
from .nearest import nearest_cut
from .observation import Run, SplitError, observe

__all__ = ['Cut', 'Split', 'SplitError', 'cut_backbone', 'cut_behind_last_stage', 'default_stage', 'split_backbone']


@dataclasses.dataclass(frozen=True)
class Cut:
    """A cut that is proven to be exact, of every backbone of one architecture; it holds no tensors."""

    path: str  # of the module in the backbone
    plan: Plan
    image_size: tuple[int, int]  # height and width of the backbone's default images
    feature_shape: tuple[int, ...]  # of one such image, without the batch
    num_prefix_tokens: int  # that come before those of the image, if features are tokens
    side_inputs_per_image: tuple[bool, ...]  # whether each of them has a row for each image
    num_extractor_stages: int  # entries of ``feature_info`` at or before the cut
    next_channels: int | None  # of the entry after the cut, if there is one
    # whether what follows ignores any factor of a place that is the same for all its channels: a layer norm over
    # channels undoes it, or nothing reads it
    normalised: bool
    unread: bool  # whether what follows reads the class token alone, and so nothing of any place of the image
    behind_norms: bool  # whether all that follows is behind norms that undo a uniform factor, shortcuts aside
    # paths of the modules between the cut and the next entry of ``feature_info``, in order of execution; empty if no
    # chain of modules leads there
    next_stage: list[str]


@dataclasses.dataclass(frozen=True)
class Split(Cut):
    """A cut, and the halves of one backbone."""

    feature_extractor: nn.Module  # everything up to and including ``path``; maps images to features
    perception_branch: nn.Module  # everything after it; maps features to logits
    feature_info: list[dict[str, Any]]  # the backbone's, with the paths that its modules have in the two halves


def split_backbone(backbone: nn.Module, split: int | str | None = None) -> tuple[nn.Module, nn.Module]:
    """Cut a timm backbone in two halves that together compute exactly what it computes.

    The halves share the backbone's parameters: use them instead of the backbone, or copy it first.

    Args:
        backbone: Any timm model.
        split: Where to cut: an index into ``backbone.feature_info``, or the path of any module. By default before the
            last stage; for isotropic backbones (ViT) after three quarters of the blocks.

    Returns:
        ``(feature_extractor, perception_branch)`` with ``perception_branch(feature_extractor(images))`` equal to
        ``backbone(images)`` bit for bit in evaluation mode.

    Raises:
        SplitError: The split does not exist, or no exact cut is possible there.
    """
    result = cut_backbone(backbone, split)
    return result.feature_extractor, result.perception_branch


def cut_backbone(backbone: nn.Module, split: int | str | None = None, architecture: Hashable | None = None) -> Split:
    """Cut a backbone like ``split_backbone``, and return what is known about the cut as well.

    ``architecture`` is equal for backbones that were built by the same function with the same arguments. A cut of an
    architecture is proven once in a process; without one it is proven each time.
    """
    path = _resolve_split(backbone, split)
    images = _probe_images(backbone)
    key = (architecture, path, images.shape, images.dtype, find_adapter(backbone))
    cut = _PROVEN.get(key) if architecture is not None else None
    if cut is None:
        try:
            cut = _prove_cut(backbone, path, images)
        except SplitError as error:
            nearest = _nearest_cut(backbone, path, images)
            hint = f'the nearest cut that works is {nearest!r}' if nearest else 'none near it works either'
            raise SplitError(f'{str(error).rstrip(".")}; {hint}.') from error
    if architecture is not None:
        _PROVEN[key] = cut
    return _split(backbone, cut)


def cut_behind_last_stage(backbone: nn.Module) -> Split:
    """Cut a backbone after the last of its stages whose places what follows reads, else at its default split.

    A stage of one place is left out, as is one where an exact cut is not possible, and the last block of a ViT whose
    classifier reads the class token alone: its other tokens get no gradients.
    """
    images, default = _probe_images(backbone), _resolve_split(backbone, None)
    for info in reversed(_feature_info(backbone)):
        try:
            cut = _prove_cut(backbone, _resolve_split(backbone, info.get('module', '')), images)
        except SplitError:
            continue
        if cut.plan.sides.get(default) != 'before':
            break
        places = math.prod(cut.feature_shape[:1] if len(cut.feature_shape) == 2 else sorted(cut.feature_shape)[:2])
        if places > cut.num_prefix_tokens + 1 and not cut.unread:
            return _split(backbone, cut)
    return cut_backbone(backbone, default)


def _split(backbone: nn.Module, cut: Cut) -> Split:
    tensors = {id(tensor): tensor for tensor in [*backbone.parameters(), *backbone.buffers()]}
    extractor, perception = build_halves(backbone, cut.plan, tensors)
    feature_info = _feature_info(backbone)
    for index, info in enumerate(feature_info):
        half = 'feature_extractor' if index < cut.num_extractor_stages else 'perception_branch'
        info['module'] = info.get('module', '') and f'{half}.{info["module"]}'
    return Split(**vars(cut), feature_extractor=extractor, perception_branch=perception, feature_info=feature_info)


_PROVEN: dict[Hashable, Cut] = {}


def _nearest_cut(backbone: nn.Module, path: str, images: torch.Tensor) -> str | None:
    def is_exact(other: str) -> bool:
        try:
            return bool(_prove_cut(backbone, other, images))
        except SplitError:
            return False

    probe = copy_module(backbone, dict(meta_tensors(backbone))).eval()
    return nearest_cut(probe, path, images, [info.get('module', '') for info in _feature_info(backbone)], is_exact)


def _prove_cut(backbone: nn.Module, path: str, images: torch.Tensor) -> Cut:
    family = type(backbone).__name__
    on_meta = meta_tensors(backbone)
    probe = copy_module(backbone, dict(on_meta)).eval()
    expressions = Expressions()
    adapter = find_adapter(backbone)
    adapter.prepare_proof(probe)
    run = observe(probe, path, images, expressions, adapter.features_of)
    plan = plan_cut(probe, run, family)
    halves = build_halves(backbone, plan, on_meta)
    for half in halves:
        adapter.prepare_proof(half)
    crossing = prove(halves, run, family, expressions)
    features, side_inputs = as_features(crossing)
    num_prefix_tokens = adapter.num_prefix_tokens(halves[1]) if features.ndim == 3 else 0
    infos = _feature_info(backbone)
    stages = [info.get('module', '') for info in infos]
    num_before = 1 + max((i for i, stage in enumerate(stages) if plan.sides.get(stage) == 'before'), default=-1)
    return Cut(
        path=path,
        plan=plan,
        image_size=(images.shape[2], images.shape[3]),
        feature_shape=tuple(features.shape[1:]),
        num_prefix_tokens=num_prefix_tokens,
        side_inputs_per_image=_per_image(halves[0], images, side_inputs),
        num_extractor_stages=num_before,
        next_channels=infos[num_before]['num_chs'] if num_before < len(infos) else None,
        normalised=ignores_features(halves[1], crossing, num_prefix_tokens),
        unread=ignores_places(halves[1], crossing, num_prefix_tokens),
        behind_norms=is_behind_norms(halves[1], crossing),
        next_stage=_next_stage(probe, stages, run, plan, expressions) if features.shape == run.features.shape else [],
    )


def _per_image(extractor: nn.Module, images: torch.Tensor, side_inputs: list[torch.Tensor]) -> tuple[bool, ...]:
    """Return for each of the side inputs whether its length is that of the batch."""
    if not side_inputs:
        return ()
    with torch.no_grad():
        longer = as_features(extractor(images.repeat(2, 1, 1, 1))).side_inputs
    return tuple(len(tensor) != len(other) for tensor, other in zip(side_inputs, longer))


def default_stage(infos: Sequence[Mapping[str, Any]]) -> int:
    """Return the index in ``feature_info`` of the stage before the last; where all are alike (ViT), after 3 of 4."""
    is_isotropic = len({info.get('reduction') for info in infos}) == 1 and len(infos) > 3
    return len(infos) * 3 // 4 - 1 if is_isotropic else len(infos) - 2


def _resolve_split(backbone: nn.Module, split: int | str | None) -> str:
    """Return the module path that ``split`` stands for, or raise SplitError."""
    infos = _feature_info(backbone)
    stages = [info.get('module', '') for info in infos]
    named = ', '.join(f'{index} ({stage})' for index, stage in enumerate(stages) if stage)
    valid = f'valid splits: {named}, or any module path'
    name = type(backbone).__name__
    if split is None:
        split = find_adapter(backbone).default_split(backbone)
    if split is None:
        if len(stages) < 2:
            raise SplitError(f'{name} names no stages to split at; pass split=<module path>.')
        split = default_stage(infos)
    if isinstance(split, bool) or not isinstance(split, (int, str)):
        raise SplitError(f'split must be a stage index or a module path, got {split!r}; {valid}.')
    if isinstance(split, int) or split.lstrip('-').isdigit():  # command lines and YAML hand over text
        index = int(split)
        if not -len(stages) <= index < len(stages):
            raise SplitError(f'{name} has no stage {index}; {valid}.')
        path = stages[index]
    else:
        path = split
    modules = dict(backbone.named_modules())
    if not path or path not in modules:
        raise SplitError(f'{name} has no module {path!r}; {suggest(path, modules, otherwise=f"{valid}.")}')
    return path


def _feature_info(backbone: nn.Module) -> list[dict[str, Any]]:
    infos = getattr(backbone, 'feature_info', [])
    infos = infos if isinstance(infos, (list, tuple)) else infos.get_dicts()
    stage = find_adapter(backbone).stage
    return [dict(info, module=stage(backbone, info['module'])) if info.get('module') else dict(info) for info in infos]


def _probe_images(backbone: nn.Module) -> torch.Tensor:
    dtype = next((p.dtype for p in backbone.parameters() if p.is_floating_point()), None)
    return torch.empty((2, *get_model_input_config(backbone)['input_size']), device='meta', dtype=dtype)


def _next_stage(probe: nn.Module, stages: list[str], run: Run, plan: Plan, expressions: Expressions) -> list[str]:
    """Return the chain of modules from the cut to the next stage, if it is a chain."""
    following = [stage for stage in stages if plan.sides.get(stage) == 'after' and stage in run.outputs]
    if not following:
        return []
    stage = min(following, key=lambda name: run.calls[name][0][1])
    stage_end = run.calls[stage][0][1]
    after = (name for name in run.calls if plan.sides.get(name) == 'after' and run.calls[name][0][1] <= stage_end)
    chain = sorted(after, key=lambda name: run.calls[name][0][0])
    # the largest modules of the chain: children of a module already in it go with their parent
    outermost = [name for name in chain if not any(name.startswith(f'{other}.') for other in chain)]
    x = torch.empty_like(run.features)
    try:
        with torch.no_grad(), expressions:
            expressions.name_input(x, 'features')
            for name in outermost:
                x = probe.get_submodule(name)(x)
            return outermost if expressions.number(x) == run.outputs[stage] else []
    except Exception:
        return []  # a module of the chain wants more than the features: not a chain
