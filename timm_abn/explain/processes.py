"""The processes of ``torch.distributed`` that share a task; one alone where there are none."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

__all__ = ['of_all_processes', 'rank_and_size', 'shared_scratch_folder', 'wait_for_all']

T = TypeVar('T')


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
