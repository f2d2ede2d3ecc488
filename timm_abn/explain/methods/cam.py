"""CAM: the classifier's weights on the last features (Zhou et al., CVPR 2016, arXiv 1512.04150)."""

from typing import Any

import torch
import torch.nn as nn
from timm.models import get_model_input_config

from ...errors import TimmAbnError
from ...maps.operations import less_mean
from ...split import family_of
from .explainer import Explainer, full_precision, target_classes
from .halves import CUT, halves_of

__all__ = ['CamExplainer']


class CamExplainer(Explainer):
    """Applies a linear classifier at each place of the last features, instead of to their mean, less the map's mean.

    That mean over the places is the logit of the class, so that a map says how much more each place speaks for the
    class. It takes a classifier that is one linear layer on the mean of the features over all places; models with
    anything between (a norm, a further layer, other pooling) are refused.
    """

    name, layer, centred = 'cam', 'last features', True

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._halves = halves_of(model, CUT)
        classifier = self._halves.perception.get_classifier()
        if not isinstance(classifier, nn.Linear):
            raise self._refusal(f'its classifier is a {type(classifier).__name__}')
        self._classifier = classifier
        with torch.inference_mode(False), torch.no_grad():
            self._prove()

    def _refusal(self, found: str) -> TimmAbnError:
        family = family_of(self._halves.perception).__name__
        return TimmAbnError(f"'cam' needs a linear classifier on average-pooled features, {family} has none: {found}.")

    def _prove(self) -> None:
        """Check on random features that the logits are what they are taken for."""
        weight, perception = self._classifier.weight, self._halves.perception
        size = get_model_input_config(perception)['input_size']
        images = torch.zeros((1, *size), device=weight.device, dtype=weight.dtype)
        features = self._last_features(images, torch.zeros(1, device=weight.device, dtype=torch.long))
        if not self._has_last_maps(features, images):
            raise self._refusal('its last features are not maps, or have another layout than those before them')
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(features.shape, generator=generator).to(features)
        pooled = perception.forward_head(features, pre_logits=True)
        maps = self._last_maps(features, images)
        if pooled.shape != maps.shape[:2] or not _equal(pooled, maps.mean(dim=(2, 3))):
            raise self._refusal('the input of its classifier is not the mean of its last features')
        if not _equal(perception.forward_head(features), self._classifier(pooled)):
            raise self._refusal('its logits are not the output of its classifier')

    def _last_features(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        features = self._halves.extract(images, targets)
        return self._halves.perception.forward_features(features if features.side_inputs else features.x)

    def _has_last_maps(self, features: Any, images: torch.Tensor) -> bool:
        if not isinstance(features, torch.Tensor):
            return False
        layout = self._halves.layout
        if features.ndim != 3:
            return features.ndim == 4
        height, width = (size // layout.reduction for size in images.shape[2:])
        return layout.layout == 'NLC' and features.shape[1] == layout.num_prefix_tokens + height * width

    def _last_maps(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return the last features as (B, C, h, w)."""
        if features.ndim == 3:
            return self._halves.to_maps(features, images)
        channels = self._classifier.in_features
        last = features.shape[3] == channels
        if last and features.shape[1] == channels:
            last = getattr(self._halves.perception, 'output_fmt', 'NCHW') == 'NHWC'
        return features.permute(0, 3, 1, 2) if last else features

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        targets = self._halves.targets(images, targets)
        features = self._last_features(images, targets)
        if targets is None:
            targets = target_classes(self._halves.perception.forward_head(features), targets)
        rows = full_precision(self._classifier.weight)
        # of a task, yes minus no
        weight = rows[2 * targets + 1] - rows[2 * targets] if self._halves.num_tasks else rows[targets]
        maps = full_precision(self._last_maps(features, images))
        return less_mean(torch.einsum('bc,bchw->bhw', weight, maps).unsqueeze(1))


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    # in half precision a mean has two digits; a norm or an activation changes the first
    tolerance = 10 * torch.finfo(first.dtype).eps ** 0.5 if first.dtype.itemsize < 4 else 1e-4
    return bool(torch.allclose(first, second, rtol=tolerance, atol=tolerance * float(second.abs().max())))
