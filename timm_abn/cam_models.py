"""Old name of ``timm_abn.models.cam_models``."""

import warnings

from .models.cam_models import *  # noqa: F403

warnings.warn('timm_abn.cam_models is now timm_abn.models.cam_models', DeprecationWarning, stacklevel=2)
