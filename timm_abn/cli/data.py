"""Arguments that say which images a command is about, as in timm's scripts."""

import argparse
from pathlib import Path
from typing import Any

from ..console.argument_types import positive, whole

__all__ = ['add_data_arguments', 'given_data']


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say which images to take."""
    parser.add_argument('--data-dir', type=Path, required=True, metavar='FOLDER', help='folder of the data')
    parser.add_argument(
        '--dataset',
        default='',
        metavar='NAME',
        help="as in timm's scripts: torch/fashion_mnist, torch/svhn, compcars, ... (default: folders of images)",
    )
    parser.add_argument('--split', default='validation', help="as in timm's scripts (default: validation)")
    parser.add_argument('--limit', type=positive, metavar='N', help='this many images, drawn at random (default: all)')
    parser.add_argument('--seed', type=whole, default=0, help='of random draws (default: 0)')


def given_data(args: argparse.Namespace) -> dict[str, Any]:
    """Return what ``load_samples`` is told by a command line.

    Args:
        args: Parsed by a parser with ``add_data_arguments``.
    """
    return {name: getattr(args, name) for name in ('data_dir', 'dataset', 'split', 'limit', 'seed')}
