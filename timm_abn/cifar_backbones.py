"""Old name of ``timm_abn.models.cifar_backbones``."""

import warnings

from .models.cifar_backbones import *  # noqa: F403

warnings.warn('timm_abn.cifar_backbones is now timm_abn.models.cifar_backbones', DeprecationWarning, stacklevel=2)
