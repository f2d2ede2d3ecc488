"""Explainers: from a model and images to maps, one protocol for all methods and any model.

    explainer = create_explainer('grad_cam', model)
    maps = explainer(images)  # (B, 1, h, w)

What takes time once (cutting the model in two) is done when an explainer is created, so that it should be created once.
"""

from .create import EXPLAINERS, applicable_explainers, create_explainer, create_explainers
from .explainer import Explainer, method_title
from .package import PackageExplainer

__all__ = [
    'EXPLAINERS',
    'Explainer',
    'PackageExplainer',
    'applicable_explainers',
    'create_explainer',
    'create_explainers',
    'method_title',
]
