"""Explainers by name; of several names, those that apply to a model."""

import contextlib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn as nn
from timm.models import get_model_input_config

from ...errors import TimmAbnError, one_line, suggest
from .attention import AttentionExplainer
from .cam import CamExplainer
from .class_map import ClassMapExplainer
from .explainer import Explainer
from .floors import CentreExplainer, RandomExplainer
from .grad_cam import GradCamExplainer
from .package import CaptumExplainer, GradCamPackageExplainer, PackageExplainer, TorchcamExplainer
from .recipro_cam import ReciproCamExplainer
from .rollout import RolloutExplainer

__all__ = ['EXPLAINERS', 'applicable_explainers', 'create_explainer', 'create_explainers']

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


def create_explainer(name: str, model: nn.Module, **options: Any) -> Explainer:
    """Create an explainer of a model.

    Args:
        name: One of ``EXPLAINERS``.
        model: A timm model, with or without an attention branch, on its device.
        **options: Those of the explainer, such as ``layer``; see its class.

    Raises:
        TimmAbnError: There is no such explainer or option, or it does not apply to the model.
    """
    if name not in EXPLAINERS:
        known = f'there are {", ".join(EXPLAINERS)}.'
        raise TimmAbnError(f'Unknown explainer {name!r}: {suggest(str(name), EXPLAINERS, otherwise=known)}')
    explainer = EXPLAINERS[name]
    arguments = inspect.signature(explainer.__init__).parameters
    names = [argument for argument in arguments if argument not in ('self', 'model', 'options')]
    unknown = [option for option in options if option not in names]
    if unknown and 'options' not in arguments:
        known = f'its options are {", ".join(names)}.' if names else 'it has none.'
        raise TimmAbnError(f'Explainer {name!r} has no option {unknown[0]!r}; {suggest(unknown[0], names, known)}')
    return explainer(model, **options)


def create_explainers(names: Sequence[str], model: nn.Module) -> dict[str, Explainer]:
    """Create explainers of a model, and try each on one empty image, so that it is known before long work.

    Args:
        names: Names among ``EXPLAINERS``; a name that is there twice counts once.
        model: A timm model, with or without an attention branch, on its device.

    Returns:
        Name -> explainer, in the order of the names.

    Raises:
        TimmAbnError: Some do not apply to the model; the message says why, and which do.
    """
    explainers, refusals = {}, {}
    for name in dict.fromkeys(names):
        try:
            explainers[name] = _tried(name, model)
        except TimmAbnError as error:
            reason = one_line(error)
            refusals[name] = reason if repr(name) in reason else f'{name!r}: {reason}'
    if refusals:
        others = [name for name in EXPLAINERS if name not in refusals]
        applicable = ', '.join(applicable_explainers(others, model)) or 'none'
        raise TimmAbnError(f'{"; ".join(refusals.values())}; methods that apply: {applicable}.')
    return explainers


def applicable_explainers(names: Iterable[str], model: nn.Module) -> dict[str, Explainer]:
    """Create those explainers of a model that apply to it: name -> explainer, empty if none applies.

    Args:
        names: Names among ``EXPLAINERS``.
        model: See ``create_explainers``.
    """
    explainers = {}
    for name in names:
        with contextlib.suppress(TimmAbnError):
            explainers[name] = _tried(name, model)
    return explainers


def _tried(name: str, model: nn.Module) -> Explainer:
    explainer = create_explainer(name, model)
    size = get_model_input_config(model)['input_size']
    first = next(model.parameters())
    image = torch.zeros((1, *size), device=first.device, dtype=first.dtype)
    try:
        explainer(image, torch.zeros(1, dtype=torch.long, device=first.device))
    except (TimmAbnError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not isinstance(explainer, PackageExplainer):
            raise
        # other packages raise errors of a dozen types
        raise TimmAbnError(f'{name!r} fails on {type(model).__name__}: {one_line(error)}.') from error
    return explainer
