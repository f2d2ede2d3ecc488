"""Explainers by name."""

import inspect
from collections.abc import Callable
from typing import Any

import torch.nn as nn

from ...errors import TimmAbnError, suggest
from .attention import AttentionExplainer
from .cam import CamExplainer
from .captum_package import CaptumExplainer
from .centre import CentreExplainer
from .class_map import ClassMapExplainer
from .explainer import Explainer
from .from_function import FunctionExplainer
from .grad_cam import GradCamExplainer
from .grad_cam_package import GradCamPackageExplainer
from .random_map import RandomExplainer
from .recipro_cam import ReciproCamExplainer
from .rollout import RolloutExplainer
from .torchcam_package import TorchcamExplainer

__all__ = ['EXPLAINERS', 'create_explainer']

EXPLAINERS: dict[str, type[Explainer]] = {
    explainer.name: explainer
    for explainer in (
        AttentionExplainer,
        ClassMapExplainer,
        CamExplainer,
        GradCamExplainer,
        ReciproCamExplainer,
        RolloutExplainer,
        RandomExplainer,
        CentreExplainer,
        GradCamPackageExplainer,
        TorchcamExplainer,
        CaptumExplainer,
    )
}


def create_explainer(name: str | Callable[..., Any], model: nn.Module, **options: Any) -> Explainer:
    """Create an explainer of a model.

    Args:
        name: One of ``EXPLAINERS``, or a function of model, images and targets that returns maps (B, 1, h, w).
        model: A timm model, with or without an attention branch, on its device.
        **options: Those of the explainer, such as ``layer``; see its class.

    Raises:
        TimmAbnError: There is no such explainer or option, or it does not apply to the model.
    """
    if not isinstance(name, str) and callable(name):
        explainer: Any = FunctionExplainer
        options = dict(options, function=name)
    elif name in EXPLAINERS:
        explainer = EXPLAINERS[name]
    else:
        known = f'there are {", ".join(EXPLAINERS)}.'
        raise TimmAbnError(f'Unknown explainer {name!r}: {suggest(str(name), EXPLAINERS, otherwise=known)}')
    arguments = inspect.signature(explainer.__init__).parameters
    names = [argument for argument in arguments if argument not in ('self', 'model', 'options')]
    unknown = [option for option in options if option not in names]
    if unknown and 'options' not in arguments:
        known = f'its options are {", ".join(names)}.' if names else 'it has none.'
        raise TimmAbnError(f'Explainer {name!r} has no option {unknown[0]!r}; {suggest(unknown[0], names, known)}')
    return explainer(model, **options)
