"""A model of any kind as two halves: features, and the logits that its second half makes of them."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn

from ...attached.network import AttachedNet
from ...errors import TimmAbnError
from ...networks.feature_layout import FeatureLayout, feature_layout
from ...networks.split_network import SplitNetwork
from ...records import answers, are_exclusive, probabilities_of
from ...split import Features, Split, SplitError, as_features, cut_backbone, cut_behind_last_stage
from ...split.halves import join_halves
from .evaluation_copy import evaluation_copy
from .explainer import of_classes

__all__ = ['CUT', 'Halves', 'halves_of']

CUT = 'cut'  # as a layer: before the last stage, or where a network with an attention branch applies its map


class Halves:
    """A backbone without an attention branch, cut in two.

    Attributes:
        path: Of the module, in the backbone, after which it is cut.
        layout: Layout of the features.
        extractor: What comes before the attention map if there is one, else the first half.
        perception: The second half, of the backbone's own class.
        num_tasks: Number of tasks, each with a map of its own; 0 of a network for classes.
        exclusive: Whether classes exclude each other.
        per_image: For each of the side inputs, whether it has a row for each image.
    """

    path: str
    layout: FeatureLayout
    extractor: Any
    perception: Any
    num_tasks: int = 0
    exclusive: bool = True
    per_image: Sequence[bool] = ()

    def __init__(self, backbone: nn.Module, layer: str | None) -> None:
        """
        Args:
            backbone: An evaluation copy of a timm model.
            layer: See ``halves_of``.

        Raises:
            SplitError: There is no such module, or no exact cut there.
        """
        parts = _cut_at(backbone, layer)
        self.path = parts.path
        self.layout, _ = feature_layout(parts)
        self.perception = parts.perception_branch.eval()
        self.extractor = parts.feature_extractor.eval()
        self.per_image = parts.side_inputs_per_image

    def extract(self, images: torch.Tensor, targets: torch.Tensor | None) -> Features:
        """Return what the second half is given, as the backbone lays it out.

        Args:
            images: Shape (B, C, H, W).
            targets: Classes, shape (B,), which matter where each task has features of its own.
        """
        return as_features(self.extractor(images))

    def forward_perception(self, features: Features) -> torch.Tensor:
        """Return logits of the answers, shape (B, K), of what ``extract`` returned, or a variation of it."""
        return answers(self.perception(features if features.side_inputs else features.x), self.exclusive)

    def of_images(self, features: Features, images: torch.Tensor) -> Features:
        """Return the features of the images of these indices, which may be repeated."""
        rows = zip(features.side_inputs, self._has_rows(features))
        return Features(features.x[images], [tensor[images] if has_rows else tensor for tensor, has_rows in rows])

    def _has_rows(self, features: Features) -> list[bool]:
        """Return for each side input whether it has a row for each image; one of a gate, which comes last, has."""
        return [*self.per_image, *[True] * (len(features.side_inputs) - len(self.per_image))]

    def targets(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor | None:
        """Return the targets, where these are needed before there are logits (in networks of several tasks)."""
        return targets

    def to_maps(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return features of shape (B, C, h, w), without prefix tokens."""
        return self.layout.to_maps(features, images)

    def from_maps(self, maps: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Return what ``to_maps`` was given: the way back, prefix tokens taken from ``features``."""
        if self.layout.layout == 'NLC':
            return torch.cat([features[:, : self.layout.num_prefix_tokens], maps.flatten(2).transpose(1, 2)], dim=1)
        return maps.permute(0, 2, 3, 1) if self.layout.layout == 'NHWC' else maps

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return probabilities of the answers, shape (B, K)."""
        return probabilities_of(logits, self.exclusive)


class _NetworkHalves(Halves):
    """A network with an attention branch: the first half ends behind the gate, or at a later layer."""

    def __init__(self, network: Any, layer: str | None) -> None:
        """
        Args:
            network: An evaluation copy of an ``AttentionBranchNet``.
            layer: See ``halves_of``.

        Raises:
            SplitError: There is no such module, or no exact cut there.
            TimmAbnError: The layer comes before the attention map.
        """
        if network.attention_branch is None:
            raise TimmAbnError('An explanation needs the attention branch, which prune_intermediate_layers() removed.')
        self._network = network
        self.num_tasks = network.num_classes if network.config.multi_task else 0
        self.layout, self.perception = network.layout, network.perception_branch
        self.extractor, self.per_image = network.feature_extractor, network.side_inputs_per_image
        self._middle: nn.Module | None = None
        self.path = network.config.split
        if layer != CUT:
            # without a layer, the network's own cut stands where there is no exact one behind it (XCiT)
            with contextlib.suppress(*([SplitError] if layer is None else [])):
                self._cut_again(evaluation_copy(network), layer)

    def _cut_again(self, spare: Any, layer: str | None) -> None:
        """Cut the backbone at ``layer``, and what comes before that at the network's split."""
        backbone = join_halves(spare.feature_extractor, spare.perception_branch, spare._plan)
        later = _cut_at(backbone, layer)
        if later.path == spare.config.split:
            return
        if later.plan.sides.get(spare.config.split) != 'before':
            if layer is None:
                return
            raise TimmAbnError(
                f'layer must come after the cut at {spare.config.split!r}, where the attention map is applied, '
                f'got {layer!r}.'
            )
        self._middle = cut_backbone(later.feature_extractor, spare.config.split).perception_branch.eval()
        self.path, (self.layout, _) = later.path, feature_layout(later)
        self.per_image = later.side_inputs_per_image
        self.perception = later.perception_branch.eval()

    def targets(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor | None:
        if self.num_tasks and targets is None:
            return self._network(images).argmax(dim=1)
        return targets

    def extract(self, images: torch.Tensor, targets: torch.Tensor | None) -> Features:
        network = self._network
        features = network.extract(images)
        attention_map = network.attention_map(features, images, None)
        if targets is not None and self.num_tasks:
            attention_map = of_classes(attention_map, targets)
        # not ``attend``: of several tasks, the map of one
        gated = network.gate(features, attention_map)
        if self._middle is None:
            return gated
        passed = as_features(self._middle(gated if gated.side_inputs else gated.x))
        of_gate = gated.side_inputs[len(features.side_inputs) :]  # later blocks read it, too
        return Features(passed.x, [*passed.side_inputs, *of_gate])

    def forward_perception(self, features: Features) -> torch.Tensor:
        """Return logits, shape (B, K); of several tasks, that of the target task is right, and no other means anything.

        Args:
            features: See ``Halves``.
        """
        outputs = super().forward_perception(features)
        if not self.num_tasks:
            return outputs
        no_and_yes = outputs.unflatten(1, (self.num_tasks, 2))
        return no_and_yes[:, :, 1] - no_and_yes[:, :, 0]


def _cut_at(backbone: nn.Module, layer: str | None) -> Split:
    if layer is None:
        return cut_behind_last_stage(backbone)
    return cut_backbone(backbone, None if layer == CUT else layer)


def halves_of(model: nn.Module, layer: str | None = None) -> Halves:
    """Return a model as two halves, which are copies in evaluation mode that share its weights.

    Features of an Attention Branch Network are those under its map; with several tasks, under that of the target task.

    Args:
        model: A timm model, with or without an attention branch.
        layer: Path, in the backbone, of the module to cut after, which must come after an attention branch; 'cut' for
            the default split (``timm_abn.split_backbone``), or behind the gate of an Attention Branch Network. By
            default the last stage whose places what follows reads (``timm_abn.split.cut_behind_last_stage``).

    Raises:
        SplitError: There is no such module, or no exact cut there.
        TimmAbnError: The model has no classes, or the layer comes before the attention map.
    """
    if getattr(model, 'num_classes', None) == 0:
        raise TimmAbnError(f'An explanation needs classes: {type(model).__name__} has num_classes=0.')
    with torch.inference_mode(False):
        duplicate = evaluation_copy(model.backbone if isinstance(model, AttachedNet) else model)
        halves = _NetworkHalves(duplicate, layer) if isinstance(model, SplitNetwork) else Halves(duplicate, layer)
        halves.exclusive = are_exclusive(model)
        return halves
