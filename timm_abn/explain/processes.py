"""The processes of ``torch.distributed`` that share a task; one alone where there are none."""

import contextlib
import os
import queue
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..errors import TimmAbnError, one_line

__all__ = [
    'ProcessError',
    'is_one_of_several',
    'join_process_group',
    'local_rank',
    'of_all_processes',
    'process_group',
    'rank_and_size',
    'shared_scratch_folder',
    'wait_for_all',
]

T = TypeVar('T')

_PATIENCE = 120.0  # seconds until all processes are there; torchrun starts them together
_ADVICE = 'start them with torchrun, or unset {size} for a single process'


class ProcessError(TimmAbnError):
    """The environment tells of processes that do not come together; the message says why, in one line."""


def is_one_of_several(rank_name: str = 'RANK', size_name: str = 'WORLD_SIZE') -> bool:
    """Return whether the environment tells of several processes that share a task, as torchrun does.

    Raises:
        ProcessError: It does, but what a process needs to find the others is missing or makes no sense.
    """
    if rank_name not in os.environ or size_name not in os.environ:
        return False
    rank, size = _number(rank_name), _number(size_name)
    if size < 2:
        return False
    advice = _ADVICE.format(size=size_name)
    if rank >= size:
        raise ProcessError(f'{rank_name} is {rank}, but {size_name} is {size}; {advice}')
    for name in ('MASTER_ADDR', 'MASTER_PORT'):
        if not os.environ.get(name):
            raise ProcessError(f'{size_name} is {size}, but {name}, where the processes connect, is not set; {advice}')
    _number('MASTER_PORT')
    return True


def local_rank() -> int:
    """Return the number of this process among those of this machine, 0 of one that is alone."""
    return _number('LOCAL_RANK') if is_one_of_several() else 0


def _number(name: str) -> int:
    text = os.environ.get(name, '0')
    if not text.isdecimal():
        raise ProcessError(f'the environment variable {name} must be a number, got {text!r}; unset it, or correct it')
    return int(text)


def join_process_group(initialize: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Call ``torch.distributed.init_process_group``; where nobody answers, wait for two minutes at most.

    It runs in a thread, since by itself it waits for half an hour, deaf to Ctrl-C.

    Raises:
        ProcessError: The processes do not come together.
    """
    outcome: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    host, port = (os.environ.get(name, '') for name in ('MASTER_ADDR', 'MASTER_PORT'))

    def join() -> None:
        try:
            socket.getaddrinfo(host, port)  # of an address that does not exist PyTorch warns again and again
            initialize(*args, **kwargs)
            outcome.put(None)
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=join, daemon=True).start()
    advice = _ADVICE.format(size='WORLD_SIZE')
    try:
        error = outcome.get(timeout=_PATIENCE)
    except queue.Empty:
        raise ProcessError(f'not all processes connected to {host}:{port} in {_PATIENCE:g} s; {advice}') from None
    if error is not None:
        raise ProcessError(f'the processes cannot connect at {host}:{port}: {one_line(error)}; {advice}') from None


@contextlib.contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """Yield the rank of this process and the number of processes: (0, 1) where torchrun started one, or none.

    Those of torchrun join in a process group of ``torch.distributed`` (gloo for tensors on the CPU and for objects,
    NCCL for those on a GPU), which is left at the end; each has a GPU of its own as its current one, where there are
    enough. An existing process group is used, and not left.

    Raises:
        ProcessError: The environment tells of other processes, which cannot be found.
    """
    if (dist.is_available() and dist.is_initialized()) or not is_one_of_several():
        yield rank_and_size()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    join_process_group(dist.init_process_group, 'cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo')
    try:
        yield rank_and_size()
    finally:
        dist.destroy_process_group()


def rank_and_size() -> tuple[int, int]:
    """Return the number of this process, from 0, and how many there are."""
    is_shared = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if is_shared else (0, 1)


def wait_for_all() -> None:
    """Wait until all processes have come here."""
    if rank_and_size()[1] > 1:
        dist.barrier()


def of_all_processes(own: list[T]) -> list[T]:
    """Return what all processes have, those of the first process first."""
    _, size = rank_and_size()
    if size == 1:
        return own
    found: list[list[T]] = [[] for _ in range(size)]
    dist.all_gather_object(found, own)
    return [entry for entries in found for entry in entries]


@contextlib.contextmanager
def shared_scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder, the same in all processes of a machine; the first one makes and removes it."""
    rank, _ = rank_and_size()
    with contextlib.ExitStack() as stack:
        own = [stack.enter_context(tempfile.TemporaryDirectory(prefix='timm-abn-'))] if rank == 0 else []
        yield Path(of_all_processes(own)[0])
        wait_for_all()
