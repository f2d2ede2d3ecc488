"""timm's training tasks, which its ``train.py`` trains with, extended by the loss and metrics of both branches.

Models that are not Attention Branch Networks train as before.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import timm.task
import torch
import torch.nn as nn
from timm.utils import unwrap_model

from ..attached.network import AttachedNet
from ..models.training_checkpoints import OF_BACKBONE
from ..networks.multi_task import MultiTaskAttentionBranchNet
from ..networks.network import AttentionBranchNet
from .branch_accuracy import AttributeEvaluator, BothBranches, BranchEvaluator, extend_timm_metrics
from .errors import TrainingError
from .faithful import FaithfulTraining
from .loss import AttentionBranchLoss, FaithfulMapLoss
from .map_settings import MapLossSettings, MaskSettings
from .mask_loss import MaskedTargetLoss, label_and_masks
from .term_log import describe_terms, term_log

__all__ = ['IS_ATTACHED', 'IS_SCRIPTED', 'extend_timm_tasks']

_logger = logging.getLogger(__name__)

# why a model cannot be trained here
IS_ATTACHED = 'timm-abn attach trains attached networks.'
IS_SCRIPTED = (
    '--torchscript cannot train an Attention Branch Network: a scripted one has no attention logits. Leave it out, or '
    'use --torchcompile.'
)


class _AbnSettings(NamedTuple):
    """What the classes of timm's tasks are told of ABNs."""

    attention_loss_weight: float
    map_loss: MapLossSettings | None
    masks: MaskSettings | None
    origin: str

    def loss(self, criterion: Callable[..., torch.Tensor], multi_label: bool) -> AttentionBranchLoss:
        if self.map_loss is None:
            return AttentionBranchLoss(criterion, self.attention_loss_weight)
        weights = self.map_loss.weights
        return FaithfulMapLoss(criterion, self.attention_loss_weight, **weights, multi_label=multi_label)


def extend_timm_tasks(
    attention_loss_weight: float = 1.0,
    map_loss: MapLossSettings | None = None,
    mask_settings: MaskSettings | None = None,
    origin: str = '',
) -> None:
    """Give timm's training tasks the loss of ABNs, for all tasks made from now on in this process.

    Importing ``timm_abn.task`` has done it with the paper's loss; calling it again changes the loss and nothing else.

    With ``map_loss`` maps are trained to be faithful, too, with ``mask_settings`` by the human masks that targets then
    carry (``target_with_masks``). ``origin`` says in the log where the weights come from. A weight of a loss that is
    negative or not finite is a TrainingError.
    """
    settings = _AbnSettings(attention_loss_weight, map_loss, mask_settings, origin)
    settings.loss(nn.Identity(), multi_label=False)  # checks the weights
    for task_class, overrides in _OVERRIDES.items():
        if 'of_abn' not in vars(task_class):
            for name, override in overrides.items():
                setattr(task_class, name, functools.partialmethod(override, getattr(task_class, name)))
        setattr(task_class, 'of_abn', settings)  # noqa: B010  an attribute of ours
    extend_timm_metrics()


# Overrides of timm's methods; each gets timm's own as its first argument after self. Patched in the class, because
# timm's script takes the classes by name, and its multi-label task derives from one of them.


def _init(self: Any, timm_init: Callable, *args: Any, **kwargs: Any) -> None:
    timm_init(self, *args, **kwargs)
    term_log.begin({})
    settings: _AbnSettings = self.of_abn
    model, multi_label = unwrap_model(self.get_trainable_module()), getattr(self, 'multi_label', False)
    names = (AttentionBranchNet.__name__, MultiTaskAttentionBranchNet.__name__)
    if isinstance(model, torch.jit.ScriptModule) and model.original_name in names:
        raise TrainingError(IS_SCRIPTED)
    if isinstance(model, AttachedNet):
        raise TrainingError(IS_ATTACHED)
    if isinstance(model, MultiTaskAttentionBranchNet) and not multi_label:
        raise TrainingError('multi_task=True answers several questions per image: it needs --task multilabel.')
    if not isinstance(model, AttentionBranchNet):
        if settings.map_loss is not None or settings.masks is not None:
            raise TrainingError(f'{type(model).__name__} is not an Attention Branch Network: it has no map to train.')
        if self.verbose:
            _logger.info(f'{type(model).__name__} is not an Attention Branch Network: it trains as in timm.')
        return
    self.criterion = settings.loss(self.criterion, multi_label)
    if settings.map_loss is not None or settings.masks is not None:
        self.trainable_module = _faithful(self.trainable_module, settings.map_loss)
    if settings.masks is not None:
        if model.config.attention_map != 'sigmoid':
            kind = model.config.attention_map
            raise TrainingError(f"masks need maps in [0, 1]: attention_map='sigmoid', not {kind!r}.")
        masks = settings.masks
        self.criterion = MaskedTargetLoss(self.criterion, masks.loss, masks.weight, multi_label)
    self.criterion.watch = term_log.watch
    term_log.begin(self.criterion.weighted_terms())
    if self.verbose:
        _logger.info(_describe(model, term_log.weights, settings.origin))


def _describe(model: AttentionBranchNet, weights: Mapping[str, float], origin: str) -> str:
    config, stage = model.config, model.attention_branch.stage.source
    if origin.endswith(OF_BACKBONE) and stage.startswith('copy of'):
        origin += '; the attention stage has a copy of them, the rest of the branch is random'
    elif origin.endswith(OF_BACKBONE):
        origin += '; the attention branch is random'
    came = f' It starts from {origin}.' if origin else ''
    return (
        f'Attention Branch Network over {config.backbone}, cut after {config.split}; attention stage: {stage}; '
        f'{config.mechanism} mechanism, gate {config.gate}.{came} '
        f'Loss: {describe_terms(weights)}.'
    )


def _faithful(model: AttentionBranchNet, map_loss: MapLossSettings | None) -> FaithfulTraining:
    """Return a wrapper that returns what the losses of maps need: with masks alone, the map as well."""
    if map_loss is None:
        return FaithfulTraining(model, background=None)
    weights = map_loss.weights
    return FaithfulTraining(
        model,
        map_loss.background if weights['masked'] else None,
        flips=bool(weights['consistency']),
        complement=bool(weights.get('complement')),
    )


def _forward(self: Any, timm_forward: Callable, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    result = timm_forward(self, input, target)
    if isinstance(self.criterion, AttentionBranchLoss):
        result['output'], result['attention_output'] = result['output'][:2]
    return result


def _multi_label_forward(
    self: Any, timm_forward: Callable, input: torch.Tensor, target: torch.Tensor
) -> dict[str, torch.Tensor]:
    model = unwrap_model(self.get_trainable_module())
    if not isinstance(model, AttentionBranchNet):
        return timm_forward(self, input, target)
    has_masks = target.ndim == 4
    labels = label_and_masks(target, model.num_classes)[0] if has_masks else target
    _check_targets(labels, len(input), model.num_classes)
    if has_masks:  # without timm's own check, which is of labels alone
        return timm.task.ClassificationTask.forward(self, input, target)
    return timm_forward(self, input, target)


def _check_targets(target: torch.Tensor, batch_size: int, num_classes: int) -> None:
    """Refuse targets that are not one number in [0, 1] for each attribute, shape (B, T).

    Values are looked at on the CPU only, where it does not hold up the device.
    """
    if target.shape != (batch_size, num_classes):
        raise TrainingError(
            f'the model has {num_classes} attributes, but the targets have shape {tuple(target.shape)}; expected '
            f'({batch_size}, {num_classes}).'
        )
    if target.device.type == 'cpu' and not ((target >= 0) & (target <= 1)).all():
        strange = target[~((target >= 0) & (target <= 1))][0].item()
        raise TrainingError(f'multi-label targets must be 0 or 1, or between if smoothed or mixed, got {strange:g}.')


def _distillation_forward(
    self: Any, timm_forward: Callable, input: torch.Tensor, target: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Distil the teacher into the perception branch; the task's own loss is that of both branches."""
    if not isinstance(self.criterion, AttentionBranchLoss):
        return timm_forward(self, input, target)
    output = self.trainable_module(input)
    result = timm_forward(_AfterForward(self, output), input, target)
    result['attention_output'] = output[1]
    return result


class _AfterForward:
    """Stands in for a distillation task whose student has run: shows timm's forward the logits it knows of."""

    def __init__(self, task: Any, output: tuple[torch.Tensor, ...]) -> None:
        self.task = task
        self.trainable_module = lambda _: output[0]
        self.criterion = lambda _, target: task.criterion(output, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)


def _refuse_abn(self: Any, timm_init: Callable, student_model: nn.Module, *args: Any, **kwargs: Any) -> None:
    if _is_abn(student_model):
        raise TrainingError(
            f'{type(self).__name__} leaves out the loss of the attention branch: an Attention Branch Network can only '
            'be distilled with --kd-distill-type logit.'
        )
    timm_init(self, student_model, *args, **kwargs)


def _prepare_distributed(
    self: Any, timm_prepare: Callable, device_ids: list[Any] | None = None, **ddp_kwargs: Any
) -> timm.task.TrainingTask:
    # DistributedDataParallel takes no device ids on the CPU, where timm's script passes them all the same
    return timm_prepare(self, device_ids=None if self.device.type == 'cpu' else device_ids, **ddp_kwargs)


def _get_eval_model(
    self: Any, timm_get: Callable, module: nn.Module | None = None, ema: bool = False
) -> nn.Module | None:
    eval_model = timm_get(self, module, ema=ema)
    return BothBranches(eval_model) if _is_abn(eval_model) else eval_model


def _get_checkpoint_state(self: Any, timm_get: Callable, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Let weights be contiguous in files, which safetensors asks for, whatever layout they are trained in."""
    state = timm_get(self, *args, **kwargs)
    for key in ('state_dict', 'state_dict_ema'):
        if key in state:
            state[key] = {name: tensor.contiguous() for name, tensor in state[key].items()}
    return state


def _create_evaluator(self: Any, timm_create: Callable, **kwargs: Any) -> Any:
    evaluator = timm_create(self, **kwargs)
    if _is_abn(self.get_trainable_module()):
        return BranchEvaluator(evaluator, timm_create(self, **kwargs))
    return evaluator


def _create_multi_label_evaluator(self: Any, timm_create: Callable, **kwargs: Any) -> Any:
    return _create_evaluator(self, _attribute_evaluator, **kwargs)


def _attribute_evaluator(task: Any, **kwargs: Any) -> AttributeEvaluator:
    return AttributeEvaluator(device=task.device, threshold=task.threshold, **kwargs)


_OF_ABN: dict[str, Callable] = dict(
    __init__=_init,
    prepare_distributed=_prepare_distributed,
    get_eval_model=_get_eval_model,
    create_evaluator=_create_evaluator,
    get_checkpoint_state=_get_checkpoint_state,
)
_OVERRIDES: dict[type[nn.Module], dict[str, Callable]] = {
    timm.task.ClassificationTask: dict(_OF_ABN, forward=_forward),
    timm.task.MultiLabelClassificationTask: dict(  # the rest is that of the class above, which it derives from
        forward=_multi_label_forward, create_evaluator=_create_multi_label_evaluator
    ),
    timm.task.LogitDistillationTask: dict(_OF_ABN, forward=_distillation_forward),
    timm.task.FeatureDistillationTask: dict(__init__=_refuse_abn),
    timm.task.TokenDistillationTask: dict(__init__=_refuse_abn),
}


def _is_abn(model: nn.Module | None) -> bool:
    return model is not None and isinstance(unwrap_model(model), AttentionBranchNet)
