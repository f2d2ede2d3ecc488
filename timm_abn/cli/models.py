"""Finding and loading the model that a command was given the name of."""

import argparse
import difflib
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import timm
import torch

from ..hub.building import check_address
from ..hub.training_checkpoints import data_config_of, model_arguments, read_checkpoint, training_settings
from ..models.authors_checkpoints import CheckpointError, check_state_dict
from ..networks.network import AttentionBranchNet
from .argument_types import KeyValues, positive
from .errors import CommandError

__all__ = ['abn_names', 'add_model_arguments', 'add_model_kwargs', 'given_model_kwargs', 'load_model']


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


def given_model_kwargs(args: argparse.Namespace) -> Dict[str, Any]:
    """Return the arguments of the model that a command line gives.

    Args:
        args: Parsed by a parser with ``add_model_arguments``.
    """
    return dict(args.model_kwargs, **({} if args.num_classes is None else dict(num_classes=args.num_classes)))


def add_model_kwargs(parser: argparse.ArgumentParser) -> None:
    """Declare the argument for whatever else a model takes."""
    parser.add_argument(
        '--model-kwargs',
        nargs='*',
        default={},
        action=KeyValues,
        metavar='KEY=VALUE',
        help='other arguments of the model, as in timm: backbone=convnext_tiny in_chans=1',
    )


def load_model(
    name: str,
    checkpoint: Optional[Path],
    model_kwargs: Mapping[str, Any],
    device: Optional[torch.device] = None,
) -> AttentionBranchNet:
    """Create a model with trained weights, in evaluation mode.

    A checkpoint of timm's training script says itself which arguments the model had, and how images were prepared.

    Args:
        name: Name of an ABN, with or without a tag, or a 'hf-hub:' or 'local-dir:' address.
        checkpoint: File of weights (.safetensors, or what ``torch.save`` writes); None for the pretrained ones.
        model_kwargs: Arguments of ``timm.create_model``, which come before those of the checkpoint.
        device: Where to put it.

    Raises:
        CommandError: There is no such model, or there are no weights that fit.
    """
    if ':' not in name:
        _check_name(name)
    if checkpoint is not None:
        return _load_checkpoint(name, checkpoint, model_kwargs).to(device).eval()
    if ':' not in name:
        _check_has_weights(name, model_kwargs.get('num_classes'))
    return _create_model(name, dict(model_kwargs, pretrained=True)).to(device).eval()


def _load_checkpoint(name: str, path: Path, model_kwargs: Mapping[str, Any]) -> AttentionBranchNet:
    weights, metadata = read_checkpoint(path)
    settings = training_settings(metadata)
    recorded = settings.get('model')
    if recorded and ':' not in name and name.split('.')[0] != str(recorded).split('.')[0]:
        raise CommandError(f'{path} is a checkpoint of {recorded}, not of {name}')
    model: Any = _create_model(name, model_arguments(settings, model_kwargs, weights, path))
    try:
        check_state_dict(weights, model.state_dict(), name)
    except CheckpointError as error:
        raise CommandError(f'{path}: {_one_line(error)}') from None
    model.load_state_dict(weights)
    if settings:
        model.pretrained_cfg = dict(model.pretrained_cfg, **data_config_of(settings, model, path))
    return model


def _create_model(name: str, arguments: Dict[str, Any]) -> AttentionBranchNet:
    try:
        check_address(name)
        model = timm.create_model(name, **arguments)
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(f'cannot create {name}: {_one_line(error)}') from None
    if not isinstance(model, AttentionBranchNet):
        raise CommandError(f'{name} is not an Attention Branch Network; see timm-abn list')
    return model


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


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split()).rstrip('.') or type(error).__name__
