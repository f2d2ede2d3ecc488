"""A copy of a model's modules to work on, with the values of its own tensors."""

import torch
import torch.nn as nn

from ...split.module_copy import copy_module

__all__ = ['evaluation_copy']


@torch.inference_mode(False)
def evaluation_copy(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose parameters share the memory of the model's, and want no gradients.

    What is done to the copy (its mode, hooks, gradients) does not show on the model, and takes no second set of
    weights. Changes of the model's weights in place show on the copy.
    """
    shared: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for tensor in [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]:
            if isinstance(tensor, nn.Parameter):
                shared[id(tensor)] = nn.Parameter(tensor.detach(), requires_grad=False)
            elif isinstance(tensor, torch.Tensor):
                shared[id(tensor)] = tensor.detach()
    return copy_module(model, shared).eval()
