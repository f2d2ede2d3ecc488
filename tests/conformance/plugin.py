"""Pytest plugin that makes timm's own model tests run over our models, and over nothing else.

timm's test module asks ``timm.list_models`` at import time what to test; the plugin answers with the models of this
package. timm chooses by name which tests a model is fit for (``vit_*`` has no spatial output, ``densenet*`` is not
scripted), so that a pattern for a backbone is read as a pattern for the ABN over it as well.
"""

from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

import pytest
import timm

from timm_abn import AttentionBranchNet

from . import models  # registers the small ABNs
from .exceptions import EXCEPTIONS

OUR_PACKAGES = ('timm_abn.', models.__name__)
PREFIX = 'abn_'

_list_models = timm.list_models


def list_our_models(
    filter: str | Iterable[str] = '',
    module: str | Iterable[str] = '',
    pretrained: bool = False,
    exclude_filters: str | Iterable[str] = '',
    **kwargs: Any,
) -> list[str]:
    """Answer as ``timm.list_models`` does, of our models; a pattern for backbones selects the ABNs over them, too.

    ``module`` is no criterion: timm lists the modules whose models have ``forward_intermediates``, as all of ours do.
    """
    names = _list_models(
        filter=with_abn(filter), pretrained=pretrained, exclude_filters=with_abn(exclude_filters), **kwargs
    )
    return [name for name in names if is_ours(name)]


def with_abn(patterns: str | Iterable[str]) -> list[str]:
    """Return patterns for backbones, and the same for the ABNs over them."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return [pattern for given in patterns if given for pattern in (given, f'{PREFIX}{given}')]


def is_ours(name: str) -> bool:
    """Return whether this package, not timm, registered the model."""
    return timm.model_entrypoint(name).__module__.startswith(OUR_PACKAGES)


class _OverBackbone(type):
    """Makes ``isinstance`` ask for the class of the perception branch: the head of an ABN is its backbone's."""

    backbones: tuple = ()

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, AttentionBranchNet) and isinstance(instance.perception_branch, cls.backbones)


def pytest_configure(config: pytest.Config) -> None:
    timm.list_models = list_our_models
    timm.list_pretrained = lambda filter='', exclude_filters='': list_our_models(
        filter, pretrained=True, exclude_filters=exclude_filters, include_tags=True
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for module in {item.module for item in items}:
        module.EARLY_POOL_MODELS += (_OverBackbone('EarlyPool', (), {'backbones': module.EARLY_POOL_MODELS}),)
    ours = [item for item in items if _is_about_our_model(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(ours)])
    items[:] = ours
    for item in items:
        for pattern, reason in EXCEPTIONS.items():
            if fnmatch(item.name, pattern):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _is_about_our_model(item: pytest.Item) -> bool:
    # the other tests name timm's own models, or layers; a list that came out empty leaves a parameter without a name
    name = item.callspec.params.get('model_name') if hasattr(item, 'callspec') else None
    return isinstance(name, str) and is_ours(name)
