"""Attention Branch Networks for timm. Importing this package registers its models with timm."""

import importlib
from typing import TYPE_CHECKING, Any

from .attached.network import AttachedNet
from .checkpoint_files import CheckpointError
from .data.class_names import class_names
from .errors import TimmAbnError
from .hub.config import HubError
from .maps.explanation import Explanation, MultiTaskExplanation
from .models import abn_models, attached_models, cam_models, cifar_backbones  # noqa: F401  registers the models
from .models.loading import attach, load_model
from .models.official_checkpoints import convert_official_checkpoint
from .networks.config import AbnConfig
from .networks.multi_task import MultiTaskAttentionBranchNet
from .networks.network import AttentionBranchNet
from .split import Adapter, BackboneHalf, Features, SplitError, register_adapter, split_backbone
from .version import __version__

if TYPE_CHECKING:
    from .data.samples import Sample, load_samples
    from .explain.evaluation import Evaluation, evaluate

__all__ = [
    'AbnConfig',
    'Adapter',
    'AttachedNet',
    'AttentionBranchNet',
    'BackboneHalf',
    'CheckpointError',
    'Evaluation',
    'Explanation',
    'Features',
    'HubError',
    'MultiTaskAttentionBranchNet',
    'MultiTaskExplanation',
    'Sample',
    'SplitError',
    'TimmAbnError',
    '__version__',
    'attach',
    'class_names',
    'convert_official_checkpoint',
    'evaluate',
    'load_model',
    'load_samples',
    'register_adapter',
    'split_backbone',
]

# scores and data sets import more than models take, and most programs need neither
_IMPORTED_WHEN_USED = {
    'Evaluation': 'explain.evaluation',
    'Sample': 'data.samples',
    'evaluate': 'explain.evaluation',
    'load_samples': 'data.samples',
}


def __getattr__(name: str) -> Any:
    if name not in _IMPORTED_WHEN_USED:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_IMPORTED_WHEN_USED[name]}'), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
