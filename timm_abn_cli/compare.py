"""Compare explanations of images: one sheet per image, the maps of several methods side by side with their scores.

examples:
  timm-abn compare photo.jpg --model abn_resnet20_cifar.fashion_mnist --methods attention class_map grad_cam recipro_cam
  timm-abn compare folder/ --model resnet18 --methods cam grad_cam centre --class "tabby" --csv scores.csv
  timm-abn compare photo.jpg --model resnet18 --methods grad_cam torchcam:LayerCAM captum:Saliency --layer layer3

The sheet of photo.jpg is written to OUT/photo.compare.png; that of folder/dogs/1.jpg to OUT/dogs/1.compare.png. It
shows the image as the model sees it, and each map laid over it, stretched to its own range, which is given below. CAM
and class maps are reduced by their spatial mean and drawn where they are above 0. Each method is named with the layer
of its map: --layer if given. Otherwise it is the last stage for Grad-CAM and methods of other packages (the last block
but one for a ViT that reads its class token), and the cut before it for Recipro-CAM.

The class that is explained is the most probable one, or --class; for a multi-task network it is a task. Attention maps
of a network with one map, rollout, random and centre are the same for all classes; their scores are not.

Scores are areas under the curve of the class's probability: deletion, while pixels are replaced by the mean colour in
descending order of the map (lower is better); insertion, while they are restored (higher is better); and SRG, insertion
minus deletion, which is 0 for noise. The score of one image proves little. For several images, a line at the end says
what the scores allow to conclude about each method; timm-abn evaluate adds controls.

Images have a true label if their folders are named like classes: a line below the table counts the correct answers.

Any timm model works, with --checkpoint or with pretrained weights; methods that do not apply to it are reported before
the work begins. pytorch_grad_cam, torchcam and captum are other packages: pip install 'timm-abn[compare]'. Each has its
own methods: pytorch_grad_cam:LayerCAM, torchcam:SmoothGradCAMpp, captum:IntegratedGradients.

exit code: 0 on success, 1 if images in a folder cannot be read (the others are compared), 2 if a named file cannot be
read, or if arguments are wrong.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .answers import Answer, print_right
from .argument_types import positive
from .arguments import (
    add_computing_arguments,
    add_csv_argument,
    add_images_argument,
    add_methods_argument,
    add_model_arguments,
    add_out_argument,
    choose_device,
    given_model_kwargs,
    model_title,
)
from .errors import report_problems
from .table import format_table, write_csv

if TYPE_CHECKING:
    from timm_abn.data.images import Preprocessing
    from timm_abn.data.sources import Source
    from timm_abn.explain.comparison import Comparison
    from timm_abn.explain.files import Prepared

__all__ = ['add_arguments', 'run']

CHOSEN = ('attention', 'class_map', 'grad_cam', 'recipro_cam')
NUMBERS = ('probability', 'least', 'greatest', 'gain', 'deletion', 'insertion')
COLUMNS = (
    *('image', 'predicted', 'predicted_probability', 'class', 'probability', 'method', 'layer'),
    *('least', 'greatest', 'gain', 'deletion', 'insertion', 'problem', 'sheet'),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_images_argument(parser)
    add_model_arguments(parser)
    add_methods_argument(parser, CHOSEN)
    explained = 'name or index of the class or task to explain (default: the most probable one of each image)'
    parser.add_argument('--class', dest='class_name', metavar='NAME', help=explained)
    add_out_argument(parser, 'outputs/compare')
    add_csv_argument(parser, 'image and method')
    steps = 'steps of deletion and insertion (default: 32)'
    parser.add_argument('--steps', type=positive, default=32, metavar='S', help=steps)
    add_computing_arguments(parser, batch_size=16)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    import torch

    from timm_abn.data.class_names import find_class, name_classes
    from timm_abn.data.folder_labels import folder_labels
    from timm_abn.data.images import Preprocessing
    from timm_abn.data.sources import find_sources
    from timm_abn.explain.comparison import compare_methods
    from timm_abn.explain.files import long_names, prepared_batches
    from timm_abn.explain.methods import applicable_explainers, create_explainers
    from timm_abn.models.loading import load_any_model
    from timm_abn.progress import Progress
    from timm_abn.staging import check_output_file, check_output_folder

    sources = find_sources(args.images)
    for folder in {args.out / source.name.parent for source in sources}:
        check_output_folder(folder)
    if args.csv is not None:
        check_output_file(args.csv)
    place = choose_device(args)
    model: Any = load_any_model(args.model, args.checkpoint, **given_model_kwargs(args)).to(place)
    names = name_classes(model, args.label_names)
    target = None if args.class_name is None else find_class(args.class_name, names)
    preprocessing = Preprocessing(model)
    found = {} if args.methods else applicable_explainers(CHOSEN, model, args.layer)
    explainers = found or create_explainers(args.methods or CHOSEN, model, args.layer)
    labels = dict(zip([source.path for source in sources], folder_labels(sources, model)))
    rows: list[dict[str, Any]] = []
    answers: list[Answer] = []
    problems: list[tuple[Source, str]] = []
    steps = Progress(sources, 'compare', 'image', shown=len(sources) > 1)
    for batch in prepared_batches(steps, preprocessing, args.batch_size, problems):
        images = torch.stack([prepared.x for prepared in batch]).to(place)
        targets = None if target is None else [target] * len(images)
        comparisons = compare_methods(model, images, explainers, targets, args.steps, args.batch_size)
        for prepared, comparison in zip(batch, comparisons):
            with long_names(prepared.source, problems):
                path = _write_sheet(args, prepared, preprocessing, comparison, names)
                answers.append((prepared.source.path, labels[prepared.source.path], comparison.predicted))
                rows += _rows(str(prepared.source.path), comparison, names, path)
    if rows:
        print(_table(rows))
        print_right(answers, model)
        print(_verdicts(rows))
    if args.csv is not None:
        write_csv(args.csv, COLUMNS, rows)
    return report_problems(problems)


def _write_sheet(
    args: argparse.Namespace,
    prepared: 'Prepared',
    preprocessing: 'Preprocessing',
    comparison: 'Comparison',
    names: Sequence[str],
) -> Path:
    from timm_abn.explain.sheets import draw_sheet, input_picture
    from timm_abn.staging import staged_file

    config, name = preprocessing.config, prepared.source.name
    notes = [
        f'{model_title(args)}. Colours span each map from its minimum to its maximum, shown at the bars; CAM '
        'and class maps, minus their mean, from 0. '
        f'Scores: area under the curve of the probability of "{names[comparison.target]}" in {args.steps} steps; '
        'deletion replaces pixels by the mean colour, insertion restores them, SRG is the difference: 0 for noise.'
    ]
    picture = input_picture(prepared.x, config['mean'], config['std'])
    sheet = draw_sheet(picture, comparison, names, prepared.source.path.name, notes)
    path = args.out / name.parent / f'{name.name}.compare.png'
    with staged_file(path) as staged:
        sheet.save(staged)
    return path


def _rows(image: str, comparison: 'Comparison', names: Sequence[str], sheet: Path) -> list[dict[str, Any]]:
    known = {
        'image': image,
        'predicted': names[comparison.predicted],
        'predicted_probability': comparison.probability,
        'class': names[comparison.target],
        'probability': comparison.target_probability,
        'sheet': str(sheet),
    }
    renamed = dict(low='least', high='greatest')
    results = [dataclasses.asdict(result) for result in comparison.results]
    left_out = ('map', 'centred')
    shown = [{key: value for key, value in result.items() if key not in left_out} for result in results]
    return [{**known, **{renamed.get(key, key): value for key, value in result.items()}} for result in shown]


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table, in which what belongs to an image stands in the first of its rows."""
    from timm_abn.explain.sheets import SCORES

    columns = [column for column in COLUMNS if not column.startswith('predicted')]
    if not any(row['problem'] for row in rows):
        columns.remove('problem')
    cells: list[tuple[str, ...]] = []
    before = None
    for row in rows:
        shown = {name: _number(name, row[name]) if name in NUMBERS else row[name] for name in columns}
        if row['image'] == before:
            shown.update(dict.fromkeys(('image', 'class', 'probability', 'sheet'), ''))
        before = row['image']
        cells.append(tuple(shown.values()))
    titles = [SCORES.get(column, column) for column in columns]
    return format_table(titles, cells, right=[*NUMBERS, *SCORES.values()])


def _verdicts(rows: Sequence[dict[str, Any]]) -> str:
    """Return what the scores allow to say of each method but controls, a line each."""
    from timm_abn.explain.methods import method_title
    from timm_abn.explain.methods.floors import FLOORS
    from timm_abn.explain.statistics import bootstrap_mean
    from timm_abn.explain.verdict import FEWEST_IMAGES, Evidence, verdict

    number = len({row['image'] for row in rows})
    if number < FEWEST_IMAGES:
        return f'Too few images to say how faithful a method is: {number}; at least {FEWEST_IMAGES} are needed.'
    gains: dict[str, list[float]] = {}
    for row in rows:
        gains.setdefault(row['method'], []).append(row['gain'])
    titles = {row['method']: method_title(row['method'], row['layer']) for row in rows}
    rival = gains.get('grad_cam')
    lines = []
    for method in (method for method in gains if method not in FLOORS):
        paired = rival is not None and method != 'grad_cam'
        above = bootstrap_mean([own - other for own, other in zip(gains[method], rival or ())]) if paired else None
        evidence = Evidence(
            bootstrap_mean(gains[method]), above_rival=above, rival=titles['grad_cam'] if paired else ''
        )
        lines.append(f'{titles[method]}: {verdict(evidence)}')
    return '\n'.join(lines)


def _number(name: str, value: float) -> str:
    if math.isnan(value):
        return '-'
    return f'{value:.3g}' if name in ('least', 'greatest') else f'{value:.4f}'
