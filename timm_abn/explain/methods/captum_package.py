"""Methods of the package captum (https://captum.ai)."""

import torch

from .package import PackageExplainer

__all__ = ['CaptumExplainer']


class CaptumExplainer(PackageExplainer):
    """A method of ``captum.attr``; ``options`` are those of its ``attribute``.

    Attributions of pixels (integrated gradients, occlusion) become maps of the images' size by the sum over channels of
    their absolute values. Attributions of a layer (``LayerGradCam`` and others that begin with Layer) become maps of
    the features' size by their sum over channels, without what is negative.
    """

    name = 'captum'
    module_name = 'captum'
    methods_module = 'captum.attr'
    default_method = 'IntegratedGradients'

    def _package_maps(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        of_layer = self._method.__name__.startswith('Layer')
        method = self._method(self._model, self._model.maps) if of_layer else self._method(self._model)
        attributions = method.attribute(images, target=targets, **self._options)
        if of_layer:
            return attributions.sum(dim=1, keepdim=True).relu()
        return attributions.abs().sum(dim=1, keepdim=True)
