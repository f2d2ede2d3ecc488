"""The attention branch (paper, sections 3.1 and 3.4): makes attention maps, and a prediction of its own."""

from typing import Any, ClassVar

import torch
import torch.fx
import torch.nn as nn
from timm.models import checkpoint_seq
from torch.jit import Final

from ..errors import TimmAbnError
from ..maps.explanation import Explanation, MultiTaskExplanation
from .attention_stage import AttentionStage, init_convolutions
from .hard_attention import check_share, hard_sigmoid_maps
from .mechanism import check_choice
from .padding import set_padding_mode
from .scripting import ignored_by_torchscript

__all__ = ['ATTENTION_MAPS', 'MULTI_TASK_ATTENTION_MAPS', 'AttentionBranch', 'MultiTaskAttentionBranch']

ATTENTION_MAPS = ('sigmoid', 'sum_log')
MULTI_TASK_ATTENTION_MAPS = ('sigmoid', 'raw')

torch.fx.wrap('hard_sigmoid_maps')  # a leaf of fx graphs, which cannot count places


class _Branch(nn.Module):
    """What both kinds of attention branches share: a stage, then a head that depends on the number of classes.

    A branch knows what follows from its kind for the network around it: how many outputs of the perception branch make
    a class, how many maps there are, what the outputs under these maps say, and how an explanation reads.
    """

    argument_names: ClassVar[dict[str, str]] = {}  # of the network, and what they are called here
    outputs_per_class: ClassVar[int]
    explanation_class: ClassVar[type[Explanation]]
    attention_map_type: Final[str]
    kept_share: Final[float]
    map_scale: Final[int]

    def __init__(
        self,
        stage: AttentionStage,
        attention_map: str,
        choices: tuple[str, ...],
        hard_attention: float = 1.0,
        padding_mode: str = 'zeros',
        starts_flat: bool = False,
    ) -> None:
        super().__init__()
        check_choice('attention_map', attention_map, choices)
        check_share(hard_attention)
        if hard_attention < 1 and attention_map != 'sigmoid':
            raise TimmAbnError(f"hard_attention needs attention_map='sigmoid', got {attention_map!r}.")
        if starts_flat and attention_map != 'sigmoid':
            raise TimmAbnError(f"a map can start flat with attention_map='sigmoid' only, got {attention_map!r}.")
        self.starts_flat = starts_flat
        self.attention_map_type = attention_map
        self.kept_share = float(hard_attention)
        self.map_scale = stage.map_scale
        self.grad_checkpointing = False
        self.padding_mode = padding_mode
        if padding_mode != 'zeros':
            set_padding_mode(stage, padding_mode)
        self.stage = stage

    def _stage_features(self, maps: torch.Tensor) -> torch.Tensor:
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.stage, maps)
        return self.stage(maps)

    def _build_head(self, num_classes: int, device: torch.device | None, dtype: torch.dtype | None) -> None:
        raise NotImplementedError

    @ignored_by_torchscript
    def head_names(self) -> tuple[str, ...]:
        """Return the names of the layers that ``reset_classifier`` builds anew; the first has one row per class."""
        raise NotImplementedError

    def forward_features(self, maps: torch.Tensor) -> torch.Tensor:
        """Return what the attention map, the class maps and the attention logits are made from."""
        raise NotImplementedError

    def attention_map(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the attention map, or one per task."""
        raise NotImplementedError

    def attention_logits(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the attention logits, shape (B, K)."""
        raise NotImplementedError

    @ignored_by_torchscript
    def reset_classifier(self, num_classes: int) -> None:
        """Build the layers that depend on the number of classes anew, on the same device and in the same type.

        Args:
            num_classes: Number of classes, or of tasks.
        """
        weight = getattr(self, self.head_names()[0]).weight
        self._build_head(num_classes, device=weight.device, dtype=weight.dtype)
        for name in self.head_names():
            getattr(self, name).train(self.training)

    @ignored_by_torchscript
    def explanation(
        self,
        logits: torch.Tensor,
        attention_map: torch.Tensor,
        class_features: torch.Tensor,
    ) -> Explanation:
        """Return what the network says of its prediction.

        Args:
            logits: Shape (B, K).
            attention_map: Shape (B, 1, h, w), or one map per task, (B, T, h, w).
            class_features: What ``forward_features`` returned.
        """
        class_maps = self.class_maps(class_features)
        return self.explanation_class(
            logits=logits,
            attention_map=attention_map,
            attention_logits=class_maps.mean(dim=(2, 3)),
            class_maps=class_maps,
        )

    def class_maps(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the class maps, shape (B, K, h, w); their spatial means are the attention logits."""
        raise NotImplementedError

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(attention_map, attention_logits)``.

        Args:
            maps: Features at the cut, shape (B, C, h, w).
        """
        class_features = self.forward_features(maps)
        return self.attention_map(class_features), self.attention_logits(class_features)


class AttentionBranch(_Branch):
    """Makes the attention map, and its own prediction, from the features at the cut (paper, section 3.1; Fig. 2b).

    A stage at full resolution, batch norm, a 1x1 convolution to one channel per class, batch norm and ReLU give the
    class features. A 1x1 convolution of these gives the class maps, whose spatial means are the attention logits; a
    3x3 convolution to one channel, batch norm and a sigmoid give the attention map. (The paper's text says 1x1 for the
    last; the published numbers were made with 3x3.) ``attention_map='sum_log'`` is the authors' variant for SENet: the
    map is the sum over classes of ``log(1 + class features)``, without a sigmoid.

    Around a backbone that is trained already the map starts flat: the scale of its batch norm begins with 0, as that of
    the last norm of a residual block often does (Goyal et al., arXiv 1706.02677, section 5.1), so that it is 0.5
    everywhere, exactly. The scale learns from the first step on, all else from the second. An untrained map would span
    0 to 1 in every image, and change what the backbone predicts at random.
    """

    argument_names = {'attention_norm': 'norm', 'hard_attention': 'hard_attention'}
    outputs_per_class = 1
    explanation_class = Explanation

    def __init__(
        self,
        stage: AttentionStage,
        num_classes: int = 1000,
        attention_map: str = 'sigmoid',
        norm: bool = True,
        hard_attention: float = 1.0,
        padding_mode: str = 'zeros',
        starts_flat: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            stage: The stage before the head; tells how many channels there are.
            num_classes: Number of classes (K).
            attention_map: 'sigmoid' or 'sum_log'.
            norm: Batch norm between the stage and the head; the authors' ResNeXt-29 has none.
            hard_attention: Share of the places that the map keeps; the others are exactly 0 (``hard_attention.py``).
            padding_mode: What its convolutions see beyond the border, 'zeros' or 'replicate'.
            starts_flat: Whether the map is 0.5 everywhere before training.
            device: Where to create parameters.
            dtype: Type of the parameters.

        Raises:
            ValueError: There is no such attention map, it cannot be hard or flat, or the stage cannot pad in that way.
        """
        super().__init__(stage, attention_map, ATTENTION_MAPS, hard_attention, padding_mode, starts_flat)
        self.num_maps = 1
        self.norm = nn.BatchNorm2d(stage.num_features, device=device, dtype=dtype) if norm else nn.Identity()
        self.act = nn.ReLU(inplace=True)
        self._build_head(num_classes, device=device, dtype=dtype)

    def _build_head(self, num_classes: int, device: torch.device | None, dtype: torch.dtype | None) -> None:
        dd: dict = {'device': device, 'dtype': dtype}
        self.num_classes = num_classes
        self.class_conv = nn.Conv2d(self.stage.num_features, num_classes, 1, bias=False, **dd)
        self.class_norm = nn.BatchNorm2d(num_classes, **dd)
        self.classifier = nn.Conv2d(num_classes, num_classes, 1, bias=False, **dd)
        if self.attention_map_type == 'sigmoid':
            padding: Any = dict(padding=1, padding_mode=self.padding_mode)
            self.map_conv = nn.Conv2d(num_classes, 1, 3, bias=False, **padding, **dd)
            self.map_norm = nn.BatchNorm2d(1, **dd)
        for name in self.head_names():
            init_convolutions(getattr(self, name))
        if self.starts_flat:
            nn.init.zeros_(self.map_norm.weight)

    @ignored_by_torchscript
    def head_names(self) -> tuple[str, ...]:
        """Return the names of the layers whose shape, or input, depends on the number of classes."""
        names = ('class_conv', 'class_norm', 'classifier', 'map_conv', 'map_norm')
        return tuple(name for name in names if hasattr(self, name))

    def forward_features(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the class features, shape (B, K, h, w), not negative.

        Args:
            maps: Features at the cut, shape (B, C, h, w).
        """
        return self.act(self.class_norm(self.class_conv(self.norm(self._stage_features(maps)))))

    def attention_map(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the attention map, shape (B, 1, h, w): in [0, 1] for 'sigmoid', not negative for 'sum_log'."""
        if self.attention_map_type == 'sum_log':
            return torch.log1p(class_features).sum(dim=1, keepdim=True)
        logits = self.map_norm(self.map_conv(class_features))
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

    def answers(self, outputs: torch.Tensor, first: int, count: int, classified: bool) -> torch.Tensor:
        """Return the logits, shape (B, K), or pooled features: with one map, what the perception branch returned.

        Args:
            outputs: Outputs of the perception branch.
            first: Number of the first map that they were made under: 0.
            count: Number of maps: 1.
            classified: Whether they come from a classifier.
        """
        return outputs


class MultiTaskAttentionBranch(_Branch):
    """Makes one attention map per task, and its own prediction, from the features at the cut (paper, section 3.4).

    A stage at full resolution and a 1x1 convolution to one channel per task give the task maps, whose spatial means are
    the attention logits. The attention maps are their sigmoid, or the task maps as they are (``'raw'``, the authors'
    published form, which can be negative). Where maps start flat (see ``AttentionBranch``), the 1x1 convolution begins
    with weights of 0.
    """

    argument_names = {'hard_attention': 'hard_attention'}
    outputs_per_class = 2  # no and yes
    explanation_class = MultiTaskExplanation

    def __init__(
        self,
        stage: AttentionStage,
        num_classes: int = 40,
        attention_map: str = 'sigmoid',
        hard_attention: float = 1.0,
        padding_mode: str = 'zeros',
        starts_flat: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            stage: The stage before the head; tells how many channels there are.
            num_classes: Number of tasks (T).
            attention_map: 'sigmoid' or 'raw'.
            hard_attention: Share of the places that each map keeps; the others are exactly 0 (``hard_attention.py``).
            padding_mode: What its convolutions see beyond the border, 'zeros' or 'replicate'.
            starts_flat: Whether maps are 0.5 everywhere before training.
            device: Where to create parameters.
            dtype: Type of the parameters.

        Raises:
            ValueError: There is no such attention map, it cannot be hard or flat, or the stage cannot pad in that way.
        """
        super().__init__(stage, attention_map, MULTI_TASK_ATTENTION_MAPS, hard_attention, padding_mode, starts_flat)
        self._build_head(num_classes, device=device, dtype=dtype)

    def _build_head(self, num_classes: int, device: torch.device | None, dtype: torch.dtype | None) -> None:
        self.num_classes = self.num_maps = num_classes
        self.map_conv = nn.Conv2d(self.stage.num_features, num_classes, 1, bias=False, device=device, dtype=dtype)
        init_convolutions(self.map_conv)
        if self.starts_flat:
            nn.init.zeros_(self.map_conv.weight)

    @ignored_by_torchscript
    def head_names(self) -> tuple[str, ...]:
        """Return the names of the layers whose shape depends on the number of tasks."""
        return ('map_conv',)

    def forward_features(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the task maps, shape (B, T, h, w).

        Args:
            maps: Features at the cut, shape (B, C, h, w).
        """
        return self.map_conv(self._stage_features(maps))

    def attention_map(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the attention maps, shape (B, T, h, w): in [0, 1] for 'sigmoid', of any value for 'raw'."""
        if self.attention_map_type == 'raw':
            return class_features
        if self.kept_share < 1.0:
            return hard_sigmoid_maps(class_features, self.kept_share, self.map_scale)
        return torch.sigmoid(class_features)

    def class_maps(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the task maps, shape (B, T, h, w); a logit of a yes, whose mean over places is the attention logit."""
        return class_features

    def attention_logits(self, class_features: torch.Tensor) -> torch.Tensor:
        """Return the attention logits, shape (B, T): the spatial means of the task maps."""
        return class_features.mean(dim=(2, 3))

    def answers(self, outputs: torch.Tensor, first: int, count: int, classified: bool) -> torch.Tensor:
        """Return what some of the tasks say, shape (B, count), or pooled features, (B, count, C).

        A task has two outputs, no and yes, as in the paper. Its logit is their difference, whose sigmoid is the softmax
        of the two.

        Args:
            outputs: Outputs of the perception branch, shape (B * count, T * 2), or (B * count, C).
            first: Number of the first task.
            count: Number of tasks.
            classified: Whether they come from a classifier.
        """
        if not classified:
            return outputs.unflatten(0, (-1, count))
        pairs = outputs.reshape(-1, count, self.num_classes, 2)[:, :, first : first + count]
        no_and_yes = pairs.diagonal(dim1=1, dim2=2)
        return no_and_yes[:, 1] - no_and_yes[:, 0]

    @ignored_by_torchscript
    def answers_of(self, outputs: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """Return what one task per image says, shape (B, 1).

        Args:
            outputs: Outputs of the perception branch under the maps of these tasks, shape (B, T * 2).
            tasks: Numbers of the tasks, shape (B,).
        """
        pairs = outputs.unflatten(1, (self.num_classes, 2))
        no_and_yes = pairs[torch.arange(len(outputs), device=outputs.device), tasks]
        return (no_and_yes[:, 1] - no_and_yes[:, 0]).unsqueeze(1)
