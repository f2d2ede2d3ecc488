"""Old name of ``timm_abn.explain.images``."""

import warnings

from .explain.images import *  # noqa: F403

warnings.warn('timm_abn.images is now timm_abn.explain.images', DeprecationWarning, stacklevel=2)
