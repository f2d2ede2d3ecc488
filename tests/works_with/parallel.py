"""Checks of several processes, and of the copies that DataParallel makes of a model."""

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.nn as nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel.replicate import replicate

from .subjects import Subject, gradients_of, loss_of, outputs_of

WORLD_SIZE = 2


def data_parallel(subject: Subject) -> None:
    """Copies that share the model's parameters run in parallel; their gradients add up to the model's."""
    model, images = subject.make().train(), subject.images(4)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # so that halves of a batch do not differ from the whole
    expected_outputs, expected = outputs_of(model, images), gradients_of(copy.deepcopy(model), images)
    # devices of their own are all that copies on the CPU lack
    with mock.patch(
        'torch.nn.parallel.replicate._broadcast_coalesced_reshape',
        lambda tensors, devices, detach=False: [list(tensors) for _ in devices],
    ):
        replicas = replicate(model, [0, 1])
    outputs: list[Any] = [None, None]

    def run(index: int) -> None:
        outputs[index] = outputs_of(replicas[index], images.chunk(2)[index])

    workers = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    gathered = [torch.cat(parts) for parts in zip(*outputs, strict=True)]
    torch.testing.assert_close(gathered, list(expected_outputs))
    sum(logits.logsumexp(1).sum() for logits in gathered).backward()
    actual = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def distributed(subject: Subject, folder: Path) -> None:
    """Two processes of DistributedDataParallel: gradients are the means over both, in two steps."""
    _on_two_processes(_train_distributed, subject, folder)


def fully_sharded(subject: Subject, folder: Path) -> None:
    """Two processes of FSDP2: stages and model are sharded; outputs and gradients equal those of one process."""
    _on_two_processes(_train_sharded, subject, folder)


def _on_two_processes(train: Callable[[Subject, int], None], subject: Subject, folder: Path) -> None:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip('PyTorch is built without gloo')
    address = f'file://{folder}/rendezvous'
    torch.multiprocessing.spawn(_run, args=(address, train, subject), nprocs=WORLD_SIZE, start_method='spawn')


def _run(rank: int, address: str, train: Callable[[Subject, int], None], subject: Subject) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=WORLD_SIZE)
    train(subject, rank)
    dist.destroy_process_group()


def _train_distributed(subject: Subject, rank: int) -> None:
    model, images = subject.make().train(), subject.images(2 * WORLD_SIZE).chunk(WORLD_SIZE)[rank]
    expected = gradients_of(copy.deepcopy(model), images)
    for gradient in expected.values():
        dist.all_reduce(gradient)
        gradient /= WORLD_SIZE
    parallel = nn.parallel.DistributedDataParallel(model)
    for _ in range(2):  # a parameter without a gradient would fail the second step
        parallel.zero_grad()
        loss_of(parallel, images).backward()
    actual = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def _train_sharded(subject: Subject, rank: int) -> None:
    model: Any = subject.make().train()
    images = subject.images(2 * WORLD_SIZE).chunk(WORLD_SIZE)[rank]
    reference = copy.deepcopy(model)
    expected_outputs, expected = outputs_of(reference, images), gradients_of(copy.deepcopy(model), images)
    mesh = dist.device_mesh.init_device_mesh('cpu', (WORLD_SIZE,))
    for info in model.feature_info:
        stage = model.get_submodule(info['module'])
        if any(True for _ in stage.parameters()):
            fully_shard(stage, mesh=mesh)
    fully_shard(model, mesh=mesh)
    outputs = outputs_of(model, images)
    torch.testing.assert_close(outputs, expected_outputs)
    sum(logits.logsumexp(1).sum() for logits in outputs).backward()
    for name, parameter in model.named_parameters():
        gradient = expected[name]
        dist.all_reduce(gradient)
        torch.testing.assert_close(parameter.grad.full_tensor(), gradient / WORLD_SIZE, rtol=1e-3, atol=1e-4)
