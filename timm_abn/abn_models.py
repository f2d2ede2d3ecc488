"""Old name of ``timm_abn.models.abn_models``."""

import warnings

from .models.abn_models import *  # noqa: F403

warnings.warn('timm_abn.abn_models is now timm_abn.models.abn_models', DeprecationWarning, stacklevel=2)
