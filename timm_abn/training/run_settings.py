"""The settings of a run of timm's scripts that the launcher reads, and which of them were given explicitly."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from timm.utils import ParseKwargs

from .errors import TrainingError

__all__ = ['flags_of', 'model_kwargs_flags', 'read_run_settings']


def read_run_settings(
    own: argparse.Namespace, config: Mapping[str, Any], for_timm: Sequence[str]
) -> argparse.Namespace:
    """Return the settings: the command line's, else those of the recipe or config, else the default.

    ``own`` holds the launcher's own flags, None where they were not given; ``for_timm`` is the command line of timm's
    script. Those that the command line or the config gives are named in ``said``.

    Raises:
        TrainingError: Arguments of the model are not pairs of a key and a value.
    """
    parser = _parser()
    defaults = {**vars(parser.parse_args([])), **vars(own)}
    unsaid = object()
    parser.set_defaults(**dict.fromkeys(defaults, unsaid))
    try:
        given = vars(parser.parse_known_args(list(for_timm))[0])
    except ValueError as error:  # of ParseKwargs
        raise TrainingError('--model-kwargs must be followed by KEY=VALUE, such as split=layer2.') from error
    said: dict[str, Any] = {key: value for key, value in config.items() if key in defaults}
    said.update({key: value for key, value in given.items() if value is not unsaid})
    said.update({key: value for key, value in vars(own).items() if value is not None})
    settings = argparse.Namespace(**{**defaults, **said}, said=set(said))
    if not isinstance(settings.model_kwargs, dict):  # of the config
        raise TrainingError(f'model_kwargs must hold "key: value" lines, got {settings.model_kwargs!r}.')
    return settings


def flags_of(values: Mapping[str, Any]) -> list[str]:
    """Return settings as a command line for timm's scripts; several values of one are a list or tuple."""
    flags = []
    for key, value in values.items():
        several = value if isinstance(value, (list, tuple)) else [value]
        flags += [f'--{key.replace("_", "-")}', *map(str, several)]
    return flags


def model_kwargs_flags(settings: argparse.Namespace) -> list[str]:
    """Return the flags that give timm's script the arguments of the model."""
    return ['--model-kwargs', *(f'{key}={value!r}' for key, value in settings.model_kwargs.items())]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--model', '-m', default='resnet50')
    for flag in ('pretrained', 'channels-last', 'torchscript', 'split-bn', 'naflex-loader'):
        parser.add_argument(f'--{flag}', action='store_true')
    for flag in ('pretrained-path', 'checkpoint', 'initial-checkpoint', 'resume', 'gp', 'interpolation', 'aa'):
        parser.add_argument(f'--{flag}')
    for flag in ('data-dir', 'dataset', 'class-map', 'input-key', 'valid-labels', 'real-labels', 'task'):
        parser.add_argument(f'--{flag}', default='')
    # --split is of validate.py, --val-split of train.py
    defaults = {'train-split': 'train', 'split': 'validation', 'val-split': 'validation', 'device': 'cuda'}
    for flag, default in {**defaults, 'kd-model-name': None, 'kd-distill-type': 'logit'}.items():
        parser.add_argument(f'--{flag}', default=default)
    for flag, number in {'seed': 42, 'aug-splits': 0, 'num-classes': None, 'in-chans': None, 'img-size': None}.items():
        parser.add_argument(f'--{flag}', type=int, default=number)
    for flag, share in {'mixup': 0.0, 'cutmix': 0.0, 'crop-pct': None}.items():
        parser.add_argument(f'--{flag}', type=float, default=share)
    parser.add_argument('--model-kwargs', nargs='*', default={}, action=ParseKwargs)
    parser.add_argument('--input-size', nargs=3, type=int)
    parser.add_argument('--crop-mode')  # of validate.py; that of train.py is ours
    for flag in ('mean', 'std', 'cutmix-minmax'):
        parser.add_argument(f'--{flag}', nargs='+', type=float)
    parser.add_argument('--train-img-sizes', nargs='+', type=int)
    return parser
