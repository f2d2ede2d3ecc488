"""The commands ``timm-abn-train`` and ``timm-abn-validate``, and what is under ``train_wrappers/``.

They find timm's script of the same name, teach timm about ABNs in this process, and run the script unmodified. All of
its flags work; a few are added.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import timm.data
import timm.data.readers.reader_image_folder as folder_reader
import torch.distributed as dist
import torch.nn as nn
import yaml

from ..data.datasets import create_dataset
from ..data.reading import ImageError
from ..data.timm_images import find_images_and_targets
from ..errors import TimmAbnError, suggest
from ..explain.processes import ProcessError, is_one_of_several, join_process_group
from ..hub.published import ARGUMENTS_OF_WEIGHTS, no_weights
from ..models.training_checkpoints import origin_of
from ..records import Levels, Record
from .data.loader import extend_timm_loader
from .data.transforms import CROP_MODES, extend_timm_transforms
from .devices import choose_device, choose_memory_format
from .errors import TrainingError
from .folder_classes import take_classes
from .from_checkpoint import arguments_of_checkpoint, channels_of_weights
from .map_settings import add_map_arguments, check_choices, read_map_loss, read_masks, take_hard_attention
from .models import check_model
from .recipes import find_recipe, read_settings, recipe_names, settings_for
from .replacing import replace
from .run_settings import model_kwargs_flags, read_run_settings
from .saver import extend_timm_saver
from .scripts import SCRIPTS, check_version, find_scripts, knows_multi_label, run_script
from .task import IS_ATTACHED, IS_SCRIPTED, extend_timm_tasks

__all__ = ['main', 'run']


def run() -> int:
    """Run the script of timm that the first argument names; returns the exit code."""
    if len(sys.argv) < 2 or sys.argv[1].startswith('-'):
        names = ', '.join(SCRIPTS)
        print(f"usage: run.py SCRIPT [its arguments]\n\nSCRIPT is one of timm's: {names}.", file=sys.stderr)
        return 0 if sys.argv[1:] in (['-h'], ['--help']) else 2
    name = sys.argv[1] if sys.argv[1].endswith('.py') else f'{sys.argv[1]}.py'
    return main(name, sys.argv[2:])


def main(name: str, arguments: Sequence[str]) -> int:
    """Run a script of timm, such as 'train.py', for ABNs, with timm's flags and ours.

    Returns the exit code: 2 if something that was asked for cannot hold; the message is one line.
    """
    _hide_own_folder()
    try:
        _run(name, arguments)
    except TimmAbnError as error:
        # which one alone meets
        _say(name, f'error: {error}', every_process=isinstance(error, (ImageError, ProcessError)))
        return 2
    return 0


def _run(name: str, arguments: Sequence[str]) -> None:
    trains = name == 'train.py'
    own, for_timm = _own_arguments(name, arguments)
    said_levels = Levels.parse(own.levels) if own.levels else None
    _choose_processes()
    extend_timm_tasks()
    scripts = find_scripts(own.timm_scripts)
    _say(name, check_version(scripts, needs_tasks=trains))
    config = _read_config(own, for_timm) if trains else {}
    settings = read_run_settings(own, config, for_timm)
    said_of_model = dict(settings.model_kwargs)
    for_timm += arguments_of_checkpoint(name, settings)
    if _loads_weights(name, settings) or settings.checkpoint or settings.initial_checkpoint or settings.resume:
        for_timm += channels_of_weights(settings)
    settings.levels = said_levels or Record.take(settings.recorded).levels
    of_device = choose_device(name, settings)
    for_timm += [*of_device, *take_classes(name, settings)]
    if trains:
        take_hard_attention(settings)
    # explicitly, so that the checkpoint records what the model has because of its weights
    settings.model_kwargs = {**ARGUMENTS_OF_WEIGHTS.get(settings.model, {}), **settings.model_kwargs}
    for_timm += choose_memory_format(name, settings, _check_model(settings))
    if settings.model_kwargs != said_of_model:
        for_timm += model_kwargs_flags(settings)
    if name in ('train.py', 'validate.py'):
        _check_multi_label(settings, scripts / name)
    if trains:
        _prepare_training(settings)
    _check_weights(name, settings)
    replace(timm.data, 'create_dataset', partial(create_dataset, **settings.data, levels=settings.levels))
    replace(folder_reader, 'find_images_and_targets', find_images_and_targets)
    extend_timm_transforms()
    for note in (*settings.notes, *(['torch finds no GPU: running on the CPU.'] if of_device else [])):
        _say(name, note)
    with tempfile.TemporaryDirectory() as scratch:
        run_script(scripts, name, [*for_timm, *_config_for_timm(config, vars(own), for_timm, Path(scratch))])


def _choose_processes() -> None:
    """Let this process be one of several, as torchrun or SLURM says, or one alone, whatever is left of another run."""
    if is_one_of_several() or is_one_of_several('SLURM_PROCID', 'SLURM_NTASKS'):
        replace(dist, 'init_process_group', join_process_group)
        return
    for variable in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'SLURM_NTASKS'):  # which timm reads
        os.environ.pop(variable, None)


def _say(name: str, text: str | None, every_process: bool = False) -> None:
    if text and (every_process or os.environ.get('RANK', '0') == '0'):
        print(f'{_command(name)}: {text}', file=sys.stderr)


def _hide_own_folder() -> None:
    """Take the folder of the wrapper off the path, where its train.py would hide what is meant by ``import train``."""
    wrapper = Path(sys.argv[0]).resolve()
    if sys.path and wrapper.suffix == '.py' and Path(sys.path[0] or '.').resolve() == wrapper.parent:
        del sys.path[0]


def _command(name: str) -> str:
    script = Path(name).stem
    return f'timm-abn-{script}' if script in ('train', 'validate') else f'run.py {script}'


def _own_arguments(name: str, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    trains = name == 'train.py'
    program = _command(name)
    usage = f"{program} [flags of timm's {name}] [these]"
    parser = argparse.ArgumentParser(program, usage, add_help=False, allow_abbrev=False)
    place = "checkout of timm's repository, or 'download' to fetch the scripts of the installed timm once (default: "
    parser.add_argument('--timm-scripts', metavar='DIR', help=f'{place}$TIMM_SCRIPTS)')
    levels = 'black and white in images of more than 8 bits: 0 4095, or percentiles: 1%% 99%% (default: 16 bits)'
    parser.add_argument('--levels', nargs=2, metavar=('LOW', 'HIGH'), help=levels)
    if trains:
        weight = 'weight of the attention loss (default: 1)'
        parser.add_argument('--attention-loss-weight', type=float, metavar='W', help=weight)
        add_map_arguments(parser)
        recipes = f'settings of an experiment: {", ".join(recipe_names())}; --model selects the network'
        parser.add_argument('--recipe', metavar='NAME', help=recipes)
        parser.add_argument('-c', '--config', default='', help=argparse.SUPPRESS)
    if any(flag in arguments for flag in ('-h', '--help')):
        parser.print_help()
        crops = ', '.join(CROP_MODES)
        also = f' --train-crop-mode also takes {crops}; --dataset also torch/svhn, compcars and celeba.'
        print(f'\n{name} of timm follows; all of its flags work.{also if trains else ""}\n', flush=True)
    return parser.parse_known_args(arguments)


def _read_config(own: argparse.Namespace, for_timm: Sequence[str]) -> dict[str, Any]:
    """Return the settings of ``--recipe`` or ``--config`` for the model of the command line, or of the settings."""
    if own.recipe and own.config:
        raise TrainingError(f'--recipe {own.recipe} and --config {own.config} are both settings: pass only one.')
    if not own.recipe and not own.config:
        return {}
    path = find_recipe(own.recipe) if own.recipe else Path(own.config)
    config = settings_for(read_settings(path), _said_model(for_timm))
    check_choices(config)
    return config


def _said_model(for_timm: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--model', '-m')
    return parser.parse_known_args(list(for_timm))[0].model


def _config_for_timm(config: dict[str, Any], own: dict[str, Any], for_timm: Sequence[str], scratch: Path) -> list[str]:
    """Return the arguments that give timm's script the config, without the keys that it does not know."""
    if not config:
        return []
    path = scratch / 'config.yaml'
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if key not in own}))
    # where a recipe has another tag of the model that was asked for, the last word on the command line holds
    model = config.get('model', '')
    other_tag = model and _said_model(for_timm) not in (None, model)
    return ['--config', str(path), *(['--model', model] if other_tag else [])]


def _check_model(settings: argparse.Namespace) -> nn.Module | None:
    """Return the network, without memory, if it is one of this package; refuse arguments that none can be built of."""
    if not settings.model.startswith(('abn', 'cam_')):
        return None
    in_chans = settings.in_chans or (settings.input_size[0] if isinstance(settings.input_size, list) else None)
    given = dict(num_classes=settings.num_classes, in_chans=in_chans)
    given = {key: value for key, value in given.items() if value is not None}
    return check_model(settings.model, {**given, **settings.model_kwargs})


def _check_multi_label(settings: argparse.Namespace, script: Path) -> None:
    """Refuse several attributes per image where the script, or its task, is for one class per image."""
    flags = {
        '--task multilabel': settings.task == 'multilabel',
        '--dataset celeba': settings.dataset.lower() == 'celeba',
        '--model-kwargs multi_task=True': settings.model_kwargs.get('multi_task'),
    }
    said = [flag for flag, holds in flags.items() if holds]
    if said and not knows_multi_label(script):
        raise TrainingError(
            f'{said[0]} needs scripts of timm with --task, which {script} lacks; use those of tag v{timm.__version__}.'
        )
    if said and settings.task != 'multilabel':
        raise TrainingError(f'{said[0]} has several attributes per image: pass --task multilabel.')


def _prepare_training(settings: argparse.Namespace) -> None:
    _check_settings(settings)
    masks = read_masks(settings)
    origin = origin_of(vars(settings))
    came = f'the weights of {settings.trained_checkpoint}' if settings.trained_checkpoint else origin
    weight = 1.0 if settings.attention_loss_weight is None else settings.attention_loss_weight
    extend_timm_tasks(weight, read_map_loss(settings), masks, came)
    extend_timm_loader(settings.seed, settings.crop_mode, masks)
    extend_timm_saver(
        label_names=settings.class_names,
        probabilities='sigmoid' if settings.task == 'multilabel' or settings.num_classes == 1 else 'softmax',
        levels=settings.levels and settings.levels.words,
        crop_mode=settings.crop_mode,
        origin=origin_of(settings.recorded) if settings.resume else origin,
    )


def _check_settings(settings: argparse.Namespace) -> None:
    """Refuse what cannot hold, before any data is read."""
    architecture = settings.model.split('.')[0]
    if ':' not in settings.model and not timm.is_model(architecture):
        hint = suggest(architecture, timm.list_models(), otherwise='timm-abn list shows all.')
        raise TrainingError(f'--model {settings.model} is not known: {hint}')
    if architecture == 'attached':
        raise TrainingError(IS_ATTACHED)
    if not architecture.startswith('abn'):
        return
    if settings.torchscript:
        raise TrainingError(IS_SCRIPTED)
    if settings.naflex_loader:
        raise TrainingError(
            '--naflex-loader feeds patches, but the attention branch needs images. '
            'Leave it out, or use --train-img-sizes.'
        )
    if settings.kd_model_name and settings.kd_distill_type != 'logit':
        raise TrainingError(
            f'--kd-distill-type {settings.kd_distill_type} leaves out the loss of the attention branch; only logit '
            'works for an Attention Branch Network.'
        )


def _loads_weights(name: str, settings: argparse.Namespace) -> bool:
    """Return whether a script loads pretrained weights: these do without --checkpoint."""
    loads_some = name in ('validate.py', 'inference.py', 'onnx_export.py')
    return settings.pretrained or (loads_some and not settings.checkpoint)


def _check_weights(name: str, settings: argparse.Namespace) -> None:
    """Refuse to let a script ask for pretrained weights of a model that has none."""
    if (
        not _loads_weights(name, settings)
        or settings.pretrained_path
        or not timm.is_model(settings.model.split('.')[0])
    ):
        return
    try:
        cfg = timm.get_pretrained_cfg(settings.model)
    except RuntimeError as error:  # no such tag
        raise TrainingError(str(error)) from error
    if cfg is None or not cfg.has_weights:
        way = 'leave out --pretrained' if settings.pretrained else 'pass --checkpoint FILE'
        raise TrainingError(f'{no_weights(settings.model.split(".")[0])} Or {way}.')
