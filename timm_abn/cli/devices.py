"""The device that a command computes on."""

import argparse
from typing import TYPE_CHECKING, Optional

from ..console.argument_types import device
from .errors import CommandError

if TYPE_CHECKING:
    import torch

__all__ = ['add_device_argument', 'chosen_device']


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the argument that says where to compute."""
    parser.add_argument('--device', help='where to compute (default: cuda where torch finds it, else cpu)')


def chosen_device(name: Optional[str], command: str) -> 'torch.device':
    """Return the device that was given, or the best there is.

    Args:
        name: What was given, if anything was.
        command: Name of the subcommand, for the message.

    Raises:
        CommandError: torch cannot compute on it here.
    """
    import torch

    try:
        return device(name or ('cuda' if torch.cuda.is_available() else 'cpu'))
    except argparse.ArgumentTypeError as error:
        raise CommandError(f'argument --device: {error}; see timm-abn {command} --help') from None
