"""One run of a backbone on the meta device: what ran when, what crossed the cut, and what it computed."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn

from ..errors import TimmAbnError, one_line
from .expressions import Expressions

__all__ = ['Run', 'SplitError', 'observe']


class SplitError(TimmAbnError):
    """A backbone cannot be cut exactly at the requested place."""


@dataclasses.dataclass
class Run:
    """One observed run of the uncut backbone."""

    path: str
    images: torch.Tensor
    features: torch.Tensor  # what the map is for, of what crosses the cut
    features_number: int  # its expression in terms of the images
    output_number: int  # expression of the logits in terms of what crosses the cut
    calls: dict[str, list[tuple[int, int]]]  # module path -> (start, end) of each call, as times
    num_arguments: dict[str, int]  # module path -> most arguments it was called with
    several_results: set[str]  # paths of the modules that return several tensors
    outputs: dict[str, int]  # module path -> expression of its output
    cut_time: int
    reads_before: set[int]  # ids of the tensors read before the cut
    reads_after: set[int]
    crossing: list[str]  # operators that read, after the cut, activations other than the features


def observe(
    probe: nn.Module,
    path: str,
    images: torch.Tensor,
    expressions: Expressions,
    features_of: Callable[[Any], torch.Tensor | None],
) -> Run:
    """Run a backbone in evaluation mode on images, both on the meta device, and return what was seen.

    Raises:
        SplitError: It does not run on such images, or the module does not make the features, once.
    """
    family = type(probe).__name__
    time = 0
    calls: dict[str, list[tuple[int, int]]] = {}
    num_arguments: dict[str, int] = {}
    several_results: set[str] = set()
    outputs: dict[str, int] = {}
    open_calls: dict[str, list[int]] = {}
    cuts: list[tuple[torch.Tensor, int, int, int]] = []
    before: set[int] = set()

    def on_enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal time
        time += 1
        open_calls.setdefault(name, []).append(time)
        num_arguments[name] = max(num_arguments.get(name, 0), len(args) + len(kwargs))

    def on_leave(name: str, module: nn.Module, args: Any, output: Any) -> None:
        nonlocal time
        time += 1
        calls.setdefault(name, []).append((open_calls[name].pop(), time))
        if isinstance(output, torch.Tensor):
            outputs[name] = expressions.number(output)
        elif isinstance(output, (tuple, list)):
            several_results.add(name)
        if name == path:
            features = features_of(output)
            if cuts or features is None:
                what = 'runs more than once' if cuts else f'returns a {type(output).__name__}, not one tensor'
                raise SplitError(f'{family} cannot be split at {path!r}: that module {what}.')
            number = expressions.number(features)
            before.update(expressions.known)
            cuts.append((features, number, time, len(expressions.reads)))
            expressions.name_input(features, 'features')

    handles = []
    for name, module in probe.named_modules():
        handles.append(module.register_forward_pre_hook(functools.partial(on_enter, name), with_kwargs=True))
        handles.append(module.register_forward_hook(functools.partial(on_leave, name)))
    try:
        with torch.no_grad(), expressions:
            expressions.name_input(images, 'images')
            output = probe(images)
    except SplitError:
        raise
    except Exception as error:
        raise SplitError(
            f'{family} cannot be split: it does not run on images of shape {tuple(images.shape[1:])} '
            f'({one_line(error)}).'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not cuts:
        raise SplitError(f'{family} cannot be split at {path!r}: that module does not run in the forward pass.')
    if not isinstance(output, torch.Tensor):
        raise SplitError(f'{family} cannot be split: it returns a {type(output).__name__}, not one tensor.')
    features, features_number, cut_time, num_reads = cuts[0]
    reads_after = [read for read in expressions.reads[num_reads:] if read[0] != id(features)]
    activations = before & expressions.activations
    crossing = [operator for _, number, operator in reads_after if number in activations]
    read_after = {tensor for tensor, _, _ in expressions.reads[num_reads:]}
    # what was made of buffers alone, before the cut, may be made once more
    buffers = {id(buffer) for buffer in probe.buffers()}
    for _, number, _ in reads_after:
        read_after |= expressions.leaves(number) & buffers if number in before else set()
    return Run(
        path=path,
        images=images,
        features=features,
        features_number=features_number,
        output_number=expressions.number(output),
        calls=calls,
        num_arguments=num_arguments,
        several_results=several_results,
        outputs=outputs,
        cut_time=cut_time,
        reads_before={tensor for tensor, _, _ in expressions.reads[:num_reads]},
        reads_after=read_after,
        crossing=crossing,
    )
