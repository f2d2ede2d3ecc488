"""Cutting a timm backbone in two, exactly: the cut, its proof, and what families need besides (adapters)."""

from .adapter import Adapter, Half, family_of
from .adapters import find_adapter, register_adapter
from .cut import Cut, Split, SplitError, cut_backbone, resolve_split, split_backbone

__all__ = [
    'Adapter',
    'Cut',
    'Half',
    'Split',
    'SplitError',
    'cut_backbone',
    'family_of',
    'find_adapter',
    'register_adapter',
    'resolve_split',
    'split_backbone',
]
