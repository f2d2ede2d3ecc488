"""Arguments that several commands share, and what is made of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .argument_types import KeyValues, device, existing, existing_file, method, output_file, positive, seed
from .choices import METHODS, PROBABILITIES
from .errors import CommandError

if TYPE_CHECKING:
    import torch


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say which model to load."""
    name = 'name of the model, see timm-abn list; or hf-hub:OWNER/NAME (default: from the checkpoint)'
    parser.add_argument('--model', help=name)
    weights = 'weights to load instead of the pretrained ones (.safetensors, .pth, .pth.tar)'
    parser.add_argument('--checkpoint', type=Path, metavar='FILE', help=weights)
    add_building_arguments(parser)


def add_building_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that a model is built with, those that ``given_model_kwargs`` returns."""
    number = 'number of classes (default: from the weights)'
    parser.add_argument('--num-classes', type=positive, metavar='K', help=number)
    add_label_names_argument(parser)
    add_model_kwargs(parser)
    add_told_arguments(parser)


def add_told_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may be said of weights that do not say it themselves; what is written records it."""
    add = parser.add_argument
    add('--img-size', type=positive, metavar='N', help='height and width of images (default: from the weights)')
    for name in ('mean', 'std'):
        text = f'{name} of colours in [0, 1], one per channel or one for all (default: from the weights)'
        add(f'--{name}', type=float, nargs='+', metavar='X', help=text)
    add(
        '--crop-pct',
        type=float,
        metavar='X',
        help="share of an image's side that the model sees (default: from the weights)",
    )
    kinds = 'sigmoid for labels that do not exclude each other (default: from the weights, else softmax)'
    add('--probabilities', choices=PROBABILITIES, help=kinds)
    levels = (
        'what becomes black and white in images of more than 8 bits: grey values (12-bit scans: 0 4095), or '
        'percentiles of each image (1%% 99%%) (default: from the weights, else the range of 16 bits)'
    )
    add('--levels', nargs=2, metavar=('LOW', 'HIGH'), help=levels)


def given_told(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a command line with ``add_told_arguments`` says."""
    said = {name: getattr(args, name) for name in ('img_size', 'mean', 'std', 'crop_pct', 'probabilities', 'levels')}
    return {name: value for name, value in said.items() if value is not None}


def add_model_kwargs(parser: argparse.ArgumentParser) -> None:
    """Declare the argument for all other arguments of a model."""
    pairs = 'other arguments of the model, as in timm: backbone=convnext_tiny in_chans=1'
    parser.add_argument('--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE', help=pairs)


def given_model_kwargs(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the model that a command line gives.

    Raises:
        CommandError: One of them has an option of its own, or neither a model nor a checkpoint is named.
    """
    if not args.model and args.checkpoint is None:
        raise CommandError('pass --model NAME, or --checkpoint FILE if the file records its model')
    if 'checkpoint' in args.model_kwargs:
        raise CommandError('argument --model-kwargs: checkpoint is not an argument of a model; use --checkpoint')
    num_classes = {} if args.num_classes is None else dict(num_classes=args.num_classes)
    return {**args.model_kwargs, **num_classes, **given_told(args)}


def model_title(args: argparse.Namespace) -> str:
    """Return what results call the model of a command line: its name, or its checkpoint's."""
    return args.model or str(args.checkpoint)


def add_images_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the images that a command is about, one by one or in folders."""
    parser.add_argument('images', nargs='+', type=existing, metavar='IMAGE', help='image file, or folder of images')


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that say which images of a data set to take, as in timm's scripts."""
    parser.add_argument('--data-dir', type=Path, required=True, metavar='FOLDER', help='folder of the data')
    names = "as in timm's scripts: torch/fashion_mnist, torch/svhn, compcars, ... (default: folders of images)"
    parser.add_argument('--dataset', default='', metavar='NAME', help=names)
    parser.add_argument('--split', default='validation', help="as in timm's scripts (default: validation)")
    number = 'use this many images, drawn at random (default: all)'
    parser.add_argument('--limit', type=positive, metavar='N', help=number)
    parser.add_argument('--seed', type=seed, default=0, help='seed of random draws (default: 0)')


def given_data(args: argparse.Namespace) -> dict[str, Any]:
    """Return what ``load_samples`` is told by a command line with ``add_data_arguments``."""
    return {name: getattr(args, name) for name in ('data_dir', 'dataset', 'split', 'limit', 'seed')}


def add_methods_argument(parser: argparse.ArgumentParser, chosen: Sequence[str]) -> None:
    """Declare which explanations a command makes, and where; ``chosen`` are tried where none is named."""
    names = (
        f'{", ".join(METHODS)}; for the last three also PACKAGE:METHOD, such as torchcam:LayerCAM (default: those of '
        f'{", ".join(chosen)} that apply to the model)'
    )
    parser.add_argument('--methods', nargs='+', type=method, metavar='METHOD', help=names)
    path = (
        'layer for Grad-CAM, Recipro-CAM and methods of other packages, such as layer3; cut is before the last stage, '
        'or where an ABN applies its map (default: the last stage; for Recipro-CAM the cut)'
    )
    parser.add_argument('--layer', metavar='PATH', help=path)


def add_label_names_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the file that names the classes."""
    names = 'names of the classes, one per line in the order of the model (default: from the weights)'
    parser.add_argument('--label-names', type=existing_file, metavar='FILE', help=names)


def add_out_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Declare the folder of the results."""
    where = f'folder to write (default: {default})'
    parser.add_argument('--out', type=Path, default=Path(default), metavar='FOLDER', help=where)


def add_csv_argument(parser: argparse.ArgumentParser, rows: str) -> None:
    """Declare a table that is written on demand, with a row for each of ``rows``."""
    parser.add_argument('--csv', type=output_file, metavar='FILE', help=f'also write the table, one row per {rows}')


def add_computing_arguments(parser: argparse.ArgumentParser, batch_size: int = 0) -> None:
    """Declare where to compute, and how many images at once."""
    if batch_size:
        number = f'images at once (default: {batch_size})'
        parser.add_argument('--batch-size', type=positive, default=batch_size, metavar='B', help=number)
    parser.add_argument('--device', help='device to compute on (default: cuda if torch finds it, else cpu)')


def choose_device(args: argparse.Namespace) -> 'torch.device':
    """Return the device that is named, or a GPU where torch finds one, each process of torchrun its own.

    Raises:
        CommandError: There is no such device here.
        ProcessError: The environment tells of other processes, which cannot be found.
    """
    import torch

    from timm_abn.explain.processes import local_rank

    found = f'cuda:{local_rank() % torch.cuda.device_count()}' if torch.cuda.is_available() else 'cpu'
    try:
        return device(args.device or found)
    except argparse.ArgumentTypeError as error:
        raise CommandError(f'argument --device: {error}; see timm-abn {args.command} --help') from None
