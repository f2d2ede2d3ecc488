"""Export a model with two outputs, logits and attention map, as ONNX or as a program of torch.export.

examples:
  timm-abn export onnx --model abn_resnet20_cifar.fashion_mnist --out model.onnx
  timm-abn export torch-export --model abn_resnet152 --checkpoint weights.safetensors --dynamic --out model.pt2

The input is called images, shape (B, channels, H, W), normalised; the outputs are logits, (B, K), and attention_map,
(B, 1, h, w), of multi-task models (B, T, h, w). CAM baselines (cam_resnet50, ...) have the same two outputs. Without
--dynamic B is 1, and images have the size of the model.

Before the file appears it is run (ONNX: by onnxruntime) and compared with the model on random images, with --dynamic of
several batch and image sizes. How images are prepared and what classes are called stands in the metadata of the file:
metadata_props of the ONNX graph, metadata.json in the archive of torch.export.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence, Tuple

from .errors import CommandError
from .models import add_model_arguments, given_model_kwargs

if TYPE_CHECKING:
    import torch.nn as nn

    from ..export.graph import ExportedNetwork

__all__ = ['add_arguments', 'check', 'run']

ENDINGS = {'onnx': '.onnx', 'torch-export': '.pt2'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('format', choices=tuple(ENDINGS), help='kind of file')
    add_model_arguments(parser)
    parser.add_argument(
        '--dynamic', action='store_true', help='any batch size; any image size too, where the backbone takes it'
    )
    parser.add_argument('--label-names', type=Path, metavar='FILE', help='names of the classes, one a line')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='what to write (.onnx, .pt2)')


def check(args: argparse.Namespace) -> None:
    """Raise CommandError for a file that cannot be meant, before the models are imported."""
    if args.out.suffix != ENDINGS[args.format]:
        raise CommandError(f'--out must end in {ENDINGS[args.format]} for {args.format}, got {args.out}')
    if args.label_names and not args.label_names.is_file():
        raise CommandError(f'there is no file {args.label_names}')
    if args.out.is_dir():
        raise CommandError(f'--out must be a file, {args.out} is a folder')


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from .. import class_names, load_model
    from ..explain.class_names import read_class_names
    from ..export.graph import ExportError, check_onnx_packages

    try:
        if args.format == 'onnx':
            check_onnx_packages()
        model: Any = load_model(args.model, args.checkpoint, **given_model_kwargs(args))
        if args.label_names:
            names = read_class_names(args.label_names, model.num_classes)
            model.pretrained_cfg = dict(model.pretrained_cfg, label_names=names)
        exported, difference = export(model, args)
    except ExportError as error:
        raise CommandError(f'cannot export {args.model}: {error}') from None
    for fact, value in (
        ('Model', args.model),
        ('Images', describe_images(model, exported, args.dynamic)),
        ('Outputs', 'logits, attention_map'),
        ('Classes', _some(class_names(model))),
        ('Largest difference from the model', f'{difference:.1e}'),
        ('Written to', args.out),
    ):
        print(f'{fact}: {value}')
    return 0


def _some(names: Sequence[str], most: int = 5) -> str:
    return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')


def export(model: 'nn.Module', args: argparse.Namespace) -> Tuple['ExportedNetwork', float]:
    """Write the file, and return what was exported and its largest difference from the model.

    Args:
        model: The model.
        args: Arguments of the command.

    Raises:
        ExportError: The model cannot be exported.
    """
    import torch
    from huggingface_hub.utils import tqdm

    from ..export.graph import export_metadata, export_network, largest_difference, onnx_runner
    from ..staging import staged_files

    with tqdm(total=3, desc='trace', leave=False, disable=None) as progress, staged_files(args.out.parent) as staging:
        exported = export_network(model, args.dynamic)
        progress.update()
        file, metadata = staging / args.out.name, export_metadata(model, args.model)
        progress.set_description('convert')
        if args.format == 'onnx':
            exported.save_onnx(file, metadata)
            progress.update()
            progress.set_description('compare')
            difference = largest_difference(model, onnx_runner(file), exported.trials)
        else:
            exported.save(file, metadata)
            progress.update()
            progress.set_description('compare')
            difference = largest_difference(model, torch.export.load(file).module(), exported.trials)
        progress.update()
    return exported, difference


def describe_images(model: 'nn.Module', exported: 'ExportedNetwork', dynamic: bool) -> str:
    """Return the shape of the images, and which sizes are possible.

    Args:
        model: The model.
        exported: What was exported.
        dynamic: Whether any size was asked for.
    """
    lengths = exported.trials[0].shape
    shape = ' x '.join(exported.dynamic_axes.get(axis, str(length)) for axis, length in enumerate(lengths))
    if dynamic and 2 not in exported.dynamic_axes:
        return f'{shape} (other image sizes cannot be traced)'
    if dynamic and exported.multiple > 1:
        return f'{shape} (multiples of {exported.multiple})'
    return shape
