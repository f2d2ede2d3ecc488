"""The device that a command line chooses."""

import argparse
import os
from typing import TYPE_CHECKING

from ..console.argument_types import device
from .errors import CommandError

if TYPE_CHECKING:
    import torch

__all__ = ['choose_device']


def choose_device(name: str | None, command: str) -> 'torch.device':
    """Return a device by name; by default a GPU where torch finds one, each process of torchrun its own.

    Args:
        name: As torch calls it, or None.
        command: The subcommand, for the message.

    Raises:
        CommandError: There is no such device here.
    """
    import torch

    found = f'cuda:{os.environ.get("LOCAL_RANK", 0)}' if torch.cuda.is_available() else 'cpu'
    try:
        return device(name or found)
    except argparse.ArgumentTypeError as error:
        raise CommandError(f'argument --device: {error}; see timm-abn {command} --help') from None
