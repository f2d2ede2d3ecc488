"""The settings of a run of timm's scripts that the launcher reads, and which of them were given explicitly."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from timm.utils import ParseKwargs

from .errors import TrainingError

__all__ = ['flags_of', 'read_run_settings']


def read_run_settings(
    own: argparse.Namespace,
    own_keys: Mapping[str, Any],
    config: Mapping[str, Any],
    for_timm: Sequence[str],
) -> argparse.Namespace:
    """Return the settings: the command line's, else the config's, else the default.

    Those that the command line or the config gives are named in ``said``.

    Args:
        own: Flags of the launcher itself.
        own_keys: Their names, and defaults.
        config: What a recipe or a file of settings says.
        for_timm: Command line of timm's script.

    Raises:
        TrainingError: Arguments of the model are not pairs of a key and a value.
    """
    parser = _parser()
    defaults = vars(parser.parse_args([]))
    unsaid = object()
    parser.set_defaults(**dict.fromkeys(defaults, unsaid))
    try:
        given = vars(parser.parse_known_args(list(for_timm))[0])
    except ValueError as error:  # of ParseKwargs
        raise TrainingError('--model-kwargs must be followed by KEY=VALUE, such as split=layer2.') from error
    said: dict[str, Any] = {key: value for key, value in config.items() if key in defaults or key in own_keys}
    said.update({key: value for key, value in given.items() if value is not unsaid})
    said.update({key: value for key in own_keys if (value := getattr(own, key, None)) is not None})
    settings = argparse.Namespace(**{**defaults, **own_keys, **said}, said=set(said))
    if not isinstance(settings.model_kwargs, dict):  # of the config
        raise TrainingError(f'model_kwargs must hold "key: value" lines, got {settings.model_kwargs!r}.')
    return settings


def flags_of(values: Mapping[str, Any]) -> list:
    """Return settings as a command line for timm's scripts.

    Args:
        values: Name of a setting -> value, several of them as a list or tuple.
    """
    flags = []
    for key, value in values.items():
        several = value if isinstance(value, (list, tuple)) else [value]
        flags += [f'--{key.replace("_", "-")}', *map(str, several)]
    return flags


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--model', '-m', default='resnet50')
    parser.add_argument('--pretrained', action='store_true')
    for flag in ('pretrained-path', 'checkpoint', 'initial-checkpoint', 'resume', 'gp', 'interpolation', 'aa'):
        parser.add_argument(f'--{flag}')
    for flag in ('data-dir', 'dataset', 'class-map', 'input-key', 'valid-labels', 'real-labels', 'task'):
        parser.add_argument(f'--{flag}', default='')
    parser.add_argument('--train-split', default='train')
    for flag in ('split', 'val-split'):  # of validate.py, of train.py
        parser.add_argument(f'--{flag}', default='validation')
    parser.add_argument('--seed', type=int, default=42)
    parser.add_argument('--amp', action='store_true')
    parser.add_argument('--amp-dtype', default='float16')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--torchscript', action='store_true')
    parser.add_argument('--split-bn', action='store_true')
    parser.add_argument('--naflex-loader', action='store_true')
    parser.add_argument('--kd-model-name')
    parser.add_argument('--kd-distill-type', default='logit')
    parser.add_argument('--model-kwargs', nargs='*', default={}, action=ParseKwargs)
    for flag in ('num-classes', 'in-chans', 'img-size'):
        parser.add_argument(f'--{flag}', type=int)
    parser.add_argument('--input-size', nargs=3, type=int)
    parser.add_argument('--crop-pct', type=float)
    parser.add_argument('--crop-mode')  # of validate.py; that of train.py is ours
    for flag in ('mean', 'std', 'cutmix-minmax'):
        parser.add_argument(f'--{flag}', nargs='+', type=float)
    parser.add_argument('--mixup', type=float, default=0.0)
    parser.add_argument('--cutmix', type=float, default=0.0)
    parser.add_argument('--aug-splits', type=int, default=0)
    parser.add_argument('--train-img-sizes', nargs='+', type=int)
    return parser
