"""Explain images: attention overlays, and a table of the most probable classes.

examples:
  timm-abn explain photo.jpg --model abn_resnet20_cifar.fashion_mnist
  timm-abn explain photo.jpg folder/ --model abn_resnet152 --checkpoint weights.safetensors --map npy

Folders are searched recursively. The overlay of photo.jpg is written to OUT/photo.overlay.png, in the photo's size;
that of folder/dogs/1.jpg to OUT/dogs/1.overlay.png; a second file with the same name becomes 1-2.overlay.png.

CAM baselines (cam_resnet50, ...) with --checkpoint also work: their map is that of the most probable class.

A multi-task network has a map for each task; those of the most probable tasks are drawn, to OUT/photo.TASK.overlay.png.

A checkpoint of timm-abn-train records its model, the model's arguments, and how images were prepared. For bare weights,
--model-kwargs gives the arguments that were not the default in training, such as mechanism=product attention_map=raw,
and --img-size, --mean, --std and --crop-pct say how images were prepared. A model with one logit answers no or yes,
with probabilities 1 - p and p.

The map drawn is the one that the model's record names as its best explanation; a line below the table says which. If
none is recorded, it is the attention map, or for CAM models the class map. --show selects another.

--show class draws the class map of the most probable class, or of --class, minus its spatial mean, where that is above
0. --show contrast draws the class map minus the mean of the other classes' maps; --show product, the attention map
times the class map. Only differences between class maps carry meaning, because softmax depends on nothing else. The
contrast shows what speaks for a class: red where it is ahead of the others, blue where behind, grey where neither.

The model sees its own preprocessing of an image, which usually crops the edges. In the overlay the part that it did not
see is unchanged, and in the map it is 0. Colours span each map from its minimum (dark) to its maximum (bright): they
show where in an image, not how much, and a map of .1 can look as hot as one of .7. To compare images, use --scale
common, one range for all images of the run, or --scale absolute, the [0, 1] of the sigmoid. The range of each map is in
the table, in --csv, and in the text of the overlay's PNG file; --map npy writes the values themselves.

Images have a true label if their folders match the classes: by name, for ImageNet also by synset, or by number (for a
model whose classes have no names: by as many folders as there are classes, in timm's order). The table shows it, and a
line below counts the correct answers.

Several processes can share the images, with the same results as one:
torchrun --no-python --nproc_per_node 2 timm-abn explain ...

exit code: 0 on success, 1 if images in a folder cannot be read (the others are explained), 2 if a named file cannot be
read, or if arguments are wrong.
"""

import argparse
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .answers import print_right
from .argument_types import positive
from .arguments import (
    add_computing_arguments,
    add_csv_argument,
    add_images_argument,
    add_model_arguments,
    add_out_argument,
    choose_device,
    given_model_kwargs,
)
from .choices import COLORMAPS, INTERPOLATIONS, SCALES, SHOWN_MAPS
from .errors import CommandError, report_problems
from .table import format_table, write_csv

if TYPE_CHECKING:
    from timm_abn.explain.runs import ExplainedImage

__all__ = ['add_arguments', 'run']

COLUMNS = ('image', 'label', 'class', 'probability', 'map_least', 'map_greatest', 'overlay')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_images_argument(parser)
    add_model_arguments(parser)
    add_out_argument(parser, 'outputs')
    add = parser.add_argument
    add('--top-k', type=positive, default=5, metavar='K', help='classes per image (default: 5)')
    also = 'also write the map in the size of the image: its values, or as shown, in grey'
    add('--map', choices=('npy', 'png'), help=also)
    way = 'how maps are resized to the size of the image (default: bilinear)'
    add('--interpolation', choices=INTERPOLATIONS, default='bilinear', help=way)
    add('--colormap', choices=COLORMAPS, help='colours of the map (default: viridis; --show contrast has its own)')
    span = 'range that the colours span: that of each map, that of all maps of the run, or [0, 1] (default: own)'
    add('--scale', choices=SCALES, default='own', help=span)
    add('--show', choices=SHOWN_MAPS, help='which map to draw (default: the one recorded as the best explanation)')
    shown = 'class for --show class, contrast or product: name or index (default: the most probable of each image)'
    add('--class', dest='shown_class', metavar='NAME', help=shown)
    add_csv_argument(parser, 'image and class')
    add_computing_arguments(parser, batch_size=16)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from timm_abn import AttachedNet, load_model
    from timm_abn.data.class_names import find_class, name_classes
    from timm_abn.data.folder_labels import folder_labels
    from timm_abn.data.sources import find_sources
    from timm_abn.explain.files import Drawing, format_range
    from timm_abn.explain.processes import process_group
    from timm_abn.explain.runs import explain_files, map_words
    from timm_abn.records import are_exclusive, explained_by
    from timm_abn.staging import check_output_file, check_output_folder

    with process_group() as (rank, _):
        sources = find_sources(args.images)
        for folder in {args.out / source.name.parent for source in sources}:
            check_output_folder(folder)
        if args.csv:
            check_output_file(args.csv)
        place = choose_device(args)
        model: Any = load_model(args.model, args.checkpoint, **given_model_kwargs(args)).to(place)
        names = name_classes(model, args.label_names)
        shown = args.show or explained_by(model).removesuffix('_map')
        _check_shown(args, shown, isinstance(model, AttachedNet))
        shown_class = None if args.shown_class is None else find_class(args.shown_class, names)
        drawing = Drawing(shown, shown_class, args.scale, args.interpolation, args.colormap or 'viridis', args.map)
        found = explain_files(model, sources, args.out, names, drawing, args.top_k, args.batch_size, place)
        if rank:
            return 0
    # labels and tasks do not exclude each other, and a folder names one class
    labels = folder_labels(sources, model) if are_exclusive(model) else []
    known = {source.path: label for source, label in zip(sources, labels) if label is not None}
    rows = [row for image in found.images for row in _rows(image, names, known.get(image.source.path))]
    if rows:
        _print_table(rows, with_labels=bool(known))
        name = None if shown_class is None else names[shown_class]
        print(f'overlays: {map_words(model, shown, name)}')
    if args.scale == 'common' and found.value_range:
        print(f'range of all maps: {format_range(*found.value_range)}')
    paths = [image.source.path for image in found.images]
    print_right([(path, known.get(path), image.classes[0]) for path, image in zip(paths, found.images)], model)
    if args.csv:
        write_csv(args.csv, COLUMNS, rows)
    return report_problems(found.problems)


def _check_shown(args: argparse.Namespace, shown: str, is_attached: bool) -> None:
    if args.shown_class is not None and shown == 'attention' and not is_attached:
        raise CommandError('--class selects the class for --show class or --show contrast; add one of them')
    if args.colormap and shown == 'contrast':
        raise CommandError('--show contrast needs colours for both signs, and has its own; leave out --colormap')


def _rows(image: 'ExplainedImage', names: Sequence[str], label: int | None) -> list[dict[str, Any]]:
    """Return what the table and the CSV say of an image: a row per class."""
    maps = list(zip(image.ranges, image.overlays, strict=True))
    of_classes = maps if len(maps) == len(image.classes) > 1 else itertools.repeat(maps[0])
    return [
        dict(
            image=str(image.source.path),
            label='' if label is None else names[label],
            **{'class': names[index]},
            probability=probability,
            map_least=least,
            map_greatest=greatest,
            overlay=str(overlay),
        )
        for index, probability, ((least, greatest), overlay) in zip(image.classes, image.probabilities, of_classes)
    ]


def _print_table(rows: Sequence[Mapping[str, Any]], with_labels: bool) -> None:
    """Print the table; what an image or a map has once stands in its first row."""
    from timm_abn.explain.files import format_range

    header = ['image', *(['label'] if with_labels else []), 'class', 'probability', 'map range', 'overlay']
    lines = []
    before: Mapping[str, Any] = dict(image=None, overlay=None)
    for row in rows:
        cells = dict(row, probability=f'{row["probability"]:.4f}')
        cells['map range'] = format_range(row['map_least'], row['map_greatest'])
        if row['image'] == before['image']:
            cells.update(image='', label='')
        if row['overlay'] == before['overlay']:
            cells.update(overlay='', **{'map range': ''})
        lines.append([cells[name] for name in header])
        before = row
    print(format_table(header, lines, right=('probability',)))
