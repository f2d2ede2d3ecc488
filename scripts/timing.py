"""How the scripts time runs beside each other, and beside what the machine can do; what a run takes, and waits for.

What is compared runs in turn, as do a product of matrices and convolutions, whose best rate is the ceiling: a drift of
the machine hits all. Figures are medians of rounds, ratios are medians of those within a round.
"""

import copy
import dataclasses
import functools
import itertools
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
import torch.nn as nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ['Case', 'Run', 'count_macs', 'machine_cases', 'measure', 'peak_memory', 'timed', 'waits']

SECONDS_OF_A_SAMPLE = 0.05  # what is shorter is run several times, so that clocks and interrupts count little
SIDES = {'cuda': 8192, 'cpu': 4096}  # of matrices: smaller ones do not reach the rate of the machine
BATCHES = {'cuda': 128, 'cpu': 4}  # of the convolutions
WIDTH, PLACES = 256, 28  # a stage of ResNet-50, where convolutions are the fastest

# calls that wait for a GPU; and operators that would, as a CPU shows them
WAITS = 'Synchronize|DtoH|aten::(item|_local_scalar|is_nonzero|nonzero|equal|masked_select)'

Run = Callable[[], Any]


@dataclasses.dataclass(eq=False)
class Case:
    """What is timed, of how many images; of it, multiply-accumulates of one image, and most bytes of tensors at once.

    In each round: the seconds, and the multiply-accumulates per second of the machine's best.
    """

    name: str
    run: Run
    images: int
    num_macs: int
    num_bytes: int
    seconds: list[float] = dataclasses.field(default_factory=list)
    ceilings: list[float] = dataclasses.field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Multiply-accumulates per second in each round."""
        return [self.num_macs * self.images / seconds for seconds in self.seconds]

    @property
    def share_of_ceiling(self) -> float:
        """Multiply-accumulates per second as a share of those of the machine's best in the same round."""
        return median(rate / ceiling for rate, ceiling in zip(self.rates, self.ceilings, strict=True))

    def time_beside(self, other: 'Case', per_mac: bool = False) -> float:
        """Return the time of a run, or of a multiply-accumulate, as a multiple of another's in the same round."""
        ratio = median(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))
        return ratio * other.num_macs / self.num_macs if per_mac else ratio


def measure(cases: Sequence[Case], place: torch.device, rounds: int, dtype: torch.dtype = torch.float32) -> Case:
    """Time all cases in each round, which begins with another one each time, and after them what gives the ceiling.

    Returns:
        The best of ``machine_cases``, whose rate is the ceiling.
    """
    machine = machine_cases(place, dtype)
    everything = [*cases, *machine]
    for case in everything:
        case.run()  # the first also prepares
    repeats = [max(1, math.ceil(SECONDS_OF_A_SAMPLE / timed(case.run, place))) for case in everything]
    for index in range(rounds):
        for position in range(len(cases)):
            number = (position + index) % len(cases)
            cases[number].seconds.append(timed(cases[number].run, place, repeats[number]))
        for case, times in zip(machine, repeats[len(cases) :]):
            case.seconds.append(timed(case.run, place, times))
        for case in cases:
            case.ceilings.append(max(other.rates[-1] for other in machine))
    return max(machine, key=lambda case: median(case.rates))


def machine_cases(place: torch.device, dtype: torch.dtype) -> list[Case]:
    """Return what can be the fastest arithmetic of the machine: a product of matrices, and convolutions.

    On a CPU they come from different libraries, of which either can be twice as fast as the other.
    """
    side, batch = SIDES[place.type], BATCHES[place.type]
    matrix = torch.randn(side, side, device=place, dtype=dtype)
    cases = [Case('product of matrices', lambda: matrix @ matrix, 1, side**3, 0)]
    formats = {'channels-first': torch.contiguous_format, 'channels-last': torch.channels_last}
    for size, (layout, memory_format) in itertools.product((1, 3), formats.items()):
        images = torch.randn(batch, WIDTH, PLACES, PLACES, device=place, dtype=dtype)
        conv = nn.Conv2d(WIDTH, WIDTH, size, padding=size // 2, bias=False, device=place, dtype=dtype)
        images, conv = images.to(memory_format=memory_format), conv.to(memory_format=memory_format)  # type: ignore[call-overload]
        num_macs = WIDTH**2 * size**2 * PLACES**2
        run = torch.inference_mode()(functools.partial(conv, images))
        cases.append(Case(f'{size}x{size} convolution, {layout}', run, batch, num_macs, 0))
    return cases


def timed(run: Run, place: torch.device, repeats: int = 1) -> float:
    """Return the mean seconds of a run, until the device has done all of it."""
    clock = time.process_time if place.type == 'cpu' and torch.get_num_threads() == 1 else time.perf_counter
    wait = torch.cuda.synchronize if place.type == 'cuda' else lambda: None
    wait()
    start = clock()
    for _ in range(repeats):
        run()
        wait()
    return (clock() - start) / repeats


def peak_memory(run: Run, place: torch.device) -> int:
    """Return the most bytes of tensors that a run has at once, beyond those that were there before.

    What libraries take for themselves, such as oneDNN for its intermediate forms of weights, is not among them.
    """
    if place.type == 'cuda':
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated(place)
        torch.cuda.reset_peak_memory_stats(place)
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(place) - before
    # events() of the public interface adds up what an operator takes and gives back, and so hides the peak
    results: Any = _profiled(run, place, memory=True).profiler.kineto_results
    events = sorted((e for e in results.events() if e.name() == '[memory]'), key=lambda event: event.start_ns())
    present = peak = 0
    for event in events:
        present += event.nbytes()
        peak = max(peak, present)
    return peak


def _profiled(run: Run, place: torch.device, memory: bool = False) -> Any:
    """Return what torch's profiler saw of a run."""
    names = ('CPU', 'CUDA') if place.type == 'cuda' else ('CPU',)
    activities = [getattr(torch.profiler.ProfilerActivity, name) for name in names]
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # the profiler's library writes to the error output, below Python
    try:
        with torch.profiler.profile(activities=activities, profile_memory=memory) as profile:
            run()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    return profile


def waits(run: Run, place: torch.device) -> list[str]:
    """Return the calls in a run that make the processor wait for the card; on a CPU those that would."""

    def marked() -> None:
        with torch.profiler.record_function('the run'):
            run()

    events = _profiled(marked, place).events()
    on_cpu = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    span = next(event.time_range for event in on_cpu if event.name == 'the run')
    # before and after it the profiler waits, too; copies to the processor are seen on the card
    within = {event.name for event in on_cpu if span.start <= event.time_range.start <= span.end}
    copies = {event.name for event in events if 'DtoH' in event.name}
    return sorted(name for name in within | copies if re.search(WAITS, name))


def count_macs(model: Any, images: torch.Tensor, prepare: Callable[[Any, torch.Tensor], Run]) -> int:
    """Return the multiply-accumulates of a run, counted on the meta device, where attention is made of products."""
    run = prepare(copy.deepcopy(model).to('meta'), images.to('meta'))
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2
