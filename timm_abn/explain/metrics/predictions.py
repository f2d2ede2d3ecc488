"""What a model says of images, batch by batch: probabilities, and the classes that are explained."""

from collections.abc import Callable, Sequence

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from ...records import are_exclusive, probabilities_of
from .checks import check_predictions

__all__ = ['Explainer', 'Targets', 'predict', 'probability_function', 'resolve_targets']

Explainer = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (images, targets) -> maps (B, 1, h, w)
Targets = torch.Tensor | Sequence[int]


def probability_function(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what turns the logits of a model into probabilities (``timm_abn.records``), in float32."""
    exclusive = are_exclusive(model)
    return lambda logits: probabilities_of(logits.float(), exclusive)


@torch.no_grad()
def predict(model: nn.Module, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return the probabilities of classes, labels or tasks, shape (B, K), which a model in evaluation mode predicts."""
    probabilities_of = probability_function(model)
    return torch.cat([probabilities_of(model(batch)) for batch in images.split(batch_size)])


def resolve_targets(probabilities: torch.Tensor, targets: Targets | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the class, or task, that is explained for each image, and its probability, both of shape (B,).

    Args:
        probabilities: Of whole images, shape (B, K).
        targets: A class or task for each image; by default the most probable. Others are refused by a TimmAbnError,
            and so are probabilities that are not finite.
    """
    check_predictions(probabilities)
    batch_size, classes = probabilities.shape
    if targets is None:
        targets = probabilities.argmax(dim=1)
    targets = torch.as_tensor(targets, device=probabilities.device)
    if targets.shape != (batch_size,) or targets.is_floating_point() or targets.dtype == torch.bool:
        raise TimmAbnError(
            f'targets must be {batch_size} whole numbers, one per image, got {tuple(targets.shape)} of {targets.dtype}.'
        )
    targets = targets.long()
    if bool(((targets < 0) | (targets >= classes)).any()):
        raise TimmAbnError(
            f'targets must be in [0, {classes - 1}], got {targets.min().item()} to {targets.max().item()}.'
        )
    return targets, probabilities.gather(1, targets[:, None])[:, 0]
