"""How a network is run: what a mode is called, and what it changes; imports torch only to ask what a device can do."""

import dataclasses
from typing import TYPE_CHECKING

from ..errors import TimmAbnError, suggest

if TYPE_CHECKING:
    import torch

__all__ = ['DEFAULT_MODES', 'OPTIONS', 'BenchmarkError', 'Mode', 'parse_mode', 'why_not']

OPTIONS = ('channels_last', 'bf16', 'tf32', 'compile', 'max_autotune')
DEFAULT_MODES = ('eager', 'channels_last', 'bf16', 'compile')


class BenchmarkError(TimmAbnError):
    """What was asked for cannot be measured; the message says why, in one line."""


@dataclasses.dataclass(frozen=True)
class Mode:
    """How a network is run.

    Attributes:
        name: 'eager', or options joined by '+'.
        channels_last: Whether images and weights lie in memory with their channels last.
        precision: 'float32', 'tf32' (CUDA: products of float32 with 10 bits of mantissa) or 'bfloat16'.
        compiler: '' without torch.compile, else its ``mode``.
    """

    name: str = 'eager'
    channels_last: bool = False
    precision: str = 'float32'
    compiler: str = ''


def parse_mode(name: str) -> Mode:
    """Return the mode of a name.

    Args:
        name: 'eager', or some of ``OPTIONS`` joined by '+', such as 'channels_last+compile'.

    Raises:
        BenchmarkError: There is no such mode, or its options contradict each other.
    """
    options = [] if name == 'eager' else name.split('+')
    for option in options:
        if option not in OPTIONS:
            known = ('eager', *OPTIONS)
            hint = suggest(option, known, otherwise=f'there are {", ".join(known)}, and options joined by +')
            raise BenchmarkError(f'no mode is called {option!r}; {hint}')
    for pair in (('bf16', 'tf32'), ('compile', 'max_autotune')):
        if all(option in options for option in pair):
            raise BenchmarkError(f'mode {name!r}: {" and ".join(pair)} exclude each other')
    return Mode(
        name,
        channels_last='channels_last' in options,
        precision='bfloat16' if 'bf16' in options else 'tf32' if 'tf32' in options else 'float32',
        compiler='max-autotune' if 'max_autotune' in options else 'default' if 'compile' in options else '',
    )


def why_not(mode: Mode, device: 'torch.device') -> str:
    """Return why a device has no fast path for a mode; nothing if it has.

    Args:
        mode: The mode.
        device: Where it would run.
    """
    import torch

    from ..training.precision import cpu_is_fast_in

    is_cuda = device.type == 'cuda'
    if mode.precision == 'tf32' and not (is_cuda and torch.cuda.get_device_capability(device) >= (8, 0)):
        return 'TF32 takes a GPU of compute capability 8.0 or higher'
    if mode.precision == 'bfloat16' and is_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        return 'this GPU has no instructions for bfloat16'
    if mode.precision == 'bfloat16' and device.type == 'cpu' and not cpu_is_fast_in(torch.bfloat16):
        return 'this CPU computes in bfloat16 slower than in float32'
    return ''
