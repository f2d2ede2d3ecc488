"""The two halves of a backbone: which modules and tensors each gives up, the halves themselves, and their proof."""

import dataclasses
import inspect
from collections import OrderedDict
from typing import Any

import torch
import torch.nn as nn

from ..errors import one_line
from .adapter import BackboneHalf, family_of
from .adapters import find_adapter, find_exact_adapter
from .expressions import Expressions
from .features import Crossing, Features, as_features
from .module_copy import copy_module
from .observation import Run, SplitError
from .pass_through import OptionPassThrough, PassThrough, TuplePassThrough, no_classifier, pass_through

__all__ = ['Plan', 'build_halves', 'join_halves', 'plan_cut', 'prove']


@dataclasses.dataclass
class Plan:
    """Which modules and tensors each half gives up, by path."""

    sides: dict[str, str]  # every module that lies wholly on one side: 'before' or 'after'
    from_extractor: dict[str, str]  # module path -> how it is called: 'one' argument, or 'first' or 'all' come through
    from_perception: dict[str, str]
    tensors_from_extractor: list[str]
    tensors_from_perception: list[str]


def plan_cut(probe: nn.Module, run: Run, family: str) -> Plan:
    """Return what each half of a backbone can give up, or raise SplitError: a module runs on both sides of the cut."""
    plan = Plan({}, {}, {}, [], [])

    def tensors_read(module: nn.Module) -> tuple[bool, bool]:
        ids = {id(t) for t in [*module.parameters(), *module.buffers()]}
        return bool(ids & run.reads_before), bool(ids & run.reads_after)

    def made_again(module: nn.Module) -> bool:
        # what it makes of buffers alone is read on both sides, such as the angles of rotary position embeddings
        read_before, read_after = tensors_read(module)
        return read_before and read_after and not any(True for _ in module.parameters())

    def side_of(name: str, module: nn.Module) -> str | None:
        calls = run.calls.get(name, [])
        if calls and all(end <= run.cut_time for _, end in calls):
            return None if made_again(module) else 'before'
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
            several = run.num_arguments.get(child_name, 1) > 1
            passes = ('all' if child_name in run.several_results else 'first') if several else 'one'
            if side is None:
                visit(child_name, child)
                continue
            (plan.from_perception if side == 'before' else plan.from_extractor)[child_name] = passes
            plan.sides.update((inner, side) for inner, _ in child.named_modules(prefix=child_name))

    visit('', probe)
    return plan


def build_halves(backbone: nn.Module, plan: Plan, tensors: dict[int, torch.Tensor]) -> tuple[nn.Module, nn.Module]:
    """Return the feature extractor and the perception branch.

    Modules are copied; ``tensors`` says by id what stands for each tensor of the backbone in the halves.
    """
    extractor = _copy_half(backbone, plan.from_extractor, plan.tensors_from_extractor, tensors)
    extractor.forward_head = pass_through  # type: ignore[assignment]
    extractor.reset_classifier = no_classifier  # type: ignore[assignment]
    extractor.num_classes = 0  # type: ignore[assignment]
    find_adapter(backbone).prepare_extractor(extractor)
    perception = _copy_half(backbone, plan.from_perception, plan.tensors_from_perception, tensors)
    find_adapter(backbone).prepare_perception(perception)
    for index, half in enumerate((extractor, perception)):
        for module in half.modules():
            adapter = find_exact_adapter(module)
            if adapter is not None and module is not half:
                (adapter.prepare_extractor, adapter.prepare_perception)[index](module)
            half_class: Any = adapter and adapter.half_classes(module)[index]
            if half_class:
                module.__class__ = half_class
    return extractor, perception


def join_halves(feature_extractor: nn.Module, perception_branch: nn.Module, plan: Plan) -> nn.Module:
    """Return the uncut backbone, of modules and tensors of its halves, which are used up by it."""
    backbone = perception_branch
    for module in [*feature_extractor.modules(), *backbone.modules()]:
        if isinstance(module, BackboneHalf):
            module.__class__ = family_of(module)  # type: ignore[assignment]
    for name in list(vars(backbone)):
        if callable(getattr(type(backbone), name, None)):
            delattr(backbone, name)  # a method that an adapter replaced
    for path in plan.from_perception:
        parent, _, name = path.rpartition('.')
        setattr(backbone.get_submodule(parent), name, feature_extractor.get_submodule(path))
    for path in plan.tensors_from_perception:
        parent, _, name = path.rpartition('.')
        setattr(backbone.get_submodule(parent), name, getattr(feature_extractor.get_submodule(parent), name))
    return backbone


def _copy_half(
    backbone: nn.Module, removed_modules: dict[str, str], removed_tensors: list[str], tensors: dict[int, torch.Tensor]
) -> nn.Module:
    memo: dict[int, Any] = dict(tensors)
    for name, passes in removed_modules.items():
        module = backbone.get_submodule(name)
        memo[id(module)] = _pass_through_for(module, passes)
    half = copy_module(backbone, memo)
    for name in removed_tensors:
        parent, _, attribute = name.rpartition('.')
        setattr(half.get_submodule(parent), attribute, None)
    return half


def _pass_through_for(module: nn.Module, passes: str) -> nn.Module:
    if passes == 'all':
        return TuplePassThrough()
    options = _options_of(type(module))
    if options and options <= _options_of(OptionPassThrough):
        return OptionPassThrough()
    if passes == 'first':
        return PassThrough()
    if isinstance(module, nn.Sequential):  # families iterate and index their sequences
        return nn.Sequential(
            OrderedDict((name, _pass_through_for(child, passes)) for name, child in module.named_children())
        )
    return nn.Identity()


def _options_of(module_class: type[nn.Module]) -> set[str]:
    """Return the names of the arguments of ``forward`` beyond the features."""
    return set(list(inspect.signature(module_class.forward).parameters)[2:])


def prove(halves: tuple[nn.Module, nn.Module], run: Run, family: str, expressions: Expressions) -> Crossing:
    """Prove that two halves, on the meta device, compute together what the backbone does, or raise SplitError.

    The first half must make the same features at the cut, and with what it returns, whatever it makes of them on the
    way out and whatever its side inputs are, the second half must come to the same output. Returns what the first does.
    """
    extractor, perception = (half.eval() for half in halves)
    features_of = find_adapter(extractor).features_of
    numbers = []

    def on_leave(module: nn.Module, args: Any, output: Any) -> None:
        features = features_of(output)
        numbers.append(expressions.number(features))  # type: ignore[arg-type]
        expressions.name_input(features, 'features')  # type: ignore[arg-type]

    reason = 'it does work between its modules, which pass-through modules cannot skip'
    if run.crossing:
        reason = f'more than one tensor crosses the cut (read after it by {run.crossing[0]})'
    name = 'feature extractor'
    handle = extractor.get_submodule(run.path).register_forward_hook(on_leave)
    try:
        with torch.no_grad(), expressions:
            expressions.name_input(run.images, 'images')
            crossing = extractor(run.images)
            features = as_features(crossing)
            tensors = [features.x, *features.side_inputs]
            exact = numbers == [run.features_number] and all(isinstance(t, torch.Tensor) for t in tensors)
            if exact:
                name = 'perception branch'
                # strides included, which decide how some operators compute
                inputs = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device='meta') for t in tensors]
                for copy, tensor in zip(inputs, tensors):
                    expressions.name_like(copy, tensor)
                output = perception(Features(inputs[0], inputs[1:]) if len(inputs) > 1 else inputs[0])
                exact = isinstance(output, torch.Tensor) and expressions.number(output) == run.output_number
    except Exception as error:
        raise SplitError(
            f'{family} cannot be split exactly at {run.path!r}: {reason} ({name}: {one_line(error)}).'
        ) from error
    finally:
        handle.remove()
    if not exact:
        raise SplitError(f'{family} cannot be split exactly at {run.path!r}: {reason} ({name} differs).')
    return crossing
