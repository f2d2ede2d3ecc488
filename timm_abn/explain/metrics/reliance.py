"""Reliance (ours): does the prediction of an ABN depend on where its map looks?

An ABN's map is part of the forward pass, but it may still not matter: the residual form never hides anything, and a
layer norm over channels cancels any factor that is the same for all channels of a position. So the map is replaced, and
the predictions are compared.
"""

import dataclasses
from typing import Any, NamedTuple

import torch

from ...errors import TimmAbnError
from ...records import are_exclusive
from .checks import check_evaluation_mode, check_images, check_positive
from .predictions import probability_function

__all__ = ['NO_EFFECT', 'Reliance', 'RelianceRow', 'ReplacementEffects', 'reliance', 'replacement_effects']

NO_EFFECT = 1e-3  # changes of the pre-logits, relative to their norm, below which a map is cancelled
FLAT = 0.5


@dataclasses.dataclass(frozen=True)
class RelianceRow:
    """What one replacement of the map changes.

    Attributes:
        replacement: 'mean', 'other', 'shuffled' or 'inverse', compared with the network's own maps; 'uniform' or
            'half', compared with maps that are 0.5 everywhere.
        effect: Change of the pre-logits relative to their norm, ``|y' - y| / |y|``, mean over images (and tasks).
        probability_change: Mean absolute change of the probabilities of all classes, or tasks.
        changed_predictions: Share of the predicted classes, or of the answers to tasks, that change, in [0, 1].
        accuracy_change: Accuracy with the replacement minus that without, in [-1, 1]; None without labels.
    """

    replacement: str
    effect: float
    probability_change: float
    changed_predictions: float
    accuracy_change: float | None = None

    @property
    def has_effect(self) -> bool:
        """Whether the pre-logits change by 1e-3 of their norm or more; a NaN is no proof that they do not."""
        return not self.effect < NO_EFFECT


@dataclasses.dataclass(frozen=True)
class Reliance:
    """What replacements of the map change, and what that means.

    Attributes:
        rows: One per replacement, 'mean', 'other', 'shuffled', 'inverse', 'uniform' and 'half' in this order; 'other'
            only for two or more images.
        accuracy: Accuracy of the network with its own maps, in [0, 1]; None without labels.
    """

    rows: tuple[RelianceRow, ...]
    accuracy: float | None = None

    def __getitem__(self, replacement: str) -> RelianceRow:
        for row in self.rows:
            if row.replacement == replacement:
                return row
        raise KeyError(replacement)

    @property
    def reacts_to_differences_only(self) -> bool:
        """Whether a uniform change of the map changes nothing, and another change does.

        That may be another than 'half': Swin merges patches two by two before its norm, which undoes the half as well
        where its border lies between two pairs.
        """
        return not self['uniform'].has_effect and not self.is_cancelled

    @property
    def is_cancelled(self) -> bool:
        """Whether no change of the map that was tried has an effect: something after the cut undoes it."""
        return not any(row.has_effect for row in self.rows)

    @property
    def findings(self) -> list[str]:
        """Warnings about this network, one sentence each; empty if every replacement has an effect."""
        if self.is_cancelled:
            return [
                f'The prediction ignores the attention map: no replacement changes the pre-logits by {NO_EFFECT:g} of '
                f'their norm (a layer norm after the cut undoes it, or the rest of the network hardly matters).'
            ]
        found = []
        if self.reacts_to_differences_only:
            found.append(
                'The prediction depends only on differences within the attention map: a uniform change is undone.'
            )
        for row in self.rows:
            if not row.has_effect and not (row.replacement == 'uniform' and self.reacts_to_differences_only):
                found.append(
                    f'Replacing the attention map ({row.replacement}) has no effect: it changes the pre-logits by '
                    f'{row.effect:.1e} of their norm.'
                )
        return found


def reliance(
    model: Any,
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Reliance:
    """Return what an ABN's predictions lose when its map is replaced.

    - 'mean': each map's own mean everywhere.
    - 'other': the map of another image, drawn once for all.
    - 'shuffled': the same values at other positions, drawn for each map.
    - 'inverse': ``1 - map``; for maps other than sigmoids ``max + min - map``, which stays in their range.
    - 'uniform': a flat map goes from 0.5 to 0 everywhere.
    - 'half': a flat map of 0.5 keeps its left half only; the rest becomes 0.

    Args:
        model: An ABN with a classifier, in evaluation mode.
        images: Normalised images, shape (B, C, H, W).
        labels: Classes, shape (B,), for one logit 0 or 1; for labels or tasks the correct answers, 0 or 1, shape (B,
            K).
        batch_size: Images per forward pass; for T tasks, ``batch_size // T`` images with their maps.
        seed: Seed of the draws, which do not depend on the batch size.

    Raises:
        TimmAbnError: The model is not an ABN, has no classifier, is in training mode, or an argument has the wrong
            shape.
    """
    effects, correct = replacement_effects(model, images, labels, batch_size, seed)
    rows = tuple(
        RelianceRow(name, *(values.mean().item() for values in columns if values is not None))
        for name, columns in effects.items()
    )
    return Reliance(rows, None if correct is None else correct.mean().item())


class ReplacementEffects(NamedTuple):
    """What one replacement changes for each image, all of shape (B,); see ``RelianceRow``, whose means these have."""

    effect: torch.Tensor
    probability_change: torch.Tensor
    changed_predictions: torch.Tensor
    accuracy_change: torch.Tensor | None = None


def replacement_effects(
    model: Any,
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> tuple[dict[str, ReplacementEffects], torch.Tensor | None]:
    """Return, for each replacement, what an ABN's prediction loses image by image: ``reliance`` before the means.

    Arguments and errors are those of ``reliance``.

    Returns:
        The effects, and the accuracy of each image with its own map, shape (B,), which is None without labels.
    """
    if getattr(model, 'attention_branch', None) is None or not model.num_classes:
        raise TimmAbnError('reliance() needs an Attention Branch Network with its branch and a classifier.')
    check_evaluation_mode(model)
    check_images(images)
    check_positive('batch_size', batch_size)
    maps = torch.cat([model.explain(batch).attention_map for batch in images.split(batch_size)])
    expected = (len(images),) if are_exclusive(model) else (len(images), model.num_classes)
    if labels is not None and tuple(labels.shape) != expected:
        raise TimmAbnError(f'labels must have shape {expected}, got {tuple(labels.shape)}.')
    batch_size = max(batch_size // maps.shape[1], 1)
    is_sigmoid = model.config.attention_map == 'sigmoid'
    own = _Answers.of(model, images, maps, batch_size)
    flat = _Answers.of(model, images, torch.full_like(maps, FLAT), batch_size)
    effects = {}
    for name, replacement in _replacements(maps, is_sigmoid, seed).items():
        reference = flat if name in ('uniform', 'half') else own
        effects[name] = _compare(reference, _Answers.of(model, images, replacement, batch_size), labels)
    return effects, None if labels is None else own.correct(labels)


def _replacements(maps: torch.Tensor, is_sigmoid: bool, seed: int) -> dict[str, torch.Tensor]:
    """Return maps to use instead of ``maps``, shape (B, T, h, w), by name."""
    generator = torch.Generator().manual_seed(seed)
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    left = torch.zeros_like(maps)
    left[..., : maps.shape[3] // 2] = FLAT
    replacements = {'mean': maps.mean(dim=(2, 3), keepdim=True).expand_as(maps)}
    if len(maps) > 1:
        # each image gets the map of the next one in a random order, so that none keeps its own
        order = torch.randperm(len(maps), generator=generator)
        successors = torch.empty_like(order)
        successors[order] = order.roll(1)
        replacements['other'] = maps[successors.to(maps.device)]
    places = torch.rand(maps.flatten(2).shape, generator=generator).argsort(dim=2).to(maps.device)
    replacements['shuffled'] = maps.flatten(2).gather(2, places).view_as(maps)
    replacements['inverse'] = 1 - maps if is_sigmoid else high + low - maps
    replacements['uniform'] = torch.zeros_like(maps)
    replacements['half'] = left
    return replacements


@dataclasses.dataclass(frozen=True)
class _Answers:
    """What a network says under given maps."""

    pre_logits: torch.Tensor  # (B, C), or (B * T, C)
    probabilities: torch.Tensor  # (B, K)
    predictions: torch.Tensor  # (B,), or (B, T)

    @staticmethod
    @torch.no_grad()
    def of(model: Any, images: torch.Tensor, maps: torch.Tensor, batch_size: int) -> '_Answers':
        pre_logits, logits = [], []
        for batch, attention in zip(images.split(batch_size), maps.split(batch_size)):
            features = model.forward_features(batch, attention=attention)
            pooled = model.forward_head(features, pre_logits=True)
            pre_logits.append(pooled.flatten(0, -2).float())
            logits.append(model.forward_head(features))
        probabilities = probability_function(model)(torch.cat(logits))
        predictions = probabilities.argmax(dim=1) if are_exclusive(model) else torch.cat(logits) > 0
        return _Answers(torch.cat(pre_logits), probabilities, predictions)

    def correct(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the accuracy of each image, shape (B,)."""
        return _per_image(self.predictions == labels.to(self.predictions.device))


def _per_image(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over classes, or tasks, of each image: (B, ...) -> (B,)."""
    return values.float().flatten(1).mean(dim=1) if values.ndim > 1 else values.float()


def _compare(reference: _Answers, replaced: _Answers, labels: torch.Tensor | None) -> ReplacementEffects:
    changes = (replaced.pre_logits - reference.pre_logits).norm(dim=1) / reference.pre_logits.norm(dim=1)
    return ReplacementEffects(
        effect=_per_image(changes.view(len(reference.predictions), -1)),
        probability_change=_per_image((replaced.probabilities - reference.probabilities).abs()),
        changed_predictions=_per_image(replaced.predictions != reference.predictions),
        accuracy_change=None if labels is None else replaced.correct(labels) - reference.correct(labels),
    )
