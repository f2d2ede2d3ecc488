"""The argument that says which explanations a command makes."""

import argparse
from collections.abc import Sequence

from ..explain.choices import METHODS

__all__ = ['add_methods_argument']


def add_methods_argument(parser: argparse.ArgumentParser, chosen: Sequence[str]) -> None:
    """Declare the argument.

    Args:
        parser: Of the command.
        chosen: The methods that are tried where none is named.
    """
    parser.add_argument(
        '--methods',
        nargs='+',
        choices=METHODS,
        metavar='METHOD',
        help=f'{", ".join(METHODS)} (default: those of {", ".join(chosen)} that apply to the model)',
    )
