"""A copy of a model's modules to work on, with the values of its own tensors."""

import torch
import torch.nn as nn

from ...split.module_copy import copy_module, tensors_of

__all__ = ['evaluation_copy']


@torch.inference_mode(False)
def evaluation_copy(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose parameters share the memory of the model's, and want no gradients.

    What is done to the copy (its mode, hooks, gradients) does not show on the model, and takes no second set of
    weights. Changes of the model's weights in place show on the copy.
    """
    shared = {
        id(tensor): nn.Parameter(tensor.detach(), requires_grad=False)
        if isinstance(tensor, nn.Parameter)
        else tensor.detach()
        for tensor in tensors_of(model)
    }
    return copy_module(model, shared).eval()
