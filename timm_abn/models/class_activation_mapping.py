"""Class activation mapping (CAM): how a network without an attention branch explains itself.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016. The classifier is one linear layer on
the spatial means of the last features. That layer, applied at each place instead of to the means, is a 1x1 convolution
whose outputs are the class maps; their spatial means are the logits.
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.models import get_model_args

from ..errors import TimmAbnError
from ..maps.explanation import Explanation
from ..maps.operations import normalize_maps
from ..networks.scripting import ignored_by_torchscript

__all__ = ['ClassActivationMapping']


class ClassActivationMapping:
    """Adds ``explain`` to a timm model whose classifier is a linear layer after average pooling."""

    training: bool

    @ignored_by_torchscript
    @torch.no_grad()
    def explain(self, images: torch.Tensor) -> Explanation:
        """Predict, and say where the prediction looks: one forward pass, no gradients.

        Args:
            images: Normalised images, shape (B, in_chans, H, W).

        Returns:
            Logits (B, K) and class maps (B, K, h, w), whose spatial means are the logits. The attention map, of shape
            (B, 1, h, w), is the class map of the predicted class, stretched to [0, 1] image by image. There is no
            attention branch, and so there are no attention logits.

        Raises:
            TimmAbnError: The model is in training mode, or has no classifier on average-pooled features.
        """
        model: Any = self
        if model.training:
            raise TimmAbnError('explain() needs evaluation mode; call model.eval() first.')
        if images.ndim != 4 or images.shape[1] != model.in_chans:
            raise TimmAbnError(f'images must have shape (B, {model.in_chans}, H, W), got {tuple(images.shape)}.')
        classifier, pooling = model.get_classifier(), get_model_args(model).get('global_pool')
        if not isinstance(classifier, nn.Linear) or pooling != 'avg':
            raise TimmAbnError(
                f"explain() needs a linear classifier on global_pool='avg', got num_classes={model.num_classes} and "
                f'global_pool={pooling!r}.'
            )
        features = model.forward_features(images)
        class_maps = F.conv2d(features, classifier.weight[:, :, None, None], classifier.bias)
        logits = model.forward_head(features)
        height, width = class_maps.shape[2:]
        index = logits.argmax(dim=1)[:, None, None, None].expand(-1, 1, height, width)
        predicted = class_maps.gather(1, index)  # indexing with arange would fix the batch size of an exported graph
        return Explanation(
            logits=logits,
            attention_map=normalize_maps(predicted).to(logits.dtype),
            class_maps=class_maps,
        )
