"""Explain images: attention overlays, and a table of the most probable classes.

examples:
  timm-abn explain photo.jpg --model abn_resnet20_cifar.fashion_mnist
  timm-abn explain photo.jpg folder/ --model abn_resnet152 --checkpoint weights.safetensors --map npy

Folders are searched with their subfolders. The overlay of photo.jpg is written to OUT/photo.overlay.png, in the size of
the photo; that of folder/dogs/1.jpg to OUT/dogs/1.overlay.png; a second file of the same name becomes 1-2.overlay.png.

CAM baselines (cam_resnet50, ...) are explained as well, with --checkpoint: their map is that of the likeliest class.

A multi-task network has a map for each task: those of the most probable tasks are drawn, to OUT/photo.TASK.overlay.png.

A checkpoint of timm-abn-train says itself which arguments its model had, and how images were prepared. Of bare weights
--model-kwargs says what was not the default in training, such as mechanism=product attention_map=raw.

The model sees its own preprocessing of an image, which for most models cuts off the edges. What it did not see is left
as it is in the overlay, and 0 in the map. Colours show each map from its least value (dark) to its greatest (bright);
--map npy gives the values themselves.

exit code: 0 if all went well, 1 if images found in a folder cannot be read (the others are explained), 2 if a file
that was named cannot be read, or for wrong arguments.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, List, Optional, Sequence, Tuple

from ..console.argument_types import device, positive
from ..console.table import format_table
from ..explain.sources import Source, find_sources
from ..maps.choices import COLORMAPS, INTERPOLATIONS
from .errors import CommandError
from .models import add_model_arguments, given_model_kwargs

if TYPE_CHECKING:
    import torch

__all__ = ['add_arguments', 'check', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('images', nargs='+', type=Path, metavar='IMAGE', help='image file, or folder of images')
    add_model_arguments(parser)
    parser.add_argument(
        '--out', type=Path, default=Path('outputs'), metavar='FOLDER', help='where to write overlays (default: outputs)'
    )
    parser.add_argument('--top-k', type=positive, default=5, metavar='K', help='classes per image (default: 5)')
    parser.add_argument(
        '--map',
        choices=('npy', 'png'),
        help='also write the map in the size of the image: its values, or as shown, in grey',
    )
    parser.add_argument(
        '--interpolation',
        choices=INTERPOLATIONS,
        default='bilinear',
        help='how maps are brought to the size of the image (default: bilinear)',
    )
    parser.add_argument('--colormap', choices=tuple(COLORMAPS), default='viridis', help='(default: viridis)')
    parser.add_argument('--batch-size', type=positive, default=16, metavar='B', help='images at once (default: 16)')
    parser.add_argument('--device', help='where to compute (default: cuda where torch finds it, else cpu)')


def check(args: argparse.Namespace) -> None:
    """Find the images, as ``args.sources``: a missing file is told before the models are imported."""
    args.sources = find_sources(args.images)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    import torch
    from huggingface_hub.utils import tqdm

    from .. import class_names, load_model
    from ..explain.files import Drawing, prepared_batches, task_stems, write_maps
    from ..explain.images import Preprocessing

    place = _device(args.device)
    model: Any = load_model(args.model, args.checkpoint, **given_model_kwargs(args)).to(place)
    preprocessing = Preprocessing(model)
    names = class_names(model)
    stems = task_stems(names)
    drawing = Drawing(args.interpolation, args.colormap, args.map)
    rows: List[Tuple[str, ...]] = []
    problems: List[Tuple[Source, str]] = []
    # without a terminal there is no progress bar
    sources = tqdm(args.sources, desc='explain', unit='image', disable=None if len(args.sources) > 1 else True)
    for batch in prepared_batches(sources, preprocessing, args.batch_size, problems):
        try:
            explanation = model.explain(torch.stack([prepared.x for prepared in batch]).to(place))
        except torch.OutOfMemoryError:
            raise CommandError(f'out of memory on {place}; try a smaller --batch-size') from None
        probabilities, indices = (values.tolist() for values in explanation.top_k(args.top_k))
        for index, prepared in enumerate(batch):
            maps = explanation.attention_map[index : index + 1].cpu()
            tasks = {task: stems[task] for task in indices[index]}
            paths = write_maps(args.out, prepared, maps, tasks, drawing)
            likeliest = [names[k] for k in indices[index]]
            rows += _table_rows(str(prepared.source.path), likeliest, probabilities[index], paths)
    if rows:
        print(format_table(('image', 'class', 'probability', 'overlay'), rows, right=('probability',)))
    for _, message in problems:
        print(f'timm-abn: error: {message}', file=sys.stderr)
    return 2 if any(source.named for source, _ in problems) else 1 if problems else 0


def _device(name: Optional[str]) -> 'torch.device':
    import torch

    try:
        return device(name or ('cuda' if torch.cuda.is_available() else 'cpu'))
    except argparse.ArgumentTypeError as error:
        raise CommandError(f'argument --device: {error}; see timm-abn explain --help') from None


def _table_rows(
    image: str,
    classes: Iterable[str],
    probabilities: Iterable[float],
    overlays: Sequence[Path],
) -> List[Tuple[str, ...]]:
    columns = itertools.zip_longest([image], classes, (f'{value:.4f}' for value in probabilities), map(str, overlays))
    return [tuple(entry or '' for entry in row) for row in columns]
