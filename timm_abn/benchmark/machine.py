"""What a machine can do, and what a run takes from it: rate of matrix products, time, memory."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ['describe_machine', 'matrix_product', 'peak_memory', 'precision_of_products', 'timed']

SECONDS_OF_A_SAMPLE = 0.05  # what is shorter is run several times, so that clocks and interrupts count little
_SIZES = {'cuda': 8192}
_SIZE = 4096  # of matrices: smaller ones do not reach the rate of the machine


@contextlib.contextmanager
def precision_of_products(precision: str) -> Iterator[None]:
    """Choose how CUDA multiplies float32, for convolutions and matrices alike, which PyTorch by default does not.

    Args:
        precision: 'tf32' for TF32; anything else for plain float32.
    """
    places: Any = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = precision == 'tf32'
        yield
    finally:
        for place, allowed in zip(places, before):
            place.allow_tf32 = allowed


def matrix_product(precision: str, device: torch.device) -> tuple[Callable[[], Any], int]:
    """Return a product of two square matrices, and its multiply-accumulates.

    Args:
        precision: See ``Mode``.
        device: Where it runs.
    """
    size = _SIZES.get(device.type, _SIZE)
    dtype = torch.bfloat16 if precision == 'bfloat16' else torch.float32
    matrix = torch.randn(size, size, device=device).to(dtype)
    return lambda: matrix @ matrix, size**3


def timed(run: Callable[[], Any], device: torch.device, repeats: int = 1) -> float:
    """Return the seconds of a run, until the device has done all of it.

    On a CPU with one thread they are processor time, which other work on the machine hardly touches; several threads
    wait for each other, and that counts.

    Args:
        run: What to time.
        device: Where it runs.
        repeats: How often; the result is the mean.
    """
    clock = time.process_time if device.type == 'cpu' and torch.get_num_threads() == 1 else time.perf_counter
    _synchronise(device)
    start = clock()
    for _ in range(repeats):
        run()
        _synchronise(device)
    return (clock() - start) / repeats


def peak_memory(run: Callable[[], Any], device: torch.device) -> int:
    """Return the most bytes of tensors that a run has at once, beyond those that were there before.

    What libraries take for themselves, such as oneDNN for its intermediate forms of weights, is not among them.

    Args:
        run: What to look at.
        device: Where it runs.
    """
    if device.type == 'cuda':
        _synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        _synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _quiet(), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    # events() of the public interface adds up what an operator takes and gives back, and so hides the peak
    results: Any = profile.profiler.kineto_results
    events = sorted((e for e in results.events() if e.name() == '[memory]'), key=lambda event: event.start_ns())
    present = peak = 0
    for event in events:
        present += event.nbytes()
        peak = max(peak, present)
    return peak


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine that results were measured on.

    Args:
        device: Where the networks run.
    """
    if device.type == 'cuda':
        return dict(device=torch.cuda.get_device_name(device), torch=torch.__version__, cuda=torch.version.cuda)
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
    capability = torch.backends.cpu.get_cpu_capability()
    return dict(
        device=f'{device.type} ({capability})', torch=torch.__version__, threads=torch.get_num_threads(), load=load
    )


def _synchronise(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the profiler's library writes to the error output, below Python."""
    kept = os.dup(2)
    try:
        with open(os.devnull, 'wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
