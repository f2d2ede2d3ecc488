"""AbnConfig: the configuration of an Attention Branch Network, apart from the arguments of its backbone."""

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any

from ..errors import TimmAbnError
from .choices import ATTENTION_MAPS, GATES, INITS, MECHANISMS, MULTI_TASK_ATTENTION_MAPS, PADDING_MODES

__all__ = ['AbnConfig', 'check_choice']

MOST_CLASSES = 2**20
MOST_TASKS_AT_ONCE = 8  # that pass the perception branch as one batch by default


@dataclasses.dataclass(frozen=True)
class AbnConfig:
    """Configuration of an Attention Branch Network, apart from the arguments of its backbone.

    Checkpoints, configurations of the Hub, model cards and ``timm-abn list`` read it. All values are checked.

    Attributes:
        backbone: Name of a timm model.
        split: Where to cut the backbone: index into its ``feature_info``, or path of a module. By default before the
            last stage.
        mechanism: 'residual' (paper, Eq. 2), ``features * (1 + map)``, or 'product' (Eq. 1), ``features * map``.
        gate: How the map acts on the features: 'features' (the paper's), 'centred' or 'tokens' (see ``Gate``,
            ``CentredGate``, ``TokenGate``). By default one that affects the prediction of this backbone.
        init: 'random' (the paper's), or 'neutral': the map starts as 0.5 everywhere and gates relative to that, so that
            the network starts with the predictions of its backbone. Defaults to 'neutral' for a backbone that may
            already be trained: a pretrained one, or a model that you pass.
        attention_map: 'sigmoid', in [0, 1]; 'sum_log', the authors' variant for SENet (see ``AttentionBranch``); for
            several tasks also 'raw', the authors' published form.
        num_classes: Number of classes, or of tasks. With 0 the network returns pooled features and keeps its map.
        in_chans: Channels of the images.
        attention_classes: Number of classes of the attention branch if ``num_classes`` is 0.
        attention_norm: Whether batch norm follows the stage of the attention branch.
        hard_attention: Share of the map's positions to keep, the greatest; the others are exactly 0.
        map_scale: Height and width of the attention map and the class maps, as a multiple of the features'.
        padding_mode: Padding of the convolutions that compute maps: 'zeros', or 'replicate', which does not reveal
            where the border is.
        multi_task: Whether each class is a separate task, with its own map and its own yes or no (paper, section 3.4).
        task_chunk_size: How many tasks pass the perception branch as one batch, which bounds the memory; 8 by default.
            In training, batch norm sees each chunk as a batch. The authors' code uses 1.

    Raises:
        TimmAbnError: A value has no meaning, or two contradict each other; the message names it and what is right.
    """

    backbone: str = 'resnet50'
    split: int | str | None = None
    mechanism: str = 'residual'
    gate: str | None = None
    init: str | None = None
    attention_map: str = 'sigmoid'
    num_classes: int = 1000
    in_chans: int = 3
    attention_classes: int | None = None
    attention_norm: bool = True
    hard_attention: float = 1.0
    map_scale: int = 1
    padding_mode: str = 'zeros'
    multi_task: bool = False
    task_chunk_size: int | None = None

    def __post_init__(self) -> None:
        for name in ('multi_task', 'attention_norm'):
            if not isinstance(getattr(self, name), bool):
                raise TimmAbnError(f'{name} must be True or False, got {reprlib.repr(getattr(self, name))}.')
        check_choice('mechanism', self.mechanism, MECHANISMS)
        check_choice('attention_map', self.attention_map, self._attention_maps())
        check_choice('padding_mode', self.padding_mode, PADDING_MODES)
        for name, choices in (('gate', GATES), ('init', INITS)):
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name), choices)
        for name, (least, most) in _WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if value is not None and not (type(value) is int and least <= value <= most):
                raise TimmAbnError(f'{name} must be a whole number from {least} to {most}, got {reprlib.repr(value)}.')
        share = self.hard_attention
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise TimmAbnError(
                f'hard_attention must be the share of the map to keep, in (0, 1], got {reprlib.repr(share)}.'
            )
        self._check_combinations()

    def _attention_maps(self) -> tuple[str, ...]:
        return MULTI_TASK_ATTENTION_MAPS if self.multi_task else ATTENTION_MAPS

    def _check_combinations(self) -> None:
        if self.task_chunk_size is not None and not self.multi_task:
            raise TimmAbnError(f'task_chunk_size={self.task_chunk_size!r} needs multi_task=True.')
        if self.multi_task and not self.attention_norm:
            raise TimmAbnError('attention_norm=False needs multi_task=False.')
        if self.is_hard and self.attention_map != 'sigmoid':
            raise TimmAbnError(f"hard_attention needs attention_map='sigmoid', got {self.attention_map!r}.")
        if self.is_hard and self.mechanism == 'residual':
            raise TimmAbnError("hard_attention needs mechanism='product', got 'residual': Eq. 2 hides nothing.")
        if self.init == 'neutral' and not self.can_be_neutral:
            raise TimmAbnError(
                "init='neutral' needs maps in [0, 1] that may have the same value everywhere: attention_map='sigmoid' "
                f'without hard_attention, got {self.attention_map!r} and hard_attention={self.hard_attention}.'
            )

    @property
    def is_hard(self) -> bool:
        """Whether attention is hard: nothing passes where the map is 0."""
        return self.hard_attention < 1

    @property
    def can_be_neutral(self) -> bool:
        """Whether a map can begin as 0.5 everywhere, and leave the prediction of its backbone as it is."""
        return self.attention_map == 'sigmoid' and not self.is_hard

    @property
    def branch_classes(self) -> int:
        """Number of classes of the attention branch."""
        return self.num_classes or self.attention_classes or 1000

    @property
    def outputs_per_class(self) -> int:
        """How many outputs of the perception branch make a logit: no and yes of a task, one of a class."""
        return 2 if self.multi_task else 1

    @classmethod
    def take(cls, arguments: Mapping[str, Any], **fixed: Any) -> tuple['AbnConfig', dict[str, Any]]:
        """Return a configuration, and the arguments that are the backbone's.

        Args:
            arguments: Those of a network.
            **fixed: Fields that the caller decides.

        Raises:
            TimmAbnError: See ``AbnConfig``.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        own = {name: value for name, value in arguments.items() if name in names}
        for name, value in fixed.items():
            if own.get(name, value) != value:
                raise TimmAbnError(f'{name} of this network is {value!r}, got {own[name]!r}.')
        return cls(**{**own, **fixed}), {name: value for name, value in arguments.items() if name not in names}

    def arguments(self) -> dict[str, Any]:
        """Return the fields that are not as by default, as arguments to build the network again."""
        values = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


# least and most; what is larger is no network but a mistake, or an attempt to fill the memory
_WHOLE_NUMBERS = dict(
    num_classes=(0, MOST_CLASSES),
    in_chans=(1, 1024),
    attention_classes=(1, MOST_CLASSES),
    map_scale=(1, 16),
    task_chunk_size=(1, MOST_CLASSES),
)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise TimmAbnError unless the argument ``name`` has one of its values."""
    if value not in choices:
        raise TimmAbnError(f'{name} must be one of {", ".join(map(repr, choices))}, got {reprlib.repr(value)}.')
