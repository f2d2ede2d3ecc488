"""Mixed precision where it pays: some CPUs compute in 16 bits many times slower than in 32."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ['cpu_is_fast_in']

# as PyTorch calls them: of x86, of x86, of Arm
_INSTRUCTIONS = {
    torch.bfloat16: ('avx512_bf16', 'amx_bf16', 'bf16'),
    torch.float16: ('avx512_fp16', 'amx_fp16', 'fp16_arith'),
}


def cpu_is_fast_in(dtype: torch.dtype) -> bool:
    """Return whether this CPU computes in a type of 16 bits at least as fast as in float32.

    PyTorch says which instructions the CPU has; where it does not (older versions, other kinds of CPUs), products of
    matrices are timed.

    Args:
        dtype: ``torch.bfloat16`` or ``torch.float16``.
    """
    capabilities: Mapping[str, Any] = getattr(torch.cpu, 'get_capabilities', dict)()
    said = [capabilities[name] for name in _INSTRUCTIONS[dtype] if name in capabilities]
    if said:
        return any(said)
    return _seconds_of_a_product(dtype) <= _seconds_of_a_product(torch.float32)


def _seconds_of_a_product(dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> float:
    matrix = torch.ones(256, 256, dtype=dtype)
    seconds = []
    for _ in range(5):  # the first also prepares
        start = clock()
        matrix @ matrix
        seconds.append(clock() - start)
    return min(seconds)
