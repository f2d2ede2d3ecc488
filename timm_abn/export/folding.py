"""Folding batch norm into the convolution before it, which is the same function with fewer passes over memory."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from ..explain.methods.evaluation_copy import evaluation_copy

__all__ = ['TOLERANCE', 'fold_batch_norm', 'relative_difference']

TOLERANCE = 1e-5  # relative_difference of logits and of maps


def fold_batch_norm(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Return a copy in evaluation mode, where convolutions do what the batch norm after them does.

    A norm is folded if all that it reads comes from one convolution, and nothing else reads that (PyTorch's
    ``fuse_conv_bn_eval``). Other tensors are shared with the model, as in ``evaluation_copy``. Outputs differ by the
    rounding of float32, about 1e-6 of the greatest; where they would differ by more than ``TOLERANCE``, as in half
    precision, nothing is folded.

    Args:
        model: A network with ``explain``, which is run once, and a second time if something is folded.
        images: Images to run it on, shape (B, in_chans, H, W).
    """
    duplicate: Any = evaluation_copy(model)
    with torch.no_grad():
        with _Uses(duplicate) as uses:
            expected = duplicate.explain(images)
        replaced = {}
        for conv, norm in uses.pairs():
            folded = fuse_conv_bn_eval(conv, norm)
            conv.weight, conv.bias = folded.weight, folded.bias
            replaced[norm] = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        if not replaced:
            return duplicate
        for module in list(duplicate.modules()):
            for name, child in module.named_children():
                if child in replaced:
                    setattr(module, name, replaced[child])
        found = duplicate.explain(images)
    pairs = ((found.logits, expected.logits), (found.attention_map, expected.attention_map))
    is_same = all(relative_difference(*pair) <= TOLERANCE for pair in pairs)
    return duplicate if is_same else evaluation_copy(model)


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Return the largest difference, as a share of the greatest expected value where that is above 1."""
    # not of each value: one near 0 among logits of hundreds is as inexact as these
    return (found - expected).abs().max() / expected.abs().max().clamp(min=1)


class _Uses(TorchFunctionMode):
    """Notes who reads what convolutions make, and what batch norms read."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        modules = list(model.modules())
        norms = [module for module in modules if type(module) in (nn.BatchNorm2d, BatchNormAct2d)]
        convs = [module for module in modules if isinstance(module, nn.Conv2d)]
        # a parametrized weight is computed anew, and is none of these
        self.convs = {id(conv.weight): conv for conv in convs if 'weight' in conv._parameters}
        self.norms = {id(norm.running_mean): norm for norm in norms if norm.running_mean is not None}
        self.made: dict[int, tuple[torch.Tensor, nn.Module]] = {}  # the tensor stays, or another gets its id
        self.readers: dict[nn.Module, set[Any]] = defaultdict(set)
        self.sources: dict[nn.Module, set[Any]] = defaultdict(set)

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = list(_tensors(args)) + list(_tensors((kwargs or {}).values()))
        if not any(True for _ in _tensors([result])):  # a shape, a type
            return result
        second = args[1] if len(args) > 1 else None
        norm = self.norms.get(id(second)) if func is F.batch_norm else None
        made_by = self.convs.get(id(second)) if func is torch.conv2d else None
        for tensor in given:
            _, conv = self.made.get(id(tensor), (None, None))
            if conv is not None:
                self.readers[conv].add(norm)
            if id(tensor) in self.convs and made_by is None:  # something else is made of its weight
                self.readers[self.convs[id(tensor)]].add(None)
        if norm is not None:
            self.sources[norm].add(self.made.get(id(args[0]), (None, None))[1])
        if made_by is not None:
            self.made[id(result)] = result, made_by
        return result

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Yield convolutions, and the norms that can be folded into them."""
        for norm, sources in self.sources.items():
            (conv, *others) = sources
            if conv is not None and not others and self.readers[conv] == {norm}:
                yield conv, norm


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
