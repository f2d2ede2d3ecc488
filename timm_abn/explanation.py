"""Explanation: what a model says about its own prediction."""
import dataclasses

import torch

__all__ = ['Explanation']


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A prediction and where it looked, for a batch of images.

    Attributes:
        logits: Shape (B, K), the model's prediction.
        attention_map: Shape (B, 1, h, w), at the resolution of the features; in [0, 1] for sigmoid maps.
        attention_logits: Shape (B, K), the attention branch's own prediction.
        class_maps: Shape (B, K, h, w), evidence for each class at each place; their means are the attention logits.
    """
    logits: torch.Tensor
    attention_map: torch.Tensor
    attention_logits: torch.Tensor
    class_maps: torch.Tensor
