"""The private modules of timm that this package needs, in one place: what to look at when a new timm breaks something.

Tried with timm 1.0.31. timm promises nothing about these modules between versions.
"""

from timm.data.dataset_factory import _search_split as search_split
from timm.models._builder import resolve_pretrained_cfg
from timm.models._features import feature_take_indices
from timm.models._helpers import _torch_load as torch_load
from timm.models._hub import load_model_config_from_path
from timm.models._input import update_model_args, update_model_input_size

__all__ = [
    'feature_take_indices',
    'load_model_config_from_path',
    'resolve_pretrained_cfg',
    'search_split',
    'torch_load',
    'update_model_args',
    'update_model_input_size',
]
