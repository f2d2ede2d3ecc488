"""The commands ``timm-abn-train`` and ``timm-abn-validate``, and what is under ``train_wrappers/``.

They find timm's script of the same name, teach timm about ABNs in this process, and run the script unmodified. All of
its flags work; a few are added.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import timm
import torch
import yaml
from timm.utils import ParseKwargs

from ..errors import suggest
from ..hub.published import ARGUMENTS_OF_WEIGHTS, no_weights
from .atomic_saver import make_saver_atomic
from .data.celeba import BrokenImageError
from .data.datasets import extend_timm_datasets
from .data.loader import extend_timm_loader
from .data.transforms import CROP_MODES, extend_timm_transforms
from .errors import TrainingError
from .map_settings import (
    MAP_KEYS,
    add_map_arguments,
    freeze_backbone_arguments,
    hard_attention_arguments,
    model_kwargs_flags,
    read_map_loss,
)
from .mask_settings import MASK_KEYS, add_mask_arguments, read_mask_settings
from .models import check_model
from .precision import cpu_is_fast_in
from .recipes import find_recipe, read_settings, recipe_names, settings_for
from .scripts import SCRIPTS, check_version, find_scripts, knows_multi_label, run_script
from .task import extend_timm_tasks

__all__ = ['main', 'run', 'train', 'validate']

_CROPS = ', '.join(CROP_MODES)
_VALIDATION_CROPS = ('center', 'squash', 'border')


def train() -> int:
    """Run timm's ``train.py``; returns the exit code."""
    return main('train.py', sys.argv[1:])


def validate() -> int:
    """Run timm's ``validate.py``; returns the exit code."""
    return main('validate.py', sys.argv[1:])


def run() -> int:
    """Run the script of timm that the first argument names; returns the exit code."""
    if len(sys.argv) < 2 or sys.argv[1].startswith('-'):
        names = ', '.join(SCRIPTS)
        print(f'usage: run.py SCRIPT [its arguments]\n\nSCRIPT is one of timm: {names}.', file=sys.stderr)
        return 0 if sys.argv[1:] in (['-h'], ['--help']) else 2
    name = sys.argv[1] if sys.argv[1].endswith('.py') else f'{sys.argv[1]}.py'
    return main(name, sys.argv[2:])


def main(name: str, arguments: Sequence[str]) -> int:
    """Run a script of timm for ABNs.

    Args:
        name: File name of the script.
        arguments: Command line, with timm's flags and ours.

    Returns:
        Exit code: 2 if something that was asked for cannot hold; the message is one line.
    """
    _hide_own_folder()
    trains = name == 'train.py'
    is_first = os.environ.get('RANK', '0') == '0'
    try:
        own, for_timm = _own_arguments(name, arguments)
        extend_timm_tasks()
        scripts = find_scripts(own.timm_scripts)
        remark = check_version(scripts, needs_tasks=trains)
        if remark and is_first:
            print(f'{_command(name)}: {remark}', file=sys.stderr)
        with tempfile.TemporaryDirectory() as scratch:
            config = _read_config(own, for_timm) if trains else {}
            settings = _settings(own, config, for_timm)
            if _amp_would_be_slow(settings, own.force_amp):
                for_timm = [argument for argument in for_timm if argument != '--amp']
                config = {key: value for key, value in config.items() if key != 'amp'}
                if is_first:
                    print(f'{_command(name)}: {_WITHOUT_AMP.format(dtype=settings.amp_dtype)}', file=sys.stderr)
            for_timm += [*hard_attention_arguments(settings), *freeze_backbone_arguments(settings)]
            for_timm += _arguments_of_weights(settings)
            _check_model(settings)
            if name in ('train.py', 'validate.py'):
                _check_multi_label(settings, scripts / name)
            if trains:
                for_timm = [*for_timm, *_config_for_timm(config, for_timm, Path(scratch))]
                _prepare_training(settings)
            _check_weights(name, settings)
            extend_timm_datasets()
            extend_timm_transforms()
            run_script(scripts, name, for_timm)
    except TrainingError as error:
        if is_first or isinstance(error, BrokenImageError):  # which one process alone meets
            print(f'{_command(name)}: error: {error}', file=sys.stderr)
        return 2
    return 0


def _hide_own_folder() -> None:
    """Take the folder of the wrapper off the path, where its train.py would hide what is meant by ``import train``."""
    wrapper = Path(sys.argv[0]).resolve()
    if sys.path and wrapper.suffix == '.py' and Path(sys.path[0] or '.').resolve() == wrapper.parent:
        del sys.path[0]


def _command(name: str) -> str:
    script = Path(name).stem
    return f'timm-abn-{script}' if script in ('train', 'validate') else f'run.py {script}'


def _own_arguments(name: str, arguments: Sequence[str]) -> Tuple[argparse.Namespace, List[str]]:
    trains = name == 'train.py'
    parser = argparse.ArgumentParser(
        prog=_command(name),
        usage=f"{_command(name)} [flags of timm's {name}] [these]",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        '--timm-scripts',
        metavar='DIR',
        help="checkout of timm's repository, or 'download' to fetch the scripts of the installed timm once "
        '(default: $TIMM_SCRIPTS)',
    )
    parser.add_argument(
        '--force-amp',
        action='store_true',
        help='keep --amp on CPUs that are slower with it (default: left out)',
    )
    if trains:
        parser.add_argument(
            '--attention-loss-weight', type=float, metavar='W', help='weight of the attention loss (default: 1)'
        )
        add_map_arguments(parser)
        add_mask_arguments(parser)
        parser.add_argument(
            '--crop-mode',
            choices=_VALIDATION_CROPS,
            help="crop of the validation images, as in timm's validate.py (default: that of the model)",
        )
        parser.add_argument(
            '--recipe', metavar='NAME', help=f'settings of an experiment: {", ".join(recipe_names())}; --model chooses'
        )
        parser.add_argument('-c', '--config', default='', help=argparse.SUPPRESS)
    if any(flag in arguments for flag in ('-h', '--help')):
        parser.print_help()
        crops = (
            f' --train-crop-mode also takes {_CROPS}; --dataset also torch/svhn, compcars and celeba.' if trains else ''
        )
        print(f'\n{name} of timm follows, whose flags all work.{crops}\n', flush=True)
    return parser.parse_known_args(arguments)


def _read_config(own: argparse.Namespace, for_timm: Sequence[str]) -> Dict[str, Any]:
    """Return the settings of ``--recipe`` or ``--config`` for the model of the command line, or of the settings."""
    if own.recipe and own.config:
        raise TrainingError(f'--recipe {own.recipe} and --config {own.config} are both settings: pass one of them.')
    if not own.recipe and not own.config:
        return {}
    path = find_recipe(own.recipe) if own.recipe else Path(own.config)
    return settings_for(read_settings(path), _said_model(for_timm))


def _said_model(for_timm: Sequence[str]) -> Optional[str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--model', '-m')
    return parser.parse_known_args(list(for_timm))[0].model


# and their defaults
_OWN_KEYS: Dict[str, Any] = dict(attention_loss_weight=1.0, crop_mode=None, **MAP_KEYS, **MASK_KEYS)

_WITHOUT_AMP = 'this CPU computes in {dtype} slower than in float32: --amp is left out (--force-amp keeps it).'


def _amp_would_be_slow(settings: argparse.Namespace, force: bool) -> bool:
    if not settings.amp or force or not str(settings.device).startswith('cpu'):
        return False
    dtype = torch.bfloat16 if settings.amp_dtype == 'bfloat16' else torch.float16
    return not cpu_is_fast_in(dtype)


def _config_for_timm(config: Dict[str, Any], for_timm: Sequence[str], scratch: Path) -> List[str]:
    """Return the arguments that give timm's script the config, without the keys that it does not know."""
    if not config:
        return []
    path = scratch / 'config.yaml'
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if key not in _OWN_KEYS}))
    # where a recipe has another tag of the model that was asked for, the last word on the command line holds
    other_tag = _said_model(for_timm) not in (None, config.get('model'))
    return ['--config', str(path), *(['--model', config['model']] if other_tag else [])]


def _settings(own: argparse.Namespace, config: Dict[str, Any], for_timm: Sequence[str]) -> argparse.Namespace:
    """Return those settings of the run that matter here: the command line's, else the config's, else the default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--model', '-m', default='resnet50')
    parser.add_argument('--pretrained', action='store_true')
    parser.add_argument('--pretrained-path')
    parser.add_argument('--checkpoint')
    parser.add_argument('--initial-checkpoint', default='')
    parser.add_argument('--resume', default='')
    parser.add_argument('--seed', type=int, default=42)
    parser.add_argument('--amp', action='store_true')
    parser.add_argument('--amp-dtype', default='float16')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--torchscript', action='store_true')
    parser.add_argument('--naflex-loader', action='store_true')
    parser.add_argument('--kd-model-name')
    parser.add_argument('--kd-distill-type', default='logit')
    parser.add_argument('--dataset', default='')
    parser.add_argument('--task', default='')
    parser.add_argument('--model-kwargs', nargs='*', default={}, action=ParseKwargs)
    parser.add_argument('--num-classes', type=int)
    parser.add_argument('--in-chans', type=int)
    parser.add_argument('--input-size', nargs=3, type=int)
    parser.add_argument('--aa')
    parser.add_argument('--mixup', type=float, default=0.0)
    parser.add_argument('--cutmix', type=float, default=0.0)
    parser.add_argument('--cutmix-minmax', nargs='+', type=float)
    parser.add_argument('--aug-splits', type=int, default=0)
    parser.add_argument('--train-img-sizes', nargs='+', type=int)
    parser.set_defaults(**{key: value for key, value in config.items() if key in vars(parser.parse_args([]))})
    try:
        settings = parser.parse_known_args(list(for_timm))[0]
    except ValueError as error:  # of ParseKwargs
        raise TrainingError('--model-kwargs must be followed by KEY=VALUE, such as split=layer2.') from error
    if not isinstance(settings.model_kwargs, dict):  # of the config
        raise TrainingError(f'model_kwargs must hold "key: value" lines, got {settings.model_kwargs!r}.')
    for key, default in _OWN_KEYS.items():
        said = getattr(own, key, None)
        setattr(settings, key, config.get(key, default) if said is None else said)
    return settings


def _arguments_of_weights(settings: argparse.Namespace) -> List[str]:
    """Say outright what the model has because of its weights, so that the checkpoint records it."""
    found = ARGUMENTS_OF_WEIGHTS.get(settings.model, {})
    if found.keys() <= settings.model_kwargs.keys():
        return []
    settings.model_kwargs = {**found, **settings.model_kwargs}
    return model_kwargs_flags(settings)


def _check_model(settings: argparse.Namespace) -> None:
    """Refuse arguments that no network can be built of; those of other packages and places are left to the script."""
    name, kwargs = settings.model, settings.model_kwargs
    if not name.startswith(('abn', 'cam_')) or not timm.is_model(name.split('.')[0]):
        return
    if ':' in name or ':' in str(kwargs.get('backbone')):
        return
    in_chans = settings.in_chans or (settings.input_size[0] if isinstance(settings.input_size, list) else None)
    given = dict(num_classes=settings.num_classes, in_chans=in_chans)
    check_model(name, {**{key: value for key, value in given.items() if value is not None}, **kwargs})


def _check_multi_label(settings: argparse.Namespace, script: Path) -> None:
    """Refuse several attributes an image where the script, or its task, is for one class an image."""
    flags = {
        '--task multilabel': settings.task == 'multilabel',
        '--dataset celeba': settings.dataset.lower() == 'celeba',
        '--model-kwargs multi_task=True': settings.model_kwargs.get('multi_task'),
    }
    said = [flag for flag, holds in flags.items() if holds]
    if said and not knows_multi_label(script):
        raise TrainingError(
            f'{said[0]} needs scripts of timm that know --task, which {script} does not; use those of tag '
            f'v{timm.__version__}.'
        )
    if said and settings.task != 'multilabel':
        raise TrainingError(f'{said[0]} has several attributes an image: pass --task multilabel.')


def _prepare_training(settings: argparse.Namespace) -> None:
    _check_settings(settings)
    mask_settings = read_mask_settings(settings)
    extend_timm_tasks(settings.attention_loss_weight, read_map_loss(settings), mask_settings)
    extend_timm_loader(settings.seed, settings.crop_mode, mask_settings)
    make_saver_atomic()


def _check_settings(settings: argparse.Namespace) -> None:
    """Refuse what cannot hold, before any data is read."""
    architecture = settings.model.split('.')[0]
    if ':' not in settings.model and not timm.is_model(architecture):
        hint = suggest(architecture, timm.list_models(), otherwise='timm-abn list shows all.')
        raise TrainingError(f'--model {settings.model} is not known: {hint}')
    if settings.crop_mode not in (None, *_VALIDATION_CROPS):  # of the config; argparse checks the flag
        raise TrainingError(f'crop_mode must be one of {", ".join(_VALIDATION_CROPS)}, got {settings.crop_mode!r}.')
    if not architecture.startswith('abn'):
        return
    if settings.torchscript:
        raise TrainingError(
            '--torchscript cannot train an Attention Branch Network: scripted, it has no attention logits. Leave it '
            'out, or use --torchcompile.'
        )
    if settings.naflex_loader:
        raise TrainingError(
            '--naflex-loader feeds patches, and the attention branch of an Attention Branch Network needs images. '
            'Leave it out, or use --train-img-sizes.'
        )
    if settings.kd_model_name and settings.kd_distill_type != 'logit':
        raise TrainingError(
            f'--kd-distill-type {settings.kd_distill_type} leaves out the loss of the attention branch; only logit '
            'works for an Attention Branch Network.'
        )


_LOAD_WEIGHTS = ('validate.py', 'inference.py', 'onnx_export.py')  # without --checkpoint, the pretrained ones


def _check_weights(name: str, settings: argparse.Namespace) -> None:
    """Refuse to let a script ask for pretrained weights of a model that has none."""
    loads_weights = name in _LOAD_WEIGHTS
    wanted = settings.pretrained or (loads_weights and not settings.checkpoint)
    if not wanted or settings.pretrained_path or not timm.is_model(settings.model.split('.')[0]):
        return
    try:
        cfg = timm.get_pretrained_cfg(settings.model)
    except RuntimeError as error:  # no such tag
        raise TrainingError(str(error)) from error
    if cfg is None or not cfg.has_weights:
        way = 'pass --checkpoint FILE' if loads_weights else 'leave out --pretrained'
        raise TrainingError(f'{no_weights(settings.model.split(".")[0])} Or {way}.')
