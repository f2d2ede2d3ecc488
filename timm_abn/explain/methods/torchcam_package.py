"""Methods of the package torchcam (https://github.com/frgfm/torch-cam)."""

import torch

from .package import PackageExplainer

__all__ = ['TorchcamExplainer']


class TorchcamExplainer(PackageExplainer):
    """A method of ``torchcam.methods``; its maps have the size of the features, and are stretched to [0, 1]."""

    name = 'torchcam'
    module_name = 'torchcam'
    methods_module = 'torchcam.methods'
    default_method = 'GradCAM'

    def _package_maps(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with self._method(self._model, self._model.maps, **self._options) as method:
            maps = method(targets.tolist(), self._model(images))[0]
        return maps.unsqueeze(1)
