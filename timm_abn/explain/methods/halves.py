"""A model of any kind as two halves: features, and the logits that its second half makes of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn as nn

from ...errors import TimmAbnError
from ...networks.feature_layout import FeatureLayout, feature_layout
from ...networks.network import AttentionBranchNet
from ...split import cut_backbone
from ...split.halves import join_halves
from ...split.packing import pack, unpack
from .evaluation_copy import evaluation_copy
from .explainer import of_classes

__all__ = ['Company', 'Halves', 'block_arguments', 'halves_of']


class Company(NamedTuple):
    """What the second half is given besides the features.

    Attributes:
        attention_bias: What is added to the scores by which tokens attend to each other, with a row for each image.
        beside: What passes beside the features, in families of several streams, say.
        per_image: Whether each of it has a row for each image.
    """

    attention_bias: torch.Tensor | None = None
    beside: Sequence[torch.Tensor] = ()
    per_image: Sequence[bool] = ()

    def of(self, images: torch.Tensor) -> 'Company':
        """Return the company of other features, of the images of these indices."""
        bias = None if self.attention_bias is None else self.attention_bias[images]
        return self._replace(
            attention_bias=bias,
            beside=[t[images] if has_rows else t for t, has_rows in zip(self.beside, self.per_image)],
        )


class Halves:
    """A backbone without an attention branch, cut in two.

    Attributes:
        layout: Layout of the features.
        extractor: What comes before the attention map if there is one, else the first half.
        perception: The second half, of the backbone's own class.
        num_tasks: Number of tasks, each with a map of its own; 0 of a network for classes.
        per_image: What passes beside the features: for each, whether it has a row for each image.
    """

    layout: FeatureLayout
    extractor: Any
    perception: Any
    num_tasks: int = 0
    per_image: Sequence[bool] = ()

    def __init__(self, backbone: nn.Module, layer: str | None) -> None:
        """
        Args:
            backbone: An evaluation copy of a timm model.
            layer: Path of the module after which it is cut, its default split if None.

        Raises:
            SplitError: There is no such module, or no exact cut there.
        """
        parts = cut_backbone(backbone, layer)
        self.layout, _ = feature_layout(parts)
        self.perception = parts.perception_branch.eval()
        self.extractor = parts.feature_extractor.eval()
        self.per_image = parts.beside_per_image

    def extract(
        self,
        images: torch.Tensor,
        targets: torch.Tensor | None,
    ) -> tuple[torch.Tensor, Company]:
        """Return the features, as the backbone lays them out, that the second half is given, and their company.

        Args:
            images: Shape (B, C, H, W).
            targets: Classes, shape (B,), which matter where each task has features of its own.
        """
        features, beside = unpack(self.extractor(images))
        return features, Company(None, beside, self.per_image)

    def perceive(self, features: torch.Tensor, company: Company) -> torch.Tensor:
        """Return logits, shape (B, K).

        Args:
            features: What ``extract`` returned, or a variation of it.
            company: What ``extract`` returned beside it, a row for each of the features.
        """
        return self.perception(pack(features, company.beside), **block_arguments(company.attention_bias))

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
        """Return probabilities of the classes (softmax), or of a yes of each task (sigmoid), shape (B, K)."""
        return logits.sigmoid() if self.num_tasks else logits.softmax(dim=1)


class _NetworkHalves(Halves):
    """An Attention Branch Network: the first half ends behind the mechanism, or at a later layer."""

    def __init__(self, network: Any, layer: str | None) -> None:
        """
        Args:
            network: An evaluation copy of an ``AttentionBranchNet``.
            layer: Path, in the backbone, of the module after which it is cut; None for the network's own cut.

        Raises:
            SplitError: There is no such module, or no exact cut there.
            TimmAbnError: The layer comes before the attention map.
        """
        if network.attention_branch is None:
            raise TimmAbnError('An explanation needs the attention branch, which prune_intermediate_layers() removed.')
        self._network = network
        self.num_tasks = network.num_classes if network.outputs_per_class == 2 else 0
        self.layout, self.perception = network.layout, network.perception_branch
        self.extractor, self.per_image = network.feature_extractor, network.beside_per_image
        self._middle: nn.Module | None = None
        if layer is not None:
            self._cut_again(evaluation_copy(network), layer)

    def _cut_again(self, spare: Any, layer: str) -> None:
        """Cut the backbone at ``layer``, and what comes before that at the network's split."""
        backbone = join_halves(spare.feature_extractor, spare.perception_branch, spare._plan)
        later = cut_backbone(backbone, layer)
        if later.path == spare.split:
            return
        if later.plan.sides.get(spare.split) != 'before':
            raise TimmAbnError(
                f'layer must come after the cut at {spare.split!r}, where the attention map is applied, got {layer!r}.'
            )
        self.layout, _ = feature_layout(later)
        self.per_image = later.beside_per_image
        self._middle = cut_backbone(later.feature_extractor, spare.split).perception_branch.eval()
        self.perception = later.perception_branch.eval()

    def targets(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor | None:
        if self.num_tasks and targets is None:
            return self._network(images).argmax(dim=1)
        return targets

    def extract(
        self,
        images: torch.Tensor,
        targets: torch.Tensor | None,
    ) -> tuple[torch.Tensor, Company]:
        network = self._network
        features, beside = network.extract(images)
        class_features = network.attention_branch.forward_features(network.layout.to_maps(features, images))
        attention_map = network.attention_branch.attention_map(class_features)
        if targets is not None and self.num_tasks:
            attention_map = of_classes(attention_map, targets)
        gated, bias = (
            network.mechanism(features, attention_map),
            network.mechanism.attention_bias(features, attention_map),
        )
        if self._middle is not None:
            gated, beside = unpack(self._middle(pack(gated, beside), **block_arguments(bias)))
        return gated, Company(bias, beside, self.per_image)

    def perceive(self, features: torch.Tensor, company: Company) -> torch.Tensor:
        """Return logits, shape (B, K); of several tasks, that of the target task is right, and no other means anything.

        Args:
            features: See ``Halves``.
            company: See ``Halves``.
        """
        outputs = super().perceive(features, company)
        if not self.num_tasks:
            return outputs
        no_and_yes = outputs.unflatten(1, (self.num_tasks, 2))
        return no_and_yes[:, :, 1] - no_and_yes[:, :, 0]


def block_arguments(attention_bias: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return what a half is called with besides the features, so that its blocks get the bias.

    Args:
        attention_bias: The bias, if there is one.
    """
    return {} if attention_bias is None else dict(attn_mask=attention_bias)


def halves_of(model: nn.Module, layer: str | None = None) -> Halves:
    """Return a model as two halves, which are copies in evaluation mode that share its weights.

    An Attention Branch Network is cut behind its mechanism, so that the features are those that the perception branch
    sees; with several tasks they are those under the map of the target task. Other models are cut at their default
    split (``timm_abn.split_backbone``).

    Args:
        model: A timm model, with or without an attention branch.
        layer: Path, in the backbone, of the module to cut at instead; it must come after an attention branch.

    Raises:
        SplitError: There is no such module, or no exact cut there.
        TimmAbnError: The model has no classes, or the layer comes before the attention map.
    """
    if getattr(model, 'num_classes', None) == 0:
        raise TimmAbnError(f'An explanation needs classes: {type(model).__name__} has num_classes=0.')
    with torch.inference_mode(False):
        duplicate = evaluation_copy(model)
        if isinstance(model, AttentionBranchNet):
            return _NetworkHalves(duplicate, layer)
        return Halves(duplicate, layer)
