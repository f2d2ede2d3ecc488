"""Finding and loading the model that a command was given the name of."""

import argparse
import difflib
from pathlib import Path
from typing import Any, Dict, List, Optional

import timm
import torch
from timm.models import load_state_dict
from timm.utils import ParseKwargs

from ..checkpoints import CheckpointError, check_state_dict
from ..network import AttentionBranchNet
from ..pretrained import check_address
from .argument_types import positive
from .errors import CommandError, first_sentence

__all__ = ['abn_names', 'add_model_arguments', 'add_model_kwargs', 'load_model', 'read_weights']


def abn_names(pattern: str = '') -> List[str]:
    """Return the names of the registered Attention Branch Networks.

    Args:
        pattern: Only those that match it, for example 'abn_resnet*'; all if empty.
    """
    return timm.list_models(pattern, module='abn_models')


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say which model to load."""
    parser.add_argument('--model', required=True, help='name of the model, see timm-abn list; or hf-hub:OWNER/NAME')
    parser.add_argument(
        '--checkpoint',
        type=Path,
        metavar='FILE',
        help='weights to load instead of the pretrained ones (.safetensors, .pth, .pth.tar)',
    )
    parser.add_argument(
        '--num-classes', type=positive, metavar='K', help='number of classes (default: that of the weights)'
    )
    add_model_kwargs(parser)


def add_model_kwargs(parser: argparse.ArgumentParser) -> None:
    """Declare the argument for whatever else a model takes."""
    parser.add_argument(
        '--model-kwargs',
        nargs='*',
        default={},
        action=ParseKwargs,
        metavar='KEY=VALUE',
        help='other arguments of the model, as in timm: backbone=convnext_tiny in_chans=1',
    )


def load_model(
    name: str,
    checkpoint: Optional[Path] = None,
    num_classes: Optional[int] = None,
    device: Optional[torch.device] = None,
    **kwargs: Any,
) -> AttentionBranchNet:
    """Create a model with trained weights, in evaluation mode.

    Args:
        name: Name of an ABN, with or without a tag, or a 'hf-hub:' or 'local-dir:' address.
        checkpoint: File of weights (.safetensors, or what ``torch.save`` writes); by default the pretrained ones.
        num_classes: Number of classes; by default that of the weights.
        device: Where to put it.
        **kwargs: Other arguments of ``timm.create_model``.

    Raises:
        CommandError: There is no such model, or there are no weights that fit.
    """
    if ':' not in name:
        _check_name(name)
    state_dict = None
    if checkpoint is not None:
        state_dict = read_weights(checkpoint)
        if _CLASS_WEIGHT in state_dict:
            num_classes = num_classes or len(state_dict[_CLASS_WEIGHT])
        elif _TASK_WEIGHT in state_dict:
            num_classes = num_classes or len(state_dict[_TASK_WEIGHT])
            kwargs = dict(dict(multi_task=True), **kwargs)
    elif ':' not in name:
        _check_has_weights(name, num_classes)
    try:
        check_address(name)
        model = timm.create_model(name, pretrained=state_dict is None, num_classes=num_classes, **kwargs)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(f'cannot create {name}: {_one_line(error)}') from None
    if not isinstance(model, AttentionBranchNet):
        raise CommandError(f'{name} is not an Attention Branch Network; see timm-abn list')
    if state_dict is not None:
        try:
            check_state_dict(state_dict, model.state_dict(), name)
        except CheckpointError as error:
            raise CommandError(f'{checkpoint}: {_one_line(error)}') from None
        model.load_state_dict(state_dict)
    return model.to(device).eval()


_CLASS_WEIGHT = 'attention_branch.class_norm.weight'  # one per class
_TASK_WEIGHT = 'attention_branch.map_conv.weight'  # a row per task, of networks that have no weight of classes


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition('.')
    names = abn_names()
    if architecture not in names:
        longer = [name for name in names if name.startswith(architecture)]
        close = longer[:3] or difflib.get_close_matches(architecture, names, n=3)
        hint = f'did you mean {", ".join(close)}?' if close else 'see timm-abn list'
        reason = 'is not an Attention Branch Network' if timm.is_model(architecture) else 'is no model'
        raise CommandError(f'{name} {reason}; {hint}')
    if tag:
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError:
            tagged = timm.list_pretrained(f'{architecture}.*')
            hint = f'there are {", ".join(tagged)}' if tagged else 'it has none'
            raise CommandError(f'{architecture} has no weights {tag!r}; {hint}') from None


def _check_has_weights(name: str, num_classes: Optional[int]) -> None:
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        trained = timm.list_pretrained([f'{abn}.*' for abn in abn_names()])
        raise CommandError(
            f'{name} has no pretrained weights, and random ones explain nothing: pass weights of your own with '
            f'--checkpoint FILE, or take a model that has them ({", ".join(trained)})'
        )
    if num_classes not in (None, cfg.num_classes):
        raise CommandError(
            f'the weights of {name} are for {cfg.num_classes} classes, not {num_classes}: leave out --num-classes, or '
            f'pass weights of your own with --checkpoint FILE'
        )


def read_weights(path: Path) -> Dict[str, torch.Tensor]:
    """Return the weights in a checkpoint, without running code from it.

    Args:
        path: The file.

    Raises:
        CommandError: It is not there, damaged, or holds other things than tensors.
    """
    if not path.is_file():
        raise CommandError(f'there is no checkpoint {path}')
    try:
        state_dict = load_state_dict(str(path), weights_only=True)
        strangers = [key for key, value in state_dict.items() if not isinstance(value, torch.Tensor)]
    except Exception as error:  # on damaged files torch.load raises errors of a dozen types
        raise CommandError(f'{path} is no checkpoint, or damaged: {first_sentence(error)}') from None
    if strangers or not state_dict:
        found = ', '.join(map(str, strangers[:3])) or 'nothing'
        raise CommandError(f'{path} is no checkpoint of a model: it holds {found}')
    return state_dict


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split()).rstrip('.') or type(error).__name__
