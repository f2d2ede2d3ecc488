"""Types of arguments, for argparse: each reads a word of the command line, or says what it must be."""

import argparse
import ast
import difflib
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .choices import METHODS, PACKAGES

if TYPE_CHECKING:
    import torch


class KeyValues(argparse.Action):
    """Action for KEY=VALUE arguments, which parses them like timm's ``ParseKwargs``, and reports what is wrong.

    A value is read as a Python literal, such as a number, True or a list, and otherwise as text.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store the arguments as a dictionary."""
        arguments: dict[str, Any] = {}
        for word in filter(None, values or ()):
            if not re.match('[^=]+=', word):
                raise argparse.ArgumentError(self, f'must be KEY=VALUE, got {word!r}')
            key, _, value = word.partition('=')
            try:
                arguments[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                arguments[key] = value
        setattr(namespace, self.dest, arguments)


def _whole(text: str, least: int, most: float = math.inf) -> int:
    is_number = text.isdecimal() and len(text) < 1000  # longer ones Python does not read
    if not is_number or not least <= int(text) <= most:
        bound = 'or more' if most == math.inf else f'to {most}'
        raise argparse.ArgumentTypeError(f'must be a whole number of {least} {bound}, got {text[:1000]!r}')
    return int(text)


positive = partial(_whole, least=1)
whole = partial(_whole, least=0)
cells = partial(_whole, least=2)  # along each side of a grid
seed = partial(_whole, least=0, most=2**32 - 1)  # as NumPy takes them


def positive_number(text: str) -> float:
    """Parse a number above 0."""
    number = zero_or_more(text)
    if not number:
        raise argparse.ArgumentTypeError(f'must be above 0, got {text!r}')
    return number


def zero_or_more(text: str) -> float:
    """Parse a number of 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f'must be a finite number of 0 or more, got {text!r}')
    return number


def method(text: str) -> str:
    """Parse the name of a method, or PACKAGE:METHOD of a package that is imported later."""
    package, colon, name = text.partition(':')
    if package not in METHODS:
        close = difflib.get_close_matches(package, METHODS)
        hint = f'did you mean {", ".join(close)}?' if close else f'there are {", ".join(METHODS)}'
        raise argparse.ArgumentTypeError(f'there is no method {text!r}; {hint}')
    if colon and (package not in PACKAGES or not name):
        raise argparse.ArgumentTypeError(f'PACKAGE:METHOD works for {", ".join(PACKAGES)}, got {text!r}')
    return text


def device(text: str) -> 'torch.device':
    """Parse the name of a device that torch, which this imports, can compute on here."""
    import torch

    try:
        return torch.empty(0, device=text).device
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise argparse.ArgumentTypeError(f'cannot compute on {text!r}: {str(error).splitlines()[0]}') from None


def _existing(text: str, is_there: Callable[[Path], bool], kind: str) -> Path:
    path = Path(text)
    if not is_there(path):
        raise argparse.ArgumentTypeError(f'there is no {kind} {path}')
    return path


def existing(text: str) -> Path:
    """Parse the path of a file or folder."""
    return _existing(text, Path.exists, 'file or folder')


def existing_file(text: str) -> Path:
    """Parse the path of a file."""
    return _existing(text, Path.is_file, 'file')


def existing_folder(text: str) -> Path:
    """Parse the path of a folder."""
    return _existing(text, Path.is_dir, 'folder')


def output_file(text: str) -> Path:
    """Parse the path of a file to write."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f'{path} is a folder, not a file to write')
    return path
