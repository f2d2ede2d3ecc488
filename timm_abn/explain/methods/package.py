"""Explainers of other packages: a model as these want it, and what they return as maps."""

import importlib
import inspect
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn as nn

from ...errors import TimmAbnError, suggest
from .explainer import Explainer
from .halves import Halves, halves_of

__all__ = ['CaptumExplainer', 'GradCamPackageExplainer', 'PackageExplainer', 'TorchcamExplainer']


class PackageExplainer(Explainer):
    """A method of another package, at the layer that our own methods use, for every kind of backbone.

    It is named as in ``captum:Saliency``; without a method, ``captum`` is its ``default_method``.
    The package sees a model whose only layer of interest, ``model.maps``, hands on the features as (B, C, h, w): no
    choice of a layer and no reshaping of tokens is left to its user. Calls from several threads wait for each other.
    """

    package: ClassVar[str]  # what is installed
    methods_module: ClassVar[str]  # where its methods are
    default_method: ClassVar[str] = 'GradCAM'

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
        method = self.default_method if method is None else method
        self._method, self._options = self._find(method), options
        if layer is not None and not self.takes_layer(method):
            raise TimmAbnError(f'{self.package} takes no layer for {method}, which maps the input; got {layer!r}.')
        halves = halves_of(model, layer)
        if halves.num_tasks:
            raise TimmAbnError(f'{self.name!r} explains one map, but the network has one for each task.')
        self.layer = halves.path if self.takes_layer(method) else 'input'
        self._model = _WithMaps(halves)
        self._lock = threading.Lock()

    def _find(self, method: str) -> Callable[..., Any]:
        try:
            module = importlib.import_module(self.methods_module)
        except ImportError as error:
            raise TimmAbnError(
                f"{self.name!r} needs the package {self.package}: pip install 'timm-abn[compare]'."
            ) from error
        methods = {name: value for name, value in vars(module).items() if inspect.isclass(value) and name[0] != '_'}
        if method not in methods:
            hint = suggest(method, methods, otherwise=f'there are {", ".join(sorted(methods))}.')
            raise TimmAbnError(f'{self.package} has no method {method!r}; {hint}')
        return methods[method]

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


class GradCamPackageExplainer(PackageExplainer):
    """A method of ``pytorch_grad_cam`` (https://github.com/jacobgil/pytorch-grad-cam).

    Its maps have the size of the images, and are stretched to [0, 1].
    """

    name, package, methods_module = 'pytorch_grad_cam', 'grad-cam', 'pytorch_grad_cam'

    def _package_maps(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        model_targets = importlib.import_module('pytorch_grad_cam.utils.model_targets')
        method = self._method(self._model, [self._model.maps], **self._options)
        try:  # its own context manager swallows errors
            maps = method(images, [model_targets.ClassifierOutputTarget(target) for target in targets.tolist()])
        finally:
            method.activations_and_grads.release()
        return torch.as_tensor(maps).unsqueeze(1)


class TorchcamExplainer(PackageExplainer):
    """A method of ``torchcam.methods`` (https://github.com/frgfm/torch-cam).

    Its maps have the size of the features, and are stretched to [0, 1].
    """

    name, package, methods_module = 'torchcam', 'torchcam', 'torchcam.methods'

    def _package_maps(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with self._method(self._model, self._model.maps, **self._options) as method:
            maps = method(targets.tolist(), self._model(images))[0]
        return maps.unsqueeze(1)


class CaptumExplainer(PackageExplainer):
    """A method of ``captum.attr`` (https://captum.ai); ``options`` are those of its ``attribute``.

    Attributions of pixels (integrated gradients, occlusion) become maps of the images' size by the sum over channels of
    their absolute values. Attributions of a layer (``LayerGradCam`` and others that begin with Layer) become maps of
    the features' size by their sum over channels, without what is negative.
    """

    name, package, methods_module = 'captum', 'captum', 'captum.attr'
    default_method = 'IntegratedGradients'

    @classmethod
    def takes_layer(cls, method: str | None = None) -> bool:
        """Return whether attributions are of a layer, not of pixels."""
        return (cls.default_method if method is None else method).startswith('Layer')

    def _package_maps(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        of_layer = self.takes_layer(self._method.__name__)
        method = self._method(self._model, self._model.maps) if of_layer else self._method(self._model)
        at_once = max(64, len(images))  # of integrated gradients, which are 50 images for each; else all are at once
        takes = inspect.signature(method.attribute).parameters
        options = {'internal_batch_size': at_once, **self._options} if 'internal_batch_size' in takes else self._options
        attributions = method.attribute(images, target=targets, **options)
        if of_layer:
            return attributions.sum(dim=1, keepdim=True).relu()
        return attributions.abs().sum(dim=1, keepdim=True)


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
        return self._halves.forward_perception(features._replace(x=self._halves.from_maps(maps.clone(), features.x)))
