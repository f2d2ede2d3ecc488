"""Evidence at a place: what the head of a classifier says of that place alone.

The head (``forward_head`` of timm: the pooling, and what follows it) is applied to each place of the last features as
if the image had no other. Where it is linear on their mean, that is CAM (Zhou et al., CVPR 2016), and the mean of the
maps is the logits. What vision transformers read is traced back further (``last_attention``).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from timm.models import get_model_input_config

from ..errors import TimmAbnError, one_line
from ..split.module_copy import copy_module, meta_tensors

__all__ = ['Places', 'find_places', 'is_linear']


@dataclasses.dataclass(frozen=True)
class Places:
    """How the last features of a classifier are laid out over the image.

    Attributes:
        layout: 'NCHW', 'NHWC', or 'NLC' of tokens.
        num_channels: Of the features.
        num_prefix_tokens: Tokens before those of places (class and register tokens).
        reduction: Pixels of the image per token, along one side.
    """

    layout: str
    num_channels: int
    num_prefix_tokens: int = 0
    reduction: int = 1

    def to_maps(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return features of shape (B, C, h, w); ``images`` tell the grid of tokens."""
        if self.layout == 'NCHW':
            return features
        if self.layout == 'NHWC':
            return features.permute(0, 3, 1, 2)
        tokens = features[:, self.num_prefix_tokens :].transpose(1, 2)
        height, width = (-(-side // self.reduction) for side in images.shape[2:])  # padded to whole tokens
        if height * width != tokens.shape[2]:
            height, width = self.grid_of(images.shape[1:])
        return tokens.unflatten(2, (height, width))

    def grid_of(self, size: Sequence[int]) -> torch.Size:
        """Return the rows and columns of tokens of an image of ``size``, (C, H, W)."""
        return torch.Size([side // self.reduction for side in size[1:]])

    def each_alone(self, maps: torch.Tensor) -> torch.Tensor:
        """Return features of B * h * w images that have one place each, of maps (B, C, h, w)."""
        rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
        if self.layout == 'NLC':
            return rows[:, None].expand(-1, self.num_prefix_tokens + 1, -1)
        return rows[:, :, None, None] if self.layout == 'NCHW' else rows[:, None, None, :]


def find_places(model: nn.Module) -> Places:
    """Return how the last features of a classifier are laid out.

    Args:
        model: A model of timm, which is not run: its shapes are found on the meta device.

    Raises:
        TimmAbnError: It has no classifier, or no places that one could be applied to.
    """
    classifier: Any = model
    family = type(model).__name__
    if not hasattr(model, 'forward_head'):
        raise TimmAbnError(f'attach() takes classifiers of timm, which have a forward_head; {family} has none.')
    if not getattr(model, 'num_classes', 0):
        raise TimmAbnError(f'{family} has no classifier whose evidence could be shown: attach() needs num_classes > 0.')
    probe: Any = copy_module(model, dict(meta_tensors(model))).eval()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    size = get_model_input_config(model)['input_size']
    try:
        with torch.no_grad():
            features = probe.forward_features(torch.empty((1, *size), device='meta', dtype=dtype))
    except Exception as error:  # of a dozen types
        raise TimmAbnError(f'{family} does not make features of images of {size}: {one_line(error)}.') from error
    if not isinstance(features, torch.Tensor) or features.ndim not in (3, 4):
        found = tuple(features.shape) if isinstance(features, torch.Tensor) else f'several ({type(features).__name__})'
        raise TimmAbnError(f'{family} cannot be explained place by place: its last features are {found}.')
    if features.ndim == 3:
        return _places_of_tokens(classifier, features, size)
    first, last = features.shape[1], features.shape[3]
    is_last = last == model.num_features and (first != last or getattr(model, 'output_fmt', '') == 'NHWC')
    return Places('NHWC', last) if is_last else Places('NCHW', first)


def _places_of_tokens(model: Any, features: torch.Tensor, size: tuple[int, int, int]) -> Places:
    """Return the layout of tokens, whose grid is that of the last stage."""
    _, height, width = size
    tokens = features.shape[1]
    infos = getattr(model, 'feature_info', None) or [{}]
    for reduction in (infos[-1].get('reduction'), round(math.sqrt(height * width / tokens))):  # some merge tokens later
        places = (height // reduction) * (width // reduction) if reduction else 0
        prefix = tokens - places
        if places > 1 and 0 <= prefix <= tokens // 2:
            return Places('NLC', features.shape[2], prefix, reduction)
    raise TimmAbnError(
        f'{type(model).__name__} cannot be explained place by place: its {tokens} last tokens are no grid of places.'
    )


@torch.no_grad()
def is_linear(model: nn.Module, places: Places) -> bool:
    """Return whether logits are ``get_classifier()``, one linear layer, on what the head makes of a place before it."""
    classifier: Any = model.get_classifier()  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear) or classifier.weight.is_meta:
        return False
    random = torch.randn(2, places.num_channels, 2, 1, generator=torch.Generator().manual_seed(0))
    rows = places.each_alone(random.to(classifier.weight))
    head: Any = model
    pooled = head.forward_head(rows, pre_logits=True)
    if pooled.shape != (4, classifier.in_features):
        return False
    return torch.equal(classifier(pooled), head.forward_head(rows))
