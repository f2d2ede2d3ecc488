"""Gradients of two processes that share a batch."""

import torch
from torch.nn.parallel import DistributedDataParallel


def gradients_of_two(folder, make_model, loss_of, *arguments):
    """Return the gradients of each of two processes by name, of ``loss_of(model, rank, *arguments)``."""
    arguments = (str(folder), make_model, loss_of, arguments)
    torch.multiprocessing.start_processes(_one, arguments, nprocs=2, start_method='fork')
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in range(2)]


def _one(rank, folder, make_model, loss_of, arguments):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    model = DistributedDataParallel(make_model())
    loss_of(model, rank, *arguments).backward()
    torch.save({name: value.grad for name, value in model.module.named_parameters()}, f'{folder}/{rank}.pth')
    torch.distributed.destroy_process_group()
