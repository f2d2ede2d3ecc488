"""Explain images: attention overlays, and a table of the most probable classes.

examples:
  timm-abn explain photo.jpg --model abn_resnet20_cifar.fashion_mnist
  timm-abn explain photo.jpg folder/ --model abn_resnet152 --checkpoint weights.safetensors --map npy

Folders are searched with their subfolders. The overlay of photo.jpg is written to OUT/photo.overlay.png, in the size of
the photo; that of folder/dogs/1.jpg to OUT/dogs/1.overlay.png; a second file of the same name becomes 1-2.overlay.png.

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
import dataclasses
import itertools
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from huggingface_hub.utils import tqdm
from PIL import Image

from ..explain.class_names import class_names
from ..explain.images import IMAGE_EXTENSIONS, Box, ImageError, Preprocessing, draw_overlay, place_map, read_image
from ..maps.colormaps import COLORMAPS
from ..maps.operations import INTERPOLATIONS, normalize_maps
from ..staging import staged_files
from .argument_types import device, positive
from .errors import CommandError
from .models import add_model_arguments, given_model_kwargs, load_model
from .table import format_table

__all__ = ['add_arguments', 'find_sources', 'run', 'task_stems']

OUTPUT_ENDINGS = ('.overlay.png', '.map.png')  # not to be explained when the output lies among the images


@dataclasses.dataclass
class Source:
    """An image to explain.

    Attributes:
        path: The file.
        name: Path of its output, relative to the output folder, without an ending.
        named: Whether the user named the file, rather than a folder that holds it.
    """

    path: Path
    name: Path
    named: bool


@dataclasses.dataclass
class Prepared:
    """An image that was read and preprocessed.

    Attributes:
        source: Where it comes from.
        image: The original, as RGB.
        x: The model's input, shape (C, H, W).
        box: The part of the original that the input shows.
    """

    source: Source
    image: Image.Image
    x: torch.Tensor
    box: Box


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
    parser.add_argument(
        '--device',
        type=device,
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where to compute (default here: %(default)s)',
    )


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    sources = find_sources(args.images)
    model = load_model(args.model, args.checkpoint, given_model_kwargs(args), args.device)
    try:
        preprocessing = Preprocessing(model)
    except ValueError as error:
        raise CommandError(str(error)) from None
    names = class_names(model)
    stems = task_stems(names)
    rows: List[Tuple[str, ...]] = []
    problems: List[Tuple[Source, str]] = []
    for batch in prepared_batches(sources, preprocessing, args.batch_size, problems):
        try:
            explanation = model.explain(torch.stack([prepared.x for prepared in batch]).to(args.device))
        except torch.OutOfMemoryError:
            raise CommandError(f'out of memory on {args.device}; try a smaller --batch-size') from None
        probabilities, indices = (values.tolist() for values in explanation.top_k(args.top_k))
        for index, prepared in enumerate(batch):
            maps = explanation.attention_map[index : index + 1].cpu()
            paths = write_outputs(prepared, maps, {task: stems[task] for task in indices[index]}, args)
            likeliest = [names[k] for k in indices[index]]
            rows += _table_rows(str(prepared.source.path), likeliest, probabilities[index], paths)
    if rows:
        print(format_table(('image', 'class', 'probability', 'overlay'), rows, right=('probability',)))
    for _, message in problems:
        print(f'timm-abn: error: {message}', file=sys.stderr)
    return 2 if any(source.named for source, _ in problems) else 1 if problems else 0


def find_sources(paths: Iterable[Path]) -> List[Source]:
    """Return the images among files and folders, each with an output name of its own.

    Args:
        paths: Files, which are taken whatever their name, and folders, of which the images are taken.

    Raises:
        CommandError: A path does not exist, or a folder holds no images.
    """
    sources: Dict[Path, Source] = {}
    taken = set()
    for path in paths:
        if path.is_dir():
            files = [file for file in sorted(path.rglob('*')) if _is_input(file)]
            names = [file.relative_to(path).with_suffix('') for file in files]
            if not files:
                raise CommandError(f'there are no images in {path}')
        elif path.exists():
            files, names = [path], [Path(path.stem)]
        else:
            raise CommandError(f'there is no file or folder {path}')
        for file, name in zip(files, names, strict=True):
            if file.resolve() in sources:
                continue
            unique, number = name, 1
            while str(unique).casefold() in taken:
                number += 1
                unique = name.with_name(f'{name.name}-{number}')
            taken.add(str(unique).casefold())
            sources[file.resolve()] = Source(file, unique, named=not path.is_dir())
    return list(sources.values())


def prepared_batches(
    sources: Sequence[Source],
    preprocessing: Preprocessing,
    batch_size: int,
    problems: List[Tuple[Source, str]],
) -> Iterator[List[Prepared]]:
    """Read images and yield them in batches, with a progress bar on a terminal.

    Args:
        sources: The images.
        preprocessing: That of the model.
        batch_size: Images per batch; fewer where large photos would fill the memory.
        problems: Images that cannot be used are added here, with the reason.
    """
    batch: List[Prepared] = []
    pixels = 0
    for source in tqdm(sources, desc='explain', unit='image', disable=None if len(sources) > 1 else True):
        try:
            image = read_image(source.path)
            batch.append(Prepared(source, image, *preprocessing(image)))
        except ImageError as error:
            message = str(error).rstrip('.')
            problems.append((source, message if str(source.path) in message else f'{source.path}: {message}'))
            continue
        pixels += image.width * image.height
        if len(batch) == batch_size or pixels > _MOST_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def write_outputs(
    prepared: Prepared,
    attention_maps: torch.Tensor,
    tasks: Dict[int, str],
    args: argparse.Namespace,
) -> List[Path]:
    """Write the overlay, and the map if asked for, and return the path of the overlay; several of a multi-task network.

    Args:
        prepared: The image.
        attention_maps: Shape (1, 1, h, w), or (1, T, h, w) of a network with a map a task.
        tasks: Indices of the tasks whose maps are drawn of a multi-task network, and what their files are called.
        args: Arguments of the command.
    """
    name = prepared.source.name
    maps = {name.name: attention_maps}
    if attention_maps.shape[1] > 1:
        maps = {f'{name.name}.{stem}': attention_maps[:, index : index + 1] for index, stem in tasks.items()}
    with staged_files(args.out / name.parent) as staging:
        for stem, attention_map in maps.items():
            write_map(staging / stem, prepared, attention_map, args)
    return [args.out / name.parent / f'{stem}.overlay.png' for stem in maps]


def write_map(path: Path, prepared: Prepared, attention_map: torch.Tensor, args: argparse.Namespace) -> None:
    """Write the overlay of a map, and the map if asked for.

    Args:
        path: Where to, without an ending.
        prepared: The image.
        attention_map: Shape (1, 1, h, w).
        args: Arguments of the command.
    """
    shown = normalize_maps(attention_map)
    overlay = draw_overlay(prepared.image, shown, prepared.box, args.interpolation, args.colormap)
    # a photo of 24 megapixels: four times faster than by default, and a quarter larger
    overlay.save(f'{path}.overlay.png', compress_level=1)
    if args.map:
        values = place_map(
            attention_map if args.map == 'npy' else shown, prepared.box, prepared.image.size, args.interpolation
        )
        if args.map == 'npy':
            np.save(f'{path}.map.npy', values.numpy())
        else:
            Image.fromarray((values * 255).round().byte().numpy()).save(f'{path}.map.png')


def task_stems(names: Sequence[str]) -> List[str]:
    """Return what to call the files of each task: its name, and its index if others would be called the same.

    Args:
        names: Names of all tasks.
    """
    stems = [re.sub(r'\W+', '_', name)[:_LONGEST_STEM] for name in names]
    counts = Counter(stem.casefold() for stem in stems)  # some file systems do not tell a from A
    return [stem if counts[stem.casefold()] == 1 else f'{stem}.{index}' for index, stem in enumerate(stems)]


_LONGEST_STEM = 40  # characters; names of files end at 255 bytes
_MOST_PIXELS = 100_000_000  # of the originals of a batch: 300 MB


def _table_rows(
    image: str,
    classes: Iterable[str],
    probabilities: Iterable[float],
    overlays: Sequence[Path],
) -> List[Tuple[str, ...]]:
    columns = itertools.zip_longest([image], classes, (f'{value:.4f}' for value in probabilities), map(str, overlays))
    return [tuple(entry or '' for entry in row) for row in columns]


def _is_input(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(IMAGE_EXTENSIONS) and not name.endswith(OUTPUT_ENDINGS) and path.is_file()
