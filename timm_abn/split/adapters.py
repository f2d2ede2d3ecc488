"""The adapters of all families, by class of the timm model: those of timm, and those that others register."""

import torch.nn as nn

from ..errors import TimmAbnError
from .adapter import Adapter, BackboneHalf
from .families import FAMILIES

__all__ = ['find_adapter', 'find_exact_adapter', 'register_adapter']

_ADAPTERS: dict[type[nn.Module], Adapter] = {nn.Module: Adapter(), **FAMILIES}


def register_adapter(backbone_class: type[nn.Module], adapter: Adapter) -> None:
    """Use ``adapter`` for backbones of ``backbone_class``.

    It also applies to subclasses, except for the classes of the halves: these would lose what a subclass does
    differently, so a subclass needs its own entry for them.

    A family whose ``forward_features`` adds position embeddings between ``embed`` and ``blocks``, and carries edges of
    the image alongside the features, declares this at module level:

        class TwoStreamExtractor(timm_abn.BackboneHalf, TwoStream):
            def forward_features(self, x):
                return timm_abn.Features(self.blocks(self.embed(x) + self.positions), [self.edges(x)])

        class TwoStreamPerception(timm_abn.BackboneHalf, TwoStream):
            def forward_features(self, x):
                features, (edges,) = x
                return self.fuse(self.blocks(features), edges)

        timm_abn.register_adapter(TwoStream, timm_abn.Adapter(TwoStreamExtractor, TwoStreamPerception))

    In the first half, blocks after the cut pass everything through; in the second half, blocks before it do. The
    methods of ``Adapter`` are what else an adapter can declare.

    Args:
        backbone_class: Class of the timm model, or of a module inside it that is cut in two.
        adapter: What the family needs.

    Raises:
        TimmAbnError: The adapter, or a class it names, has the wrong type.
    """
    if not isinstance(adapter, Adapter):
        raise TimmAbnError(f'register_adapter() needs an instance of Adapter, got {adapter!r}.')
    for half_class in (adapter.extractor_class, adapter.perception_class):
        if half_class is not None and not (
            issubclass(half_class, BackboneHalf) and issubclass(half_class, backbone_class)
        ):
            half, whole = half_class.__name__, backbone_class.__name__
            raise TimmAbnError(
                f'{half} must be a subclass of timm_abn.BackboneHalf and of {whole}, whose half it implements.'
            )
    _ADAPTERS[backbone_class] = adapter


def find_adapter(backbone: nn.Module) -> Adapter:
    """Return the adapter registered for the most specific class of ``backbone``."""
    return next(_ADAPTERS[c] for c in type(backbone).__mro__ if c in _ADAPTERS)


def find_exact_adapter(module: nn.Module) -> Adapter | None:
    """Return the adapter registered for the class of ``module`` itself, if there is one."""
    return _ADAPTERS.get(type(module))
