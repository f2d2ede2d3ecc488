"""Arguments that say which model a command is about."""

import argparse
from pathlib import Path
from typing import Any

from ..console.argument_types import KeyValues, positive
from .errors import CommandError

__all__ = ['add_building_arguments', 'add_model_arguments', 'add_model_kwargs', 'given_model_kwargs']


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say which model to load."""
    parser.add_argument('--model', required=True, help='name of the model, see timm-abn list; or hf-hub:OWNER/NAME')
    parser.add_argument(
        '--checkpoint',
        type=Path,
        metavar='FILE',
        help='weights to load instead of the pretrained ones (.safetensors, .pth, .pth.tar)',
    )
    add_building_arguments(parser)


def add_building_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that a model is built with, those that ``given_model_kwargs`` returns."""
    parser.add_argument(
        '--num-classes', type=positive, metavar='K', help='number of classes (default: that of the weights)'
    )
    add_model_kwargs(parser)


def add_model_kwargs(parser: argparse.ArgumentParser) -> None:
    """Declare the argument for all other arguments of a model."""
    parser.add_argument(
        '--model-kwargs',
        nargs='*',
        default={},
        action=KeyValues,
        metavar='KEY=VALUE',
        help='other arguments of the model, as in timm: backbone=convnext_tiny in_chans=1',
    )


def given_model_kwargs(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the model that a command line gives.

    Args:
        args: Parsed by a parser with ``add_building_arguments``.

    Raises:
        CommandError: One of them has an option of its own.
    """
    if 'checkpoint' in args.model_kwargs:
        raise CommandError('argument --model-kwargs: checkpoint is no argument of a model; use --checkpoint')
    return dict(args.model_kwargs, **({} if args.num_classes is None else dict(num_classes=args.num_classes)))
