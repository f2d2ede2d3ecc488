"""Finding the nearest exact cut to one that cannot be exact."""

import itertools
from collections.abc import Callable

import torch
import torch.nn as nn

__all__ = ['nearest_cut']

_MOST_TRIES = 6


def nearest_cut(
    probe: nn.Module, path: str, images: torch.Tensor, stages: list[str], is_exact: Callable[[str], bool]
) -> str | None:
    """Return the path of the module nearest to another one, in order of execution, after which the cut is exact.

    None if there is none among the modules around it and around those that it is part of, its parts and the stages.
    """
    ends = _ends_of_calls(probe, images)
    # its parts stand for what does not run itself, such as a list of blocks
    end = max((last for name, last in ends.items() if f'{name}.'.startswith(f'{path}.')), default=None)
    if end is None:
        return None

    def distance(name: str) -> int:
        return abs(ends[name] - end)

    around: list[str] = []
    level = path
    while level:
        parent = level.rpartition('.')[0]
        siblings = [f'{parent}.{name}'.lstrip('.') for name, _ in probe.get_submodule(parent).named_children()]
        siblings = [name for name in siblings if name in ends and name != level]
        around += [level, *sorted(siblings, key=distance)[:2]]
        level = parent
    parts = [] if path in ends else [f'{path}.{name}' for name, _ in probe.get_submodule(path).named_children()]
    candidates = {name: None for name in [*around, *parts, *stages] if name in ends and name != path}
    found = sorted(candidates, key=distance)
    return next((name for name in found[:_MOST_TRIES] if is_exact(name)), None)


def _ends_of_calls(probe: nn.Module, images: torch.Tensor) -> dict[str, int]:
    ends: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda *call: ends.update({name: next(time)})

    time = itertools.count()
    handles = [module.register_forward_hook(note(name)) for name, module in probe.named_modules() if name]
    try:
        with torch.no_grad():
            probe(images)
    except Exception:
        return {}  # it does not run at all, as the refusal says
    finally:
        for handle in handles:
            handle.remove()
    return ends
