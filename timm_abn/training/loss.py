"""Training losses of an ABN, for any loop: L_attention + L_perception (paper, Eq. 3), and one for faithful maps.

With PyTorch, Lightning or Accelerate each is two lines::

    criterion = AttentionBranchLoss(nn.CrossEntropyLoss())
    loss = criterion(model(images), targets)

    criterion = FaithfulMapLoss(nn.CrossEntropyLoss())
    loss = criterion(FaithfulTraining(model)(images), targets)
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F

from .errors import TrainingError
from .faithful import TrainingOutput

Output = torch.Tensor | tuple[torch.Tensor, ...] | TrainingOutput

__all__ = ['AttentionBranchLoss', 'FaithfulMapLoss', 'check_weight']

# term of the map -> what it is a function of
_SEEN = dict(
    masked='masked_logits',
    area='attention_map',
    smoothness='attention_map',
    consistency='flipped_map',
    complement='complement_logits',
)


class AttentionBranchLoss(nn.Module):
    """Sum of one criterion over the logits of both branches (paper, Eq. 3).

    In training mode an ABN returns ``(logits, attention_logits)``; in evaluation mode it returns ``logits``, whose loss
    is that of the perception branch alone.

    Attributes:
        watch: Called in training with the unweighted terms by name, and the size of the batch; None for no call.
    """

    def __init__(self, criterion: Callable[..., torch.Tensor], attention_loss_weight: float = 1.0) -> None:
        """
        Args:
            criterion: Loss of one branch, from logits and targets.
            attention_loss_weight: Weight of the attention branch's loss; 1 in the paper. A negative or infinite weight
                raises a TrainingError.
        """
        super().__init__()
        check_weight(attention_loss_weight)
        self.criterion = criterion
        self.attention_loss_weight = attention_loss_weight
        self.watch: Callable[[dict[str, torch.Tensor], int], None] | None = None

    def weighted_terms(self) -> dict[str, float]:
        """Return the terms of the loss and their weights, those that are not 0."""
        return dict(perception=1.0, **({'attention': self.attention_loss_weight} if self.attention_loss_weight else {}))

    def _show(self, batch_size: int, **terms: torch.Tensor) -> None:
        if self.watch is not None:
            self.watch({name: term.detach() for name, term in terms.items()}, batch_size)

    def forward(self, output: Output, target: torch.Tensor) -> torch.Tensor:
        """Return the loss.

        Args:
            output: Output of an ABN: ``(logits, attention_logits)``, or ``logits``, each of shape (B, K); or a
                ``TrainingOutput``, of which the first two are used.
            target: Target of the criterion: classes (B,), or probabilities (B, K).
        """
        if isinstance(output, torch.Tensor):
            return self.criterion(output, target)
        logits, attention_logits = output[:2]
        attention_loss = self.criterion(attention_logits, target)
        perception_loss = self.criterion(logits, target)
        self._show(len(logits), perception=perception_loss, attention=attention_loss)
        return perception_loss + self.attention_loss_weight * attention_loss

    def extra_repr(self) -> str:  # noqa: D102
        return f'attention_loss_weight={self.attention_loss_weight}'


class FaithfulMapLoss(AttentionBranchLoss):
    """The loss of both branches, plus terms that make the map show what the prediction depends on.

        L = L_perception + w_a L_attention + w_m L(logits of the image that the map keeps, target)
            + w_area mean(M) + w_smooth mean(|dM|) + w_flip mean((M - M of the flipped image, flipped back)^2)
            + w_c L(logits of the features where the map is not, no answer)

    With the third term the network must also predict from what its map keeps; with the fourth, this must be little.
    They belong together (hard attention keeps a fixed share, and does not need the fourth). With the last term all
    classes must be equally likely where the map is not (for attributes: each as likely as not), so that the prediction
    depends on the map. Wrap the network in ``FaithfulTraining``, which returns what is needed. With several tasks, the
    map of one task per image is used, drawn at random each time, and the criterion gets only its logits, (B, 1).
    """

    TERMS: ClassVar[tuple[str, ...]] = tuple(_SEEN)

    def __init__(
        self,
        criterion: Callable[..., torch.Tensor],
        attention_loss_weight: float = 1.0,
        masked: float = 1.0,
        area: float = 0.5,
        smoothness: float = 0.0,
        consistency: float = 0.0,
        complement: float = 0.0,
        multi_label: bool = False,
    ) -> None:
        """
        Args:
            criterion: Loss of one branch, from logits and targets; for several tasks one without weights per task,
                since a masked image has the logits of one task only.
            attention_loss_weight: See ``AttentionBranchLoss``.
            masked: Weight of the loss of the masked image, w_m.
            area: Weight of the mean of the map, w_area.
            smoothness: Weight of the mean absolute difference between neighbouring positions of the map, w_smooth.
            consistency: Weight of the mean squared difference to the map of the flipped image, w_flip.
            complement: Weight of the cross entropy between the prediction where the map is not, and no answer, w_c.
            multi_label: Whether targets are several attributes per image, not its class.

        Raises:
            TrainingError: A weight is negative or not finite.
        """
        super().__init__(criterion, attention_loss_weight)
        self.multi_label = multi_label
        self.weights = dict(
            masked=masked, area=area, smoothness=smoothness, consistency=consistency, complement=complement
        )
        for name, weight in self.weights.items():
            check_weight(weight, f'weight {name!r} of the map loss')

    def forward(self, output: Output, target: torch.Tensor) -> torch.Tensor:
        """Return the loss.

        Args:
            output: A ``TrainingOutput``; in evaluation mode logits, of shape (B, K).
            target: See ``AttentionBranchLoss``.

        Raises:
            TrainingError: The network does not return what is needed.
        """
        if isinstance(output, torch.Tensor):
            return self.criterion(output, target)
        loss = super().forward(output, target)
        terms = self.map_terms(output, target)
        self._show(len(output[0]), **terms)
        return loss + sum(self.weights[name] * value for name, value in terms.items())

    def weighted_terms(self) -> dict[str, float]:  # noqa: D102
        return {**super().weighted_terms(), **{name: weight for name, weight in self.weights.items() if weight}}

    def map_terms(self, output: Output, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the terms of the map, those whose weight is not 0, before they are weighted."""
        seen: dict[str, torch.Tensor] = {}
        for name in (name for name, weight in self.weights.items() if weight):
            value: torch.Tensor | None = getattr(output, _SEEN[name], None)
            if value is None:
                raise TrainingError(
                    f'the {name} term needs more than the network returns: wrap it in FaithfulTraining.'
                )
            seen[name] = value
        terms: dict[str, torch.Tensor] = {}
        if 'masked' in seen:
            terms['masked'] = self.criterion(seen['masked'], _of_task(target, output))
        if 'complement' in seen:
            terms['complement'] = self._complement(seen['complement'])
        if 'area' in seen:
            terms['area'] = seen['area'].float().mean()
        if 'smoothness' in seen:
            maps = seen['smoothness'].float()
            steps = [maps.diff(dim=dim).abs().mean() for dim in (2, 3) if maps.shape[dim] > 1]
            terms['smoothness'] = torch.stack(steps).sum() if steps else maps.new_zeros(())
        if 'consistency' in seen:
            terms['consistency'] = (output[2].float() - seen['consistency'].float()).square().mean()
        return terms

    def _complement(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 0.5))
        return -F.log_softmax(logits, dim=1).mean()

    def extra_repr(self) -> str:  # noqa: D102
        weights = ', '.join(f'{name}={weight}' for name, weight in self.weights.items())
        return f'{super().extra_repr()}, {weights}'


def _of_task(target: torch.Tensor, output: Output) -> torch.Tensor:
    tasks = getattr(output, 'tasks', None)
    return target if tasks is None else target.gather(1, tasks[:, None])


def check_weight(weight: float, name: str = 'attention_loss_weight') -> None:
    """Raise TrainingError unless ``weight`` can be the weight of a loss, called ``name``."""
    if isinstance(weight, bool) or not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
        raise TrainingError(f'{name} must be a finite number of 0 or more, got {weight!r}.')
