"""Several explainers of one model, all of which apply to it."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from timm.models import get_model_input_config

from ...errors import TimmAbnError, one_line
from .create import EXPLAINERS, create_explainer
from .explainer import Explainer
from .package import PackageExplainer

__all__ = ['applicable_explainers', 'create_explainers']


def create_explainers(names: Sequence[str], model: Any) -> dict[str, Explainer]:
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


def applicable_explainers(names: Iterable[str], model: Any) -> dict[str, Explainer]:
    """Create those explainers of a model that apply to it.

    Args:
        names: Names among ``EXPLAINERS``.
        model: See ``create_explainers``.

    Returns:
        Name -> explainer, in the order of the names; empty if none applies.
    """
    explainers = {}
    for name in names:
        with contextlib.suppress(TimmAbnError):
            explainers[name] = _tried(name, model)
    return explainers


def _tried(name: str, model: Any) -> Explainer:
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
