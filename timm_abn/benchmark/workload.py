"""What is run: an explanation, a prediction or a training step of one network in one mode."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.models import get_model_input_config
from torch.utils.flop_counter import FlopCounterMode

from ..errors import one_line
from ..networks.multi_task import MultiTaskAttentionBranchNet
from ..split.module_copy import copy_module, meta_tensors
from ..training.loss import AttentionBranchLoss
from .machine import precision_of_products
from .modes import BenchmarkError, Mode

__all__ = ['Run', 'count_macs', 'in_mode', 'num_bytes', 'prepare', 'with_image_size']


Run = Callable[[], dict[str, torch.Tensor]]


def with_image_size(model: nn.Module, size: int | None, name: str) -> nn.Module:
    """Return a network for square images of a size: itself, or a copy that was adapted.

    Args:
        model: The network.
        size: Height and width; None for its own.
        name: What to call it in messages.

    Raises:
        BenchmarkError: It takes no such images.
    """
    config = get_model_input_config(model)
    if size is None or tuple(config['input_size'][1:]) == (size, size):
        return model
    adapted: Any = copy.deepcopy(model)
    try:
        if hasattr(adapted, 'set_input_size'):
            adapted.set_input_size((size, size))
        elif config['fixed_input_size']:
            raise BenchmarkError('its images keep their size')
        count_macs(adapted, torch.empty(1, config['input_size'][0], size, size), training=False)
    except Exception as error:  # as many kinds as there are families
        raise BenchmarkError(f'{name} takes no images of {size} x {size}: {one_line(error)}') from error
    return adapted


def in_mode(model: nn.Module, mode: Mode, device: torch.device, training: bool) -> nn.Module:
    """Return a copy of a network with its weights as a mode wants them.

    In bfloat16 weights are cast for an explanation; for a training step, which autocasts, they stay in float32.

    Args:
        model: The network.
        mode: How to run it.
        device: Where to run it.
        training: Whether to run training steps.
    """
    layout = torch.channels_last if mode.channels_last else torch.contiguous_format
    copied: Any = copy.deepcopy(model).to(device, _dtype(mode, training))
    return copied.to(memory_format=layout).train(training)


def prepare(model: nn.Module, mode: Mode, images: torch.Tensor, training: bool) -> Run:
    """Return what runs a network once, and returns logits and attention map by name, in training nothing.

    A training step is forward, loss of both branches, backward and plain SGD.

    Args:
        model: The network, as ``in_mode`` returned it.
        mode: How to run it.
        images: Shape (B, in_chans, H, W), on the device of the network.
        training: Whether to run training steps.
    """
    layout = torch.channels_last if mode.channels_last else torch.contiguous_format
    images = images.to(_dtype(mode, training)).contiguous(memory_format=layout)
    step = _training_step(model, mode, images) if training else _explanation(model, mode, images)

    def run() -> dict[str, torch.Tensor]:
        with precision_of_products(mode.precision):
            return step()

    return run


def _dtype(mode: Mode, training: bool) -> torch.dtype:
    return torch.bfloat16 if mode.precision == 'bfloat16' and not training else torch.float32


def _explanation(model: Any, mode: Mode, images: torch.Tensor) -> Run:
    answer = _compiled(model.explain if hasattr(model, 'explain') else model, mode)

    @torch.inference_mode()
    def run() -> dict[str, torch.Tensor]:
        outputs = answer(images)
        if isinstance(outputs, torch.Tensor):
            return dict(logits=outputs)
        return dict(logits=outputs.logits, attention_map=outputs.attention_map)

    return run


def _training_step(model: Any, mode: Mode, images: torch.Tensor) -> Run:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    answer = _compiled(model, mode)
    criterion, target = _criterion_and_target(model, images)
    in_bfloat16 = mode.precision == 'bfloat16'  # else there is no autocast at all, which the meta device has not

    def run() -> dict[str, torch.Tensor]:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16) if in_bfloat16 else contextlib.nullcontext():
            loss = criterion(answer(images), target)
        loss.backward()
        optimizer.step()
        return {}

    return run


def _criterion_and_target(model: Any, images: torch.Tensor) -> tuple[nn.Module, torch.Tensor]:
    # some answer: a class for each image, or of tasks yes to each
    if isinstance(model, MultiTaskAttentionBranchNet):
        target = torch.ones(len(images), model.num_classes, device=images.device)
        return AttentionBranchLoss(F.binary_cross_entropy_with_logits), target
    return AttentionBranchLoss(F.cross_entropy), torch.zeros(len(images), dtype=torch.long, device=images.device)


def _compiled(function: Any, mode: Mode) -> Any:
    if not mode.compiler:
        return function
    return torch.compile(function, mode=mode.compiler, dynamic=False)


def count_macs(model: nn.Module, images: torch.Tensor, training: bool) -> int:
    """Return the multiply-accumulates of a run, those of matrix products and convolutions.

    They are counted on the meta device, where attention is made of products, which can be counted, and costs nothing.

    Args:
        model: The network.
        images: Shape (B, in_chans, H, W).
        training: Whether of a training step.
    """
    duplicate: Any = copy_module(model, meta_tensors(model))
    duplicate.train(training)
    images = torch.empty(images.shape, device='meta')
    counter = FlopCounterMode(display=False)
    with counter:
        _training_step(duplicate, Mode(), images)() if training else _explanation(duplicate, Mode(), images)()
    return counter.get_total_flops() // 2


def num_bytes(model: nn.Module) -> int:
    """Return the bytes of the parameters and buffers of a network.

    Args:
        model: The network.
    """
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
