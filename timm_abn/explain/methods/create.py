"""Explainers by name; of several names, those that apply to a model."""

import contextlib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn as nn
from timm.models import get_model_input_config

from ...errors import TimmAbnError, one_line, suggest
from ...split import SplitError
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
        name: One of ``EXPLAINERS``; for another package also with one of its methods, such as 'torchcam:LayerCAM'.
        model: A timm model, with or without an attention branch, on its device.
        **options: Options of the explainer, such as ``layer``; see its class.

    Raises:
        TimmAbnError: There is no such explainer or option, or it does not apply to the model.
    """
    explainer, method = _find(name)
    arguments = inspect.signature(explainer.__init__).parameters
    names = [argument for argument in arguments if argument not in ('self', 'model', 'options')]
    unknown = [option for option in options if option not in names]
    if unknown and 'options' not in arguments:
        known = f'its options are {", ".join(names)}.' if names else 'it has none.'
        raise TimmAbnError(f'Explainer {name!r} has no option {unknown[0]!r}; {suggest(unknown[0], names, known)}')
    return explainer(model, **method, **options)


def _find(name: str) -> tuple[type[Explainer], dict[str, str]]:
    """Return the explainer that a name stands for, and the method of another package, as its option."""
    package, colon, method = str(name).partition(':')
    if package not in EXPLAINERS:
        known = f'there are {", ".join(EXPLAINERS)}.'
        raise TimmAbnError(f'Unknown explainer {name!r}: {suggest(package, EXPLAINERS, otherwise=known)}')
    explainer = EXPLAINERS[package]
    if colon and not issubclass(explainer, PackageExplainer):
        packages = ', '.join(name for name, other in EXPLAINERS.items() if issubclass(other, PackageExplainer))
        raise TimmAbnError(f'Unknown explainer {name!r}: PACKAGE:METHOD works for {packages}.')
    return explainer, {'method': method} if colon else {}


def create_explainers(names: Sequence[str], model: nn.Module, layer: str | None = None) -> dict[str, Explainer]:
    """Create explainers of a model, and try each on one empty image, so that errors come before long work.

    Args:
        names: See ``create_explainer``; repeated names count once.
        model: A timm model, with or without an attention branch, on its device.
        layer: Layer for the methods that take one; see ``GradCamExplainer``.

    Returns:
        Name -> explainer, in the order of the names.

    Raises:
        TimmAbnError: Some do not apply to the model; the message says why, and which do. Or there is no such layer, or
            no method takes one.
    """
    explainers, refusals = {}, {}
    if layer is not None and not any(_layer_of(name, layer) for name in names):
        takers = ', '.join(name for name in EXPLAINERS if _layer_of(name, layer))
        raise TimmAbnError(f'layer {layer!r} works for methods that take one ({takers}), got {", ".join(names)}.')
    for name in dict.fromkeys(names):
        try:
            explainers[name] = _tried(name, model, **_layer_of(name, layer))
        except SplitError:
            raise  # of the layer, which is the same for all
        except TimmAbnError as error:
            reason = one_line(error)
            refusals[name] = reason if repr(name) in reason else f'{name!r}: {reason}'
    if refusals:
        others = [name for name in EXPLAINERS if name not in refusals]
        applicable = ', '.join(applicable_explainers(others, model)) or 'none'
        raise TimmAbnError(f'{"; ".join(refusals.values())}; methods that apply: {applicable}.')
    return explainers


def applicable_explainers(names: Iterable[str], model: nn.Module, layer: str | None = None) -> dict[str, Explainer]:
    """Create the explainers that apply to a model: name -> explainer, empty if none applies.

    For the arguments see ``create_explainers``.

    Raises:
        TimmAbnError: A method does not apply at the given layer.
    """
    explainers = {}
    for name in names:
        options = _layer_of(name, layer)
        with contextlib.suppress(*([] if options else [TimmAbnError])):
            explainers[name] = _tried(name, model, **options)
    return explainers


def _layer_of(name: str, layer: str | None) -> dict[str, str]:
    """Return the layer as an option of a method, if it takes one."""
    explainer, method = _find(name)
    return {'layer': layer} if layer is not None and explainer.takes_layer(**method) else {}


def _tried(name: str, model: nn.Module, **options: str) -> Explainer:
    explainer = create_explainer(name, model, **options)
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
