"""Explainers of other packages: a model as these want it, and what they return as maps."""

import importlib
import inspect
import threading
from types import ModuleType
from typing import Any, ClassVar

import torch
import torch.nn as nn

from ...errors import TimmAbnError, suggest
from .explainer import Explainer
from .halves import Halves, halves_of

__all__ = ['PackageExplainer']


class PackageExplainer(Explainer):
    """A method of another package, at the layer that our own methods use, for every kind of backbone.

    The package sees a model whose only layer of interest, ``model.maps``, hands on the features as (B, C, h, w): no
    choice of a layer and no reshaping of tokens is left to its user. Calls from several threads wait for each other.
    """

    module_name: ClassVar[str]  # what is imported
    methods_module: ClassVar[str]  # where its methods are
    default_method: ClassVar[str]

    def __init__(self, model: nn.Module, method: str | None = None, layer: str | None = None, **options: Any) -> None:
        """
        Args:
            model: A timm model, with or without an attention branch, of one task.
            method: Name of the class in the package.
            layer: See ``GradCamExplainer``.
            **options: Other arguments of that class.

        Raises:
            TimmAbnError: The package is not installed or has no such method, or the model has several tasks.
        """
        super().__init__(model)
        methods = self._import()
        method = method or self.default_method
        names = [name for name, value in vars(methods).items() if inspect.isclass(value) and name[0] != '_']
        if method not in names:
            hint = suggest(method, names, otherwise=f'there are {", ".join(sorted(names))}.')
            raise TimmAbnError(f'{self.module_name} has no method {method!r}; {hint}')
        self._method, self._options = getattr(methods, method), options
        halves = halves_of(model, layer)
        if halves.num_tasks:
            raise TimmAbnError(f'{self.name!r} explains one map, and the network has one for each of its tasks.')
        self._model = _WithMaps(halves)
        self._lock = threading.Lock()

    def _import(self) -> ModuleType:
        try:
            return importlib.import_module(self.methods_module)
        except ImportError as error:
            raise TimmAbnError(
                f"{self.name!r} needs the package {self.module_name}: pip install 'timm-abn[compare]'."
            ) from error

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        if targets is None:
            targets = self._model(images).argmax(dim=1)
        with self._lock, torch.enable_grad():
            # weights want no gradients here, and these packages look for those of the features
            leaf = images.detach().clone().requires_grad_()
            return self._package_maps(leaf, targets).detach().to(images.device)

    def _package_maps(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return what the package says, as maps of shape (B, 1, h, w); called with gradients, one call at a time."""
        raise NotImplementedError


class _WithMaps(nn.Module):
    """A model of two halves, with a module between them that passes the features as maps."""

    def __init__(self, halves: Halves) -> None:
        super().__init__()
        self._halves = halves
        self.maps = nn.Identity()
        self.perception = halves.perception  # packages look for parameters
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (B, K)."""
        features = self._halves.extract(images, None)
        maps = self.maps(self._halves.to_maps(features.x, images))
        return self._halves.perceive(features._replace(x=self._halves.from_maps(maps.clone(), features.x)))
