"""The processes that torchrun started, of which each takes its share of a command's work."""

import contextlib
from collections.abc import Iterator

__all__ = ['process_group']


@contextlib.contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """Yield the rank of this process and the number of processes: (0, 1) where torchrun started one, or none.

    Those of torchrun join in a process group of ``torch.distributed`` (gloo for tensors on the CPU and for objects,
    NCCL for those on a GPU), which is left at the end; each has a GPU of its own as its current one, where there are
    enough. An existing process group is used, and not left.

    Raises:
        ProcessError: The environment tells of other processes, which cannot be found.
    """
    import torch
    import torch.distributed as dist

    from timm_abn.explain.processes import is_one_of_several, join_process_group, local_rank

    if dist.is_available() and dist.is_initialized():
        yield dist.get_rank(), dist.get_world_size()
        return
    if not is_one_of_several():
        yield 0, 1
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    join_process_group(dist.init_process_group, 'cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo')
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()
