"""Default device and memory format of timm's scripts."""

import argparse

import torch
import torch.nn as nn

from ..networks.multi_task import MultiTaskAttentionBranchNet
from .errors import TrainingError

__all__ = ['choose_device', 'choose_memory_format']

_WITH_A_DEVICE = ('train.py', 'validate.py', 'benchmark.py', 'inference.py')


def choose_device(script: str, settings: argparse.Namespace) -> list[str]:
    """Return the flags that choose the CPU where timm's default, a GPU, is not there.

    Raises:
        TrainingError: A GPU was asked for.
    """
    if script not in _WITH_A_DEVICE or not str(settings.device).startswith('cuda') or torch.cuda.is_available():
        return []
    if 'device' in settings.said:
        raise TrainingError(f'--device {settings.device}: torch finds no such GPU; leave it out to use the CPU.')
    settings.device = 'cpu'
    return ['--device', 'cpu']


def choose_memory_format(script: str, settings: argparse.Namespace, model: nn.Module | None) -> list[str]:
    """Return the flags that lay out images channels last on the CPU, where that is faster.

    It was measured once, a forward and a backward pass on one core: of a network of convolutions it is 1.02 (ConvNeXt)
    to 1.33 times (EfficientNet-Lite0) as fast, of a ViT 0.94, of a multi-task network 0.87 times. What a
    resumed run had, it keeps, so that it ends with the same weights. The model is None where it is not one of ours.
    """
    if script not in ('train.py', 'validate.py') or not str(settings.device).startswith('cpu'):
        return []
    if 'channels_last' in settings.said or model is None:
        return []
    if settings.resume:
        return ['--channels-last'] if settings.recorded.get('channels_last') else []
    if isinstance(model, MultiTaskAttentionBranchNet):
        return []
    of_convolutions = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Conv2d))
    is_convolutional = 2 * of_convolutions > sum(parameter.numel() for parameter in model.parameters())
    return ['--channels-last'] if is_convolutional else []
