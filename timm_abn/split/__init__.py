"""Cutting a timm backbone in two, exactly: the cut, its proof, and what families need besides (adapters)."""

from .adapter import Adapter, BackboneHalf, family_of
from .adapters import find_adapter, register_adapter
from .cut import Cut, Split, SplitError, cut_backbone, cut_behind_last_stage, split_backbone
from .features import Features, as_features

__all__ = [
    'Adapter',
    'Cut',
    'Features',
    'BackboneHalf',
    'Split',
    'SplitError',
    'as_features',
    'cut_backbone',
    'cut_behind_last_stage',
    'family_of',
    'find_adapter',
    'register_adapter',
    'split_backbone',
]
