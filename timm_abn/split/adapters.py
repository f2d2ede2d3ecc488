"""The adapters of all families, by class of the timm model: those of timm, and those that others register."""

import torch.nn as nn

from ..errors import TimmAbnError
from .adapter import Adapter, BackboneHalf
from .families import FAMILIES

__all__ = ['find_adapter', 'find_exact_adapter', 'register_adapter']

_ADAPTERS: dict[type[nn.Module], Adapter] = {nn.Module: Adapter(), **FAMILIES}


def register_adapter(backbone_class: type[nn.Module], adapter: Adapter) -> None:
    """Use ``adapter`` for backbones of ``backbone_class``.

    It holds for subclasses, too, except for the classes that halves become: these would lose what a subclass does
    differently, and need an entry of their own.

    A family whose ``forward_features`` adds position embeddings between ``embed`` and ``blocks``, and lets edges of the
    image pass beside the features, declares it like this, at the level of a module:

        class TwoStreamExtractor(timm_abn.BackboneHalf, TwoStream):
            def forward_features(self, x):
                return timm_abn.Features(self.blocks(self.embed(x) + self.positions), [self.edges(x)])

        class TwoStreamPerception(timm_abn.BackboneHalf, TwoStream):
            def forward_features(self, x):
                features, (edges,) = x
                return self.fuse(self.blocks(features), edges)

        timm_abn.register_adapter(TwoStream, timm_abn.Adapter(TwoStreamExtractor, TwoStreamPerception))

    Blocks after the cut let everything pass in the first half, those before it in the second. Other things that an
    adapter can declare are methods of ``Adapter``.

    Args:
        backbone_class: Class of the timm model, or of a module inside it that is cut in two.
        adapter: What the family needs.

    Raises:
        TimmAbnError: The adapter, or a class it names, cannot be what it should be.
    """
    if not isinstance(adapter, Adapter):
        raise TimmAbnError(f'register_adapter() needs an instance of Adapter, got {adapter!r}.')
    for half_class in (adapter.extractor_class, adapter.perception_class):
        if half_class is not None and not (
            issubclass(half_class, BackboneHalf) and issubclass(half_class, backbone_class)
        ):
            half, whole = half_class.__name__, backbone_class.__name__
            raise TimmAbnError(
                f'{half} must be a subclass of timm_abn.BackboneHalf and of {whole}, whose half it is to be.'
            )
    _ADAPTERS[backbone_class] = adapter


def find_adapter(backbone: nn.Module) -> Adapter:
    """Return the adapter registered for the most specific class of ``backbone``."""
    return next(_ADAPTERS[c] for c in type(backbone).__mro__ if c in _ADAPTERS)


def find_exact_adapter(module: nn.Module) -> Adapter | None:
    """Return the adapter registered for the class of ``module`` itself, if there is one."""
    return _ADAPTERS.get(type(module))
