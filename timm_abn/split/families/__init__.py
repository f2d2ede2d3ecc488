"""The adapters of timm's families, by class."""

import torch.nn as nn

from ..adapter import Adapter
from . import cells, class_attention, convolutional, encoders, hierarchical, streams, vision_transformers

__all__ = ['FAMILIES']

FAMILIES: dict[type[nn.Module], Adapter] = {
    **cells.ADAPTERS,
    **class_attention.ADAPTERS,
    **convolutional.ADAPTERS,
    **encoders.ADAPTERS,
    **hierarchical.ADAPTERS,
    **streams.ADAPTERS,
    **vision_transformers.ADAPTERS,
}
