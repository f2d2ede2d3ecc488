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
import inspect
from collections import OrderedDict
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, Type, Union

import torch
import torch.nn as nn
from timm.models import get_model_input_config

from .expressions import Expressions
from .module_copy import copy_module
from .split_adapters import OptionPassThrough, PassThrough, find_adapter, no_classifier, pass_through

__all__ = ['Split', 'SplitError', 'cut_backbone', 'resolve_split', 'split_backbone']


class SplitError(ValueError):
    """A backbone cannot be cut exactly at the requested place."""


@dataclasses.dataclass
class Split:
    """Result of ``cut_backbone``.

    Attributes:
        feature_extractor: Everything up to and including ``path``; maps images to features.
        perception_branch: Everything after ``path``; maps features to logits.
        path: Module path of the cut in the backbone.
        image_size: Height and width of the backbone's default images.
        feature_shape: Shape of the features of one such image, without the batch.
        feature_info: The backbone's ``feature_info``, with the paths that its modules have in the two halves.
        num_extractor_stages: How many entries of ``feature_info`` lie at or before the cut.
        next_channels: Channels of the entry after the cut, if there is one.
        normalised: Whether a layer norm over channels is all that reads the features. It undoes any factor that is the
            same for all channels, and so an attention map.
        next_stage: Paths of the modules between the cut and the next entry of ``feature_info``, in order of
            execution; empty if no chain of modules leads there.
    """

    feature_extractor: nn.Module
    perception_branch: nn.Module
    path: str
    image_size: Tuple[int, int]
    feature_shape: Tuple[int, ...]
    feature_info: List[Dict[str, Any]]
    num_extractor_stages: int
    next_channels: Optional[int]
    normalised: bool
    next_stage: List[str]


def split_backbone(
    backbone: nn.Module,
    split: Optional[Union[int, str]] = None,
) -> Tuple[nn.Module, nn.Module]:
    """Cut a timm backbone in two halves that together compute exactly what it computes.

    The halves share the backbone's parameters; use them instead of the backbone, or copy it first.

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


def cut_backbone(backbone: nn.Module, split: Optional[Union[int, str]] = None) -> Split:
    """Cut a backbone like ``split_backbone``, and return what is known about the cut as well.

    Args:
        backbone: Any timm model.
        split: See ``split_backbone``.

    Raises:
        SplitError: The split does not exist, or no exact cut is possible there.
    """
    path = resolve_split(backbone, split)
    meta_tensors = _meta_tensors(backbone)
    probe = copy_module(backbone, dict(meta_tensors)).eval()
    expressions = Expressions()
    run = _observe(probe, path, _probe_images(backbone), expressions)
    plan = _plan_cut(probe, run, type(backbone).__name__)
    _prove(_halves(backbone, plan, meta_tensors), run, type(backbone).__name__, expressions)
    extractor, perception = _halves(backbone, plan, {id(t): t for t in [*backbone.parameters(), *backbone.buffers()]})
    infos = _feature_info(backbone)
    stages = [info.get('module', '') for info in infos]
    num_before = 1 + max((i for i, stage in enumerate(stages) if plan.sides.get(stage) == 'before'), default=-1)
    return Split(
        feature_extractor=extractor,
        perception_branch=perception,
        path=path,
        image_size=(run.images.shape[2], run.images.shape[3]),
        feature_shape=tuple(run.features.shape[1:]),
        feature_info=[
            dict(info, module=stage and f'{"feature_extractor" if index < num_before else "perception_branch"}.{stage}')
            for index, (info, stage) in enumerate(zip(infos, stages))
        ],
        num_extractor_stages=num_before,
        normalised=run.readers == {'aten.native_layer_norm.default'},
        next_channels=infos[num_before]['num_chs'] if num_before < len(infos) else None,
        next_stage=_next_stage(probe, stages, run, plan, expressions),
    )


def resolve_split(backbone: nn.Module, split: Optional[Union[int, str]] = None) -> str:
    """Return the module path that ``split`` stands for.

    Args:
        backbone: Any timm model.
        split: Index into ``feature_info``, module path, or None for the default.

    Raises:
        SplitError: There is no such stage or module.
    """
    infos = _feature_info(backbone)
    stages = [info.get('module', '') for info in infos]
    named = ', '.join(f'{index} ({stage})' for index, stage in enumerate(stages) if stage)
    valid = f'valid splits: {named}, or any module path'
    name = type(backbone).__name__
    if split is None:
        if len(stages) < 2:
            raise SplitError(f'{name} names no stages to split before; pass split=<module path>.')
        reductions = {info.get('reduction') for info in infos}
        split = len(stages) * 3 // 4 - 1 if len(reductions) == 1 and len(stages) > 3 else len(stages) - 2
    if isinstance(split, bool) or not isinstance(split, (int, str)):
        raise SplitError(f'split must be a stage index or a module path, got {split!r}; {valid}.')
    if isinstance(split, int) or split.lstrip('-').isdigit():  # command lines and YAML hand over text
        index = int(split)
        if not -len(stages) <= index < len(stages):
            raise SplitError(f'{name} has no stage {index}; {valid}.')
        path = stages[index]
    else:
        path = split
    if not path or path not in dict(backbone.named_modules()):
        raise SplitError(f'{name} has no module {path!r}; {valid}.')
    return path


def _feature_info(backbone: nn.Module) -> List[Dict[str, Any]]:
    infos = getattr(backbone, 'feature_info', [])
    return list(infos) if isinstance(infos, (list, tuple)) else infos.get_dicts()


def _probe_images(backbone: nn.Module) -> torch.Tensor:
    dtype = next((p.dtype for p in backbone.parameters() if p.is_floating_point()), None)
    return torch.empty((2, *get_model_input_config(backbone)['input_size']), device='meta', dtype=dtype)


def _meta_tensors(backbone: nn.Module) -> Dict[int, torch.Tensor]:
    """Return a deepcopy memo that turns every tensor of ``backbone`` into one on the meta device."""
    memo: Dict[int, torch.Tensor] = {}
    for module in backbone.modules():
        tensors = [*module._parameters.values(), *module._buffers.values(), *module.__dict__.values()]
        for tensor in tensors:
            if isinstance(tensor, nn.Parameter):
                memo[id(tensor)] = nn.Parameter(tensor.detach().to('meta'), requires_grad=tensor.requires_grad)
            elif isinstance(tensor, torch.Tensor):
                memo[id(tensor)] = tensor.detach().to('meta')
    return memo


@dataclasses.dataclass
class _Run:
    """One observed run of the uncut backbone."""

    path: str
    images: torch.Tensor
    features: torch.Tensor  # what crosses the cut
    features_number: int  # its expression in terms of the images
    output_number: int  # expression of the logits in terms of what crosses the cut
    calls: Dict[str, List[Tuple[int, int]]]  # module path -> (start, end) of each call, as times
    num_arguments: Dict[str, int]  # module path -> most arguments it was called with
    outputs: Dict[str, int]  # module path -> expression of its output
    cut_time: int
    reads_before: Set[int]  # ids of the tensors read before the cut
    reads_after: Set[int]
    crossing: List[str]  # operators that read, after the cut, activations other than what crosses it
    readers: Set[str]  # operators that read what crosses the cut


def _observe(probe: nn.Module, path: str, images: torch.Tensor, expressions: Expressions) -> _Run:
    family = type(probe).__name__
    time = 0
    calls: Dict[str, List[Tuple[int, int]]] = {}
    num_arguments: Dict[str, int] = {}
    outputs: Dict[str, int] = {}
    open_calls: Dict[str, List[int]] = {}
    cuts: List[Tuple[torch.Tensor, int, int, int, int]] = []
    before: Set[int] = set()

    def on_enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal time
            time += 1
            open_calls.setdefault(name, []).append(time)
            num_arguments[name] = max(num_arguments.get(name, 0), len(args) + len(kwargs))

        return hook

    def on_leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal time
            time += 1
            calls.setdefault(name, []).append((open_calls[name].pop(), time))
            if isinstance(output, torch.Tensor):
                outputs[name] = expressions.number(output)
            if name == path:
                if cuts or not isinstance(output, torch.Tensor):
                    what = 'runs more than once' if cuts else f'returns a {type(output).__name__}, not one tensor'
                    raise SplitError(f'{family} cannot be split at {path!r}: that module {what}.')
                number = expressions.number(output)
                before.update(expressions.activations)
                cuts.append((output, number, time, len(expressions.reads), expressions.name_input(output, 'features')))

        return hook

    handles = []
    for name, module in probe.named_modules():
        handles.append(module.register_forward_pre_hook(on_enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(on_leave(name)))
    try:
        with torch.no_grad(), expressions:
            expressions.name_input(images, 'images')
            output = probe(images)
    except SplitError:
        raise
    except Exception as error:
        raise SplitError(
            f'{family} cannot be split: it does not run on images of shape {tuple(images.shape[1:])} '
            f'({_first_line(error)}).'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not cuts:
        raise SplitError(f'{family} cannot be split at {path!r}: that module does not run in the forward pass.')
    if not isinstance(output, torch.Tensor):
        raise SplitError(f'{family} cannot be split: it returns a {type(output).__name__}, not one tensor.')
    features, features_number, cut_time, num_reads, cut_number = cuts[0]
    reads_after = expressions.reads[num_reads:]
    crossing = [operator for tensor, number, operator in reads_after if tensor != id(features) and number in before]
    return _Run(
        path=path,
        images=images,
        features=features,
        features_number=features_number,
        output_number=expressions.number(output),
        calls=calls,
        num_arguments=num_arguments,
        outputs=outputs,
        cut_time=cut_time,
        reads_before={tensor for tensor, _, _ in expressions.reads[:num_reads]},
        reads_after={tensor for tensor, _, _ in reads_after},
        crossing=crossing,
        readers=expressions.readers(cut_number),
    )


@dataclasses.dataclass
class _Plan:
    """Which modules and tensors each half gives up, by path."""

    sides: Dict[str, str]  # every module that lies wholly on one side: 'before' or 'after'
    from_extractor: Dict[str, bool]  # module path -> called with more than one argument
    from_perception: Dict[str, bool]
    tensors_from_extractor: List[str]
    tensors_from_perception: List[str]


def _plan_cut(probe: nn.Module, run: _Run, family: str) -> _Plan:
    plan = _Plan({}, {}, {}, [], [])

    def tensors_read(module: nn.Module) -> Tuple[bool, bool]:
        ids = {id(t) for t in [*module.parameters(), *module.buffers()]}
        return bool(ids & run.reads_before), bool(ids & run.reads_after)

    def side_of(name: str, module: nn.Module) -> Optional[str]:
        calls = run.calls.get(name, [])
        if calls and all(end <= run.cut_time for _, end in calls):
            return 'before'
        if calls and all(start > run.cut_time for start, _ in calls):
            return 'after'
        if not calls and not any(True for _ in module.children()):
            # never called: used through its weights or a method, if at all
            read_before, read_after = tensors_read(module)
            if read_before != read_after:
                return 'before' if read_before else 'after'
            has_tensors = any(True for _ in module.parameters()) or any(True for _ in module.buffers())
            return 'after' if has_tensors and not read_before else None
        if len(calls) > 1 and any(True for _ in module.parameters()):
            raise SplitError(f'{family} cannot be split at {run.path!r}: {name!r} runs on both sides of the cut.')
        return None

    def mark(name: str, module: nn.Module, side: str) -> None:
        for child_name, _ in module.named_modules(prefix=name):
            plan.sides[child_name] = side

    def visit(name: str, module: nn.Module) -> None:
        for attribute, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None:
                continue
            tensor_name = f'{name}.{attribute}' if name else attribute
            read_before, read_after = id(tensor) in run.reads_before, id(tensor) in run.reads_after
            if read_before and not read_after:
                plan.tensors_from_perception.append(tensor_name)
            elif not read_before and isinstance(tensor, nn.Parameter):
                plan.tensors_from_extractor.append(tensor_name)
        for child_name, child in module.named_children():
            child_name = f'{name}.{child_name}' if name else child_name
            side = side_of(child_name, child)
            several_arguments = run.num_arguments.get(child_name, 1) > 1
            if side == 'before':
                plan.from_perception[child_name] = several_arguments
                mark(child_name, child, side)
            elif side == 'after':
                plan.from_extractor[child_name] = several_arguments
                mark(child_name, child, side)
            else:
                visit(child_name, child)

    visit('', probe)
    return plan


def _halves(backbone: nn.Module, plan: _Plan, tensors: Dict[int, torch.Tensor]) -> Tuple[nn.Module, nn.Module]:
    """Return both halves, with ``tensors`` (by id) in the place of the backbone's."""
    adapter = find_adapter(backbone)
    extractor = _copy_half(backbone, plan.from_extractor, plan.tensors_from_extractor, tensors)
    extractor.forward_head = pass_through  # type: ignore[assignment]
    extractor.reset_classifier = no_classifier  # type: ignore[assignment]
    extractor.num_classes = 0  # type: ignore[assignment]
    adapter.prepare_extractor(extractor)
    perception = _copy_half(backbone, plan.from_perception, plan.tensors_from_perception, tensors)
    adapter.prepare_perception(perception)
    return extractor, perception


def _copy_half(
    backbone: nn.Module,
    removed_modules: Dict[str, bool],
    removed_tensors: List[str],
    tensors: Dict[int, torch.Tensor],
) -> nn.Module:
    memo: Dict[int, Any] = dict(tensors)
    for name, several_arguments in removed_modules.items():
        module = backbone.get_submodule(name)
        memo[id(module)] = _pass_through_for(module, several_arguments)
    half = copy_module(backbone, memo)
    for name in removed_tensors:
        parent, _, attribute = name.rpartition('.')
        setattr(half.get_submodule(parent), attribute, None)
    return half


def _pass_through_for(module: nn.Module, several_arguments: bool) -> nn.Module:
    options = _options_of(type(module))
    if options and options <= _options_of(OptionPassThrough):
        return OptionPassThrough()
    if several_arguments:
        return PassThrough()
    if isinstance(module, nn.Sequential):  # families iterate and index their sequences
        return nn.Sequential(
            OrderedDict((name, _pass_through_for(child, several_arguments)) for name, child in module.named_children())
        )
    return nn.Identity()


def _options_of(module_class: Type[nn.Module]) -> Set[str]:
    """Return the names of the arguments of ``forward`` beyond the features."""
    return set(list(inspect.signature(module_class.forward).parameters)[2:])


def _prove(halves: Tuple[nn.Module, nn.Module], run: _Run, family: str, expressions: Expressions) -> None:
    extractor, perception = (half.eval() for half in halves)
    features = torch.empty_like(run.features)
    for half, inputs, key, expected in (
        (extractor, run.images, 'images', run.features_number),
        (perception, features, 'features', run.output_number),
    ):
        name = 'feature extractor' if half is extractor else 'perception branch'
        reason = 'it does work between its modules that pass-through modules cannot skip'
        if run.crossing:
            reason = f'more than one tensor crosses the cut (read after it by {run.crossing[0]})'
        try:
            with torch.no_grad(), expressions:
                expressions.name_input(inputs, key)
                output = half(inputs)
            exact = isinstance(output, torch.Tensor) and expressions.number(output) == expected
        except Exception as error:
            raise SplitError(
                f'{family} cannot be split exactly at {run.path!r}: {reason} ({name}: {_first_line(error)}).'
            ) from error
        if not exact:
            raise SplitError(f'{family} cannot be split exactly at {run.path!r}: {reason} ({name} differs).')


def _next_stage(
    probe: nn.Module,
    stages: List[str],
    run: _Run,
    plan: _Plan,
    expressions: Expressions,
) -> List[str]:
    """Return the chain of modules from the cut to the next stage, if it is a chain."""
    following = [stage for stage in stages if plan.sides.get(stage) == 'after' and stage in run.outputs]
    if not following:
        return []
    stage = min(following, key=lambda name: run.calls[name][0][1])
    stage_end = run.calls[stage][0][1]
    chain = sorted(
        (
            name
            for name in run.calls
            if name in plan.sides and plan.sides[name] == 'after' and run.calls[name][0][1] <= stage_end
        ),
        key=lambda name: run.calls[name][0][0],
    )
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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
