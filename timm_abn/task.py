"""The module for timm's own flag --device-modules, so that its script trains ABNs without a launcher.

    python train.py --device-modules timm_abn.task --model abn_resnet50 --data-dir /data/imagenet

Importing this module gives the tasks of ``timm.task`` the loss of both branches; the code is in ``training/``.
"""

from .training.errors import TrainingError
from .training.faithful import FaithfulTraining
from .training.loss import AttentionBranchLoss, FaithfulMapLoss
from .training.mask_loss import AttentionMaskLoss
from .training.task import extend_timm_tasks

__all__ = [
    'AttentionBranchLoss',
    'AttentionMaskLoss',
    'FaithfulMapLoss',
    'FaithfulTraining',
    'TrainingError',
    'extend_timm_tasks',
]

extend_timm_tasks()
