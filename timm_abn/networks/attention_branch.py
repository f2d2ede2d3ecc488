"""The attention branch (paper, section 3.1): computes the attention map, and its own prediction."""

from typing import Any, ClassVar

import torch
import torch.fx
import torch.nn as nn
from timm.models import checkpoint_seq

from ..maps.explanation import Explanation
from .attention_stage import AttentionStage, init_convolutions
from .config import AbnConfig
from .hard_attention import hard_sigmoid_maps
from .padding import set_padding_mode
from .scripting import ignored_by_torchscript

__all__ = ['AttentionBranch']

torch.fx.wrap('hard_sigmoid_maps')  # a leaf of fx graphs, which cannot count places


class AttentionBranch(nn.Module):
    """Computes the attention map, and its own prediction, from the features at the cut (paper, section 3.1; Fig. 2b).

    A stage at full resolution, batch norm, a 1x1 convolution to one channel per class, batch norm and ReLU give the
    class features. A 1x1 convolution of these gives the class maps, whose spatial means are the attention logits; a
    3x3 convolution to one channel, batch norm and a sigmoid give the attention map. (The paper's text says 1x1 for the
    last; the published numbers were made with 3x3.) ``attention_map='sum_log'`` is the authors' variant for SENet: the
    map is the sum over classes of ``log(1 + class features)``, without a sigmoid.

    With ``init='neutral'`` the map starts flat: the scale of its batch norm starts at 0, as often in the last norm of a
    residual block (Goyal et al., arXiv 1706.02677, section 5.1), so the map is exactly 0.5 everywhere. The scale learns
    from the first step, everything else from the second. An untrained map would span 0 to 1 in every image, and change
    the predictions of a trained backbone at random.
    """

    explanation_class: ClassVar[type[Explanation]] = Explanation
    __constants__ = ['map_kind', 'kept_share', 'map_scale']

    def __init__(
        self,
        stage: AttentionStage,
        config: AbnConfig,
        num_classes: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            stage: The stage before the head, which gives the number of channels.
            config: Configuration of the network.
            num_classes: Number of classes (K); above 0 even if the network has ``num_classes=0``.
            device: Where to create parameters.
            dtype: Type of the parameters.

        Raises:
            TimmAbnError: The stage does not support the configured padding.
        """
        super().__init__()
        self.map_kind = config.attention_map
        self.kept_share = float(config.hard_attention)
        self.map_scale = stage.map_scale
        self.starts_flat = config.init == 'neutral'
        self.padding_mode = config.padding_mode
        self.grad_checkpointing = False
        if config.padding_mode != 'zeros':
            set_padding_mode(stage, config.padding_mode)
        self.stage = stage
        self.build_norm(config, device=device, dtype=dtype)
        self.build_head(num_classes, device=device, dtype=dtype)

    def build_norm(self, config: AbnConfig, device: torch.device | None, dtype: torch.dtype | None) -> None:
        """Build what lies between the stage and the head; the authors' ResNeXt-29 has no norm there."""
        has_norm = config.attention_norm
        self.norm = nn.BatchNorm2d(self.stage.num_features, device=device, dtype=dtype) if has_norm else nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def build_head(self, num_classes: int, device: torch.device | None, dtype: torch.dtype | None) -> None:
        """Build the layers that depend on the number of classes."""
        dd: dict[str, Any] = {'device': device, 'dtype': dtype}
        self.num_classes, self.num_maps = num_classes, 1
        self.class_conv = nn.Conv2d(self.stage.num_features, num_classes, 1, bias=False, **dd)
        self.class_norm = nn.BatchNorm2d(num_classes, **dd)
        self.classifier = nn.Conv2d(num_classes, num_classes, 1, bias=False, **dd)
        if self.map_kind == 'sigmoid':
            padding: Any = dict(padding=1, padding_mode=self.padding_mode)
            self.map_conv = nn.Conv2d(num_classes, 1, 3, bias=False, **padding, **dd)
            self.map_norm = nn.BatchNorm2d(1, **dd)
        for name in self.head_names():
            init_convolutions(getattr(self, name))
        if self.starts_flat:
            nn.init.zeros_(self.map_norm.weight)

    @ignored_by_torchscript
    def head_names(self) -> tuple[str, ...]:
        """Return the names of the layers that depend on the number of classes; the first has one row per class."""
        names = ('class_conv', 'class_norm', 'classifier', 'map_conv', 'map_norm')
        return tuple(name for name in names if hasattr(self, name))

    @ignored_by_torchscript
    def reset_classifier(self, num_classes: int) -> None:
        """Build the layers that depend on the number of classes anew, on the same device and in the same type."""
        weight = getattr(self, self.head_names()[0]).weight
        self.build_head(num_classes, device=weight.device, dtype=weight.dtype)
        for name in self.head_names():
            getattr(self, name).train(self.training)

    def forward_stage(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the features of the stage, shape (B, C', h, w), from those at the cut."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.stage, maps)
        return self.stage(maps)

    def forward_features(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the class features, shape (B, K, h, w), not negative, that all else is made from.

        Args:
            maps: Features at the cut, shape (B, C, h, w).
        """
        return self.act(self.class_norm(self.class_conv(self.norm(self.forward_stage(maps)))))

    def attention_map(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the attention map, shape (B, 1, h, w): in [0, 1] for 'sigmoid', not negative for 'sum_log'."""
        if self.map_kind == 'sum_log':
            return torch.log1p(class_features).sum(dim=1, keepdim=True)
        return self.squash(self.map_norm(self.map_conv(class_features)))

    def squash(self, logits: torch.Tensor) -> torch.Tensor:
        """Return maps in [0, 1], shape (B, T, h, w): sigmoids, of which hard attention keeps the greatest."""
        if self.kept_share < 1.0:
            return hard_sigmoid_maps(logits, self.kept_share, self.map_scale)
        return torch.sigmoid(logits)

    def class_maps(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the class maps, shape (B, K, h, w); only their differences between classes mean something."""
        return self.classifier(class_features)

    def attention_logits(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the attention logits, shape (B, K): the spatial means of the class maps.

        The mean is taken first, which gives the same logits without computing the class maps.
        """
        return self.classifier(class_features.mean(dim=(2, 3), keepdim=True)).flatten(1)

    @ignored_by_torchscript
    def explanation(
        self,
        logits: torch.Tensor,
        attention_map: torch.Tensor,
        class_features: torch.Tensor,
        **known: Any,
    ) -> Explanation:
        """Return what the network says of its prediction, logits (B, K), made under this map from these features."""
        class_maps = self.class_maps(class_features)
        return self.explanation_class(logits, attention_map, class_maps.mean(dim=(2, 3)), class_maps, **known)

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(attention_map, attention_logits)`` of features at the cut, shape (B, C, h, w)."""
        class_features = self.forward_features(maps)
        return self.attention_map(class_features), self.attention_logits(class_features)
