"""Training with human knowledge: the map is trained towards masks that people draw.

Mitsuhara et al., "Embedding Human Knowledge into Deep Neural Network via Attention Map", arXiv 1905.03540, fine-tune an
ABN with the distance between its map and one that a human edited; here the human's part is a mask, and not every image
needs one.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from .errors import TrainingError
from .loss import AttentionBranchLoss, Output, check_weight

__all__ = ['MASK_LOSSES', 'AttentionMaskLoss', 'MaskedTargetLoss', 'label_and_masks', 'target_with_masks']

MASK_LOSSES = ('bce', 'energy', 'l1')


class AttentionMaskLoss(nn.Module):
    """Distance between attention maps and masks, for images that have a mask.

    - ``bce``: binary cross entropy at each position of the map, averaged over the map.
    - ``energy``: 1 minus the share of the map's sum inside the mask. It depends on where the map is, not how large.
    - ``l1``: mean absolute difference.

    With hard attention the loss uses the map that gates, in which most positions are 0, and its gradient reaches all of
    them. Where the map is 0 the cross entropy has no useful slope and is replaced by the absolute difference.

    With the loss of both branches, or ``FaithfulMapLoss``, in your own loop:

        model = FaithfulTraining(network, background=None)  # returns the map as well; no second forward pass
        output = model(images)
        loss = criterion(output, targets) + AttentionMaskLoss('bce')(output.attention_map, masks)
    """

    clamped: float = 1e-4  # no greater slope than its inverse, which half precision can hold

    def __init__(self, kind: str = 'bce') -> None:
        super().__init__()
        if kind not in MASK_LOSSES:
            raise TrainingError(f'the loss of masks must be one of {", ".join(MASK_LOSSES)}, got {kind!r}.')
        self.kind = kind

    def forward(
        self, attention_map: torch.Tensor, masks: torch.Tensor, present: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean over the masks present; exactly 0, with gradients of 0, if there is none.

        Args:
            attention_map: Shape (B, T, h, w), in [0, 1].
            masks: 1 where the map should be, shape (B, T, H, W), bool or in [0, 1]; averaged over the
                positions of the map. A mask that contains NaN is missing.
            present: Which masks are present, shape (B, T), bool; by default all without NaN. For 'energy', a mask that
                is 0 everywhere is also missing.

        Raises:
            TrainingError: A shape or type is wrong.
        """
        distances, counted = self.distances(attention_map, masks, present)
        return distances.sum() / counted.sum().clamp(min=1)

    def distances(
        self, attention_map: torch.Tensor, masks: torch.Tensor, present: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distance of each map, 0 where there is no mask, and which were counted; see ``forward``."""
        _check(attention_map, masks, present)
        maps = attention_map if attention_map.dtype == torch.float64 else attention_map.float()
        masks = masks.to(maps.dtype)
        is_nan = masks.isnan()
        counted = ~is_nan.flatten(2).any(dim=2)
        if present is not None:
            counted = counted & present
        masks = F.adaptive_avg_pool2d(masks.masked_fill(is_nan, 0.0), (maps.shape[2], maps.shape[3]))
        if self.kind == 'energy':
            counted = counted & (masks.sum(dim=(2, 3)) > 0)
            distances = self._outside(maps, masks)
        else:
            distances = self._cross_entropy(maps, masks) if self.kind == 'bce' else (maps - masks).abs()
            distances = distances.mean(dim=(2, 3))
        return distances.masked_fill(~counted, 0.0), counted

    def _outside(self, maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        least = self.clamped * maps.shape[2] * maps.shape[3]  # of the sum of a map that is 0 everywhere
        return 1 - (maps * masks).sum(dim=(2, 3)) / maps.sum(dim=(2, 3)).clamp(min=least)

    def _cross_entropy(self, maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        # straight-through, since clamp has no gradient outside its range, from where a map could not come back
        inside = maps + (maps.clamp(self.clamped, 1 - self.clamped) - maps).detach()
        entropy = -(masks * inside.log() + (1 - masks) * (1 - inside).log())
        return torch.where(maps > 0, entropy, masks * (1 - maps))


def _check(attention_map: torch.Tensor, masks: torch.Tensor, present: torch.Tensor | None) -> None:
    expected = tuple(attention_map.shape[:2])
    if masks.ndim != 4 or masks.shape[:2] != expected:
        batch_size, num_maps = expected
        raise TrainingError(f'masks must have shape ({batch_size}, {num_maps}, H, W), got {tuple(masks.shape)}.')
    if masks.dtype != torch.bool and not masks.is_floating_point():
        raise TrainingError(f'masks must be bool, or floating in [0, 1], got {masks.dtype}.')
    # looked at on the CPU only, where it does not hold up the device; NaN, which is neither, is a mask that is missing
    if masks.device.type == 'cpu' and ((masks < 0) | (masks > 1)).any():
        strange = masks[(masks < 0) | (masks > 1)][0].item()
        raise TrainingError(f'masks must be in [0, 1], got {strange:g}.')
    if present is not None and (present.shape != expected or present.dtype != torch.bool):
        raise TrainingError(
            f'present must be bool, of shape {expected}, got {present.dtype} of shape {tuple(present.shape)}.'
        )


def target_with_masks(label: int | torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return one tensor for timm's loaders and training loop: a plane that begins with the label, and the masks.

    The label is a class, or what is true of K attributes, shape (K,); masks are in [0, 1], shape (T, H, W), and one
    that is 0 everywhere is missing. The result has shape (1 + T, H, W), float32, which holds every class up to 2^24.
    """
    numbers = torch.as_tensor(label, dtype=torch.float32).reshape(-1)
    plane = torch.zeros(masks.shape[1:].numel())
    if len(numbers) > len(plane):
        raise TrainingError(f'{len(numbers)} attributes need masks of as many pixels, got {tuple(masks.shape[1:])}.')
    plane[: len(numbers)] = numbers
    return torch.cat([plane.view(1, *masks.shape[1:]), masks.float()])


def label_and_masks(target: torch.Tensor, num_labels: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the labels of a batch, (B,) int64 or (B, ``num_labels``) float32, and its masks, (B, T, H, W)."""
    numbers, masks = target[:, 0].flatten(1), target[:, 1:]
    return (numbers[:, 0].long() if num_labels is None else numbers[:, :num_labels]), masks


class MaskedTargetLoss(AttentionBranchLoss):
    """The loss of both branches, and that of the masks which targets bring along (``target_with_masks``).

    The network must return its map: ``FaithfulTraining(network, background=None)``. In a run of several processes the
    mean is over the masks of all of them, so that gradients are those of one process with the whole batch.
    """

    def __init__(
        self, branch_loss: AttentionBranchLoss, kind: str = 'bce', weight: float = 1.0, multi_label: bool = False
    ) -> None:
        super().__init__(branch_loss.criterion, branch_loss.attention_loss_weight)
        check_weight(weight, 'weight of the loss of masks')
        self.branch_loss = branch_loss
        self.mask_loss = AttentionMaskLoss(kind)
        self.weight = weight
        self.multi_label = multi_label

    def forward(self, output: Output, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of a ``TrainingOutput``, and labels and masks that a loader stacked."""
        logits, _, maps = output[:3]
        labels, masks = label_and_masks(target, logits.shape[1] if self.multi_label else None)
        if masks.shape[1] != maps.shape[1]:
            raise TrainingError(
                f'the network has {maps.shape[1]} attention maps, but the data {masks.shape[1]} masks per image.'
            )
        distances, counted = self.mask_loss.distances(maps, masks, masks.flatten(2).amax(dim=2) > 0)
        mask_loss = distances.sum() / _mean_count(counted)
        self.branch_loss.watch = self.watch
        loss = self.branch_loss(output, labels) + self.weight * mask_loss
        self._show(len(logits), masks=mask_loss)
        return loss

    def weighted_terms(self) -> dict[str, float]:  # noqa: D102
        return {**self.branch_loss.weighted_terms(), **(dict(masks=self.weight) if self.weight else {})}


def _mean_count(counted: torch.Tensor) -> torch.Tensor:
    """Return how many masks a process has on average, or more if none has any."""
    count, processes = counted.sum().float(), 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        processes = torch.distributed.get_world_size()
        torch.distributed.all_reduce(count)
    return count.clamp(min=1) / processes
