"""What the checks are made on: small networks over eight backbones, and those backbones by themselves."""

import dataclasses
from collections.abc import Hashable
from typing import Any

import timm
import torch
import torch.nn as nn

import timm_abn
from timm_abn import SplitError

NUM_CLASSES = 5

# column of the table -> timm's name, and what makes it small
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    'ResNet': ('test_resnet', {}),
    'EfficientNet': ('test_efficientnet', {}),
    'ConvNeXt': ('test_convnext', {}),
    'Swin': (
        'swin_tiny_patch4_window7_224',
        dict(img_size=64, window_size=2, embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), drop_path_rate=0.0),
    ),
    'ViT': ('test_vit', dict(img_size=64)),
    'DINOv3': ('vit_tiny_patch16_dinov3_qkvb', dict(img_size=64, embed_dim=32, depth=4, num_heads=2)),
    'Hiera': ('hiera_tiny_224', dict(img_size=128, embed_dim=16, num_heads=1, stages=(1, 1, 2, 1))),
    'MaxViT': ('test_maxvit', dict(img_size=64)),
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network over one of ``BACKBONES``, or that backbone bare."""

    column: str
    is_bare: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """What the model is created with."""
        return BACKBONES[self.column][1]

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return self.arguments.get('img_size', 64)

    @property
    def takes_size(self) -> bool:
        """Whether the backbone is built for one size of images."""
        return 'img_size' in self.arguments

    def make(self, **kwargs: Any) -> Any:
        """Return a new model in evaluation mode; all have equal weights, none of which is zero."""
        name, arguments = BACKBONES[self.column]
        whole = dict(model_name=name) if self.is_bare else dict(model_name='abn', backbone=name)
        torch.manual_seed(0)
        model = timm.create_model(**{**whole, 'num_classes': NUM_CLASSES, **arguments, **kwargs})
        with torch.no_grad():
            for tensor_name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if tensor_name.endswith('running_var'):
                    tensor.uniform_(0.5, 1.5)
                elif isinstance(tensor, nn.Parameter) or tensor_name.endswith('running_mean'):
                    tensor += 0.05 * torch.randn_like(tensor)
        return model.eval()

    def images(self, batch_size: int = 2, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Return random images, always the same, of this height and width."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(batch_size, 3, *(size or (self.size, self.size)), generator=generator)


def outputs_of(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return all that a forward returns: of a network that trains two logits, else one."""
    outputs = model(images)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def loss_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return a number that depends on every output."""
    return sum((outputs.float().logsumexp(1).sum() for outputs in outputs_of(model, images)), torch.zeros(()))


def gradients_of(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients of a training step, by the names of the parameters."""
    model.zero_grad()
    loss_of(model, images).backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, f'no gradient: {missing}'
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]


_REFUSALS: dict[Hashable, str] = {}


def why_not_split(column: str) -> str:
    """Return why the backbone of a column cannot be split, '' if it can."""
    if column not in _REFUSALS:
        name, arguments = BACKBONES[column]
        backbone = timm.create_model(name, device=torch.device('meta'), **arguments)
        try:
            timm_abn.split_backbone(backbone)
            _REFUSALS[column] = ''
        except SplitError as error:
            _REFUSALS[column] = str(error)
    return _REFUSALS[column]
