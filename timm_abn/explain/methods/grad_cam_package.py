"""Methods of the package grad-cam (https://github.com/jacobgil/pytorch-grad-cam)."""

import importlib

import torch

from .package import PackageExplainer

__all__ = ['GradCamPackageExplainer']


class GradCamPackageExplainer(PackageExplainer):
    """A method of ``pytorch_grad_cam``; its maps have the size of the images, and are stretched to [0, 1]."""

    name = 'pytorch_grad_cam'
    module_name = 'grad-cam'
    methods_module = 'pytorch_grad_cam'
    default_method = 'GradCAM'

    def _package_maps(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        model_targets = importlib.import_module('pytorch_grad_cam.utils.model_targets')
        method = self._method(self._model, [self._model.maps], **self._options)
        try:  # its own context manager swallows errors
            maps = method(images, [model_targets.ClassifierOutputTarget(target) for target in targets.tolist()])
        finally:
            method.activations_and_grads.release()
        return torch.as_tensor(maps).unsqueeze(1)
