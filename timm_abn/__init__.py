"""Attention Branch Networks for timm. Importing this package registers its models with timm."""

from .errors import TimmAbnError
from .explain.class_names import class_names
from .hub.config import HubError
from .hub.state_dicts import CheckpointError
from .maps.explanation import Explanation, MultiTaskExplanation
from .models import abn_models, cam_models, cifar_backbones
from .models.authors_checkpoints import convert_official_checkpoint
from .models.loading import load_model
from .networks.attention_branch import AttentionBranch, MultiTaskAttentionBranch
from .networks.mechanism import Mechanism
from .networks.multi_task_network import MultiTaskAttentionBranchNet
from .networks.network import AttentionBranchNet
from .split import SplitError, register_adapter, split_backbone
from .version import __version__

__all__ = [
    'AttentionBranch',
    'AttentionBranchNet',
    'CheckpointError',
    'Explanation',
    'HubError',
    'Mechanism',
    'MultiTaskAttentionBranch',
    'MultiTaskAttentionBranchNet',
    'MultiTaskExplanation',
    'SplitError',
    'TimmAbnError',
    '__version__',
    'abn_models',
    'cam_models',
    'cifar_backbones',
    'class_names',
    'convert_official_checkpoint',
    'load_model',
    'register_adapter',
    'split_backbone',
]
