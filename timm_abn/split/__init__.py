"""Cutting a timm backbone in two, exactly: the cut, its proof, and what families need besides (adapters)."""

from .adapters import Adapter, find_adapter, register_adapter
from .cut import Cut, Split, SplitError, cut_backbone, resolve_split, split_backbone

__all__ = [
    'Adapter',
    'Cut',
    'Split',
    'SplitError',
    'cut_backbone',
    'find_adapter',
    'register_adapter',
    'resolve_split',
    'split_backbone',
]
