"""The memory of a command's process: what one forward pass freed is kept for the next.

On Linux the C library returns large blocks to the system at once, and asks for them again in each layer of each forward
pass. The page faults of that take up to half of the time of a mobile network on a CPU.
"""

import ctypes

__all__ = ['keep_freed_memory']

# numbers of malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEPT = 2**31 - 1  # bytes
_ADDED = 2**28  # bytes that the heap grows by at once


def keep_freed_memory() -> None:
    """Let the C library keep freed memory, where that is glibc; for the whole process."""
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # of macOS, musl and Windows
        return
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, _ADDED)):
        set_option(option, value)
