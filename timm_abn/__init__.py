"""Attention Branch Networks for timm. Importing this package registers its models with timm."""

from . import abn_models, cam_models, cifar_backbones
from .attention_branch import AttentionBranch, Mechanism, MultiTaskAttentionBranch
from .checkpoints import CheckpointError, convert_official_checkpoint
from .explanation import Explanation, MultiTaskExplanation
from .hub_config import HubError
from .multi_task_network import MultiTaskAttentionBranchNet
from .network import AttentionBranchNet
from .split import SplitError, split_backbone

__version__ = '0.1.0'

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
    'abn_models',
    'cam_models',
    'cifar_backbones',
    'convert_official_checkpoint',
    'split_backbone',
]
