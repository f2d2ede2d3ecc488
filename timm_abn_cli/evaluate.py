"""Score explanations on a data set: are maps faithful, are they about the image, and does the prediction need them?

examples:
  timm-abn evaluate --model abn_resnet20_cifar.fashion_mnist --data-dir data --dataset torch/fashion_mnist \\
      --split test --limit 1000 --methods attention class_map grad_cam --by-class --out outputs/evaluate
  timm-abn evaluate --checkpoint output/train/abn/last.pth.tar --data-dir photos --masks masks/ \\
      --reference-checkpoint plain.pth.tar

Written to --out: scores.csv (a row per image and method), summary.json (means with 95 % bootstrap intervals, also per
class, paired differences to the first method, verdicts, versions and settings) and curves.png (needs the extra: pip
install 'timm-abn[plot]').

Deletion replaces pixels in the order of the map; insertion restores them in the same order. The score is the area under
the probability of the class that is predicted for the whole image (Petsiuk et al., 2018). SRG, the symmetric relevance
gain, is insertion minus deletion: it is 0 for noise, whatever replaces pixels (Bluecher et al., 2024).

The column that counts is 'above the mean map': SRG minus the SRG of the method's mean map over other images predicted
as the same class, which uses no pixel of this image. The controls random, and centre, a Gaussian, are always included.
'classes alike' is the rank correlation with the map of the most probable other class; 'randomised' is that with the map
of the network with another head. Near 1, the map ignores the class, or what was learned. Position bias is the share of
the maps' spatial variance that is the same in all images. For an ABN, a table shows what the prediction loses when the
map is replaced, that is, whether the map matters. The last lines give a verdict on each method, in words.

Folders of images have classes if their sub-folders match those of the model: by name, for ImageNet also by synset, or
by number. --masks are PNG files named like the images, next to them or in their own folder (the object is where they
are not 0), or one JSON file in COCO's format. Masks for a multi-task network are in one folder per task, or have
categories named like the tasks; then each task is scored.

--reference names another model, such as one without ABN; the methods that apply to it are scored on the same images.

An interrupted evaluation continues if the same command is given again. A finished one is shown again, and a line says
so. This takes as long as reading the images, because results are reused only if weights, network, preparation, images,
masks, labels and methods are the same; otherwise the command asks for another --out.

Under torchrun each process takes a share: torchrun --nproc_per_node 2 --no-python timm-abn evaluate ...
"""

import argparse
import importlib.util
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from .answers import warn_of_order
from .argument_types import cells, existing, positive
from .arguments import (
    add_computing_arguments,
    add_data_arguments,
    add_methods_argument,
    add_model_arguments,
    add_out_argument,
    choose_device,
    given_data,
    given_model_kwargs,
    model_title,
)
from .choices import BASELINES
from .errors import CommandError

if TYPE_CHECKING:
    import torch.nn as nn

    from timm_abn.explain.evaluation import Evaluation
    from timm_abn.explain.methods.explainer import Explainer

__all__ = ['add_arguments', 'run']

CHOSEN = ('attention', 'class_map', 'grad_cam', 'recipro_cam')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_methods_argument(parser, CHOSEN)
    parser.add_argument('--masks', type=existing, metavar='FOLDER|JSON', help='masks of the objects in the images')
    parser.add_argument('--reference', metavar='MODEL', help='another model whose explanations are scored as well')
    parser.add_argument('--reference-checkpoint', type=Path, metavar='FILE', help='weights of that model')
    parser.add_argument('--steps', type=positive, default=32, help='steps of deletion and insertion (default: 32)')
    parser.add_argument('--baseline', choices=BASELINES, default='mean', help='what replaces pixels (default: mean)')
    size = 'side in pixels of the squares that are replaced (default: 1)'
    parser.add_argument('--patch-size', type=positive, default=1, metavar='P', help=size)
    classes = 'also show the gains for each predicted class'
    parser.add_argument('--by-class', action='store_true', help=classes)
    mosaics = 'also score GridPG, on mosaics of N x N images that are predicted correctly and with confidence'
    parser.add_argument('--grid', type=cells, metavar='N', help=mosaics)
    add_out_argument(parser, 'outputs/evaluate')
    add_computing_arguments(parser, batch_size=32)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if args.methods and len(set(args.methods)) != len(args.methods):
        raise CommandError(f'--methods must not repeat a method, got {" ".join(args.methods)}')

    from timm_abn.data.class_names import name_classes
    from timm_abn.explain.processes import process_group
    from timm_abn.models.loading import load_any_model
    from timm_abn.staging import check_output_folder

    from .evaluation_report import draw_curves, report

    check_output_folder(args.out)
    with process_group():
        place = choose_device(args)
        model: Any = load_any_model(args.model, args.checkpoint, **given_model_kwargs(args)).to(place)
        names = name_classes(model, args.label_names)
        evaluation = _evaluate(args, model)
        if evaluation is None:
            return 0
        draws = importlib.util.find_spec('matplotlib') is not None
        if draws:
            draw_curves(args.out / 'curves.png', evaluation)
    print(report(evaluation, names, args.by_class))
    first = [row for row in evaluation.rows if row['method'] == evaluation.rows[0]['method']]
    warn_of_order([(PurePath(row['image']), row['label'], row['predicted']) for row in first], model)
    files = ', '.join(str(args.out / name) for name in ('scores.csv', 'summary.json') + ('curves.png',) * draws)
    missing = '' if draws else " (curves.png needs pip install 'timm-abn[plot]')"
    print(f'\nWritten to: {files}{missing}')
    return 0


def _evaluate(args: argparse.Namespace, model: 'nn.Module') -> 'Evaluation | None':
    """Return the evaluation of the model, joined with that of the reference; None in processes other than the first."""
    from timm_abn.explain.evaluation import join_evaluations
    from timm_abn.explain.evaluation.results import write_evaluation
    from timm_abn.explain.methods import applicable_explainers, create_explainers
    from timm_abn.explain.methods.floors import FLOORS

    layer = args.layer  # of this model: a reference may have others
    found = {} if args.methods else applicable_explainers(CHOSEN, model, layer)
    methods = found or create_explainers(args.methods or CHOSEN, model, layer)
    has_reference = args.reference or args.reference_checkpoint
    reference = _load_reference(args, model) if has_reference else None  # errors come before long work
    evaluation = _evaluate_model(args, model, methods, args.out)
    if evaluation is not None and not evaluation.rows:
        raise CommandError(f'no image can be scored: {next(iter(evaluation.problems), "there are none")}')
    if reference is None:
        return evaluation
    others = applicable_explainers([name for name in methods if name not in FLOORS], reference)
    others = others or create_explainers(['grad_cam'], reference)
    other = _evaluate_model(args, reference, others, args.out / 'reference')
    if evaluation is None or other is None:
        return None
    joined = join_evaluations(evaluation, args.reference or str(args.reference_checkpoint), other)
    write_evaluation(args.out, joined)
    return joined


def _evaluate_model(
    args: argparse.Namespace, model: 'nn.Module', methods: Mapping[str, 'Explainer'], folder: Path
) -> 'Evaluation | None':
    from timm_abn.data.samples import load_samples
    from timm_abn.explain.evaluation import evaluate

    data = given_data(args)
    samples = load_samples(model, masks=args.masks, **data)
    said = ', '.join(
        f'{name}={value}' for name, value in (*data.items(), ('masks', args.masks), ('label_names', args.label_names))
    )
    options = args.steps, args.baseline, args.patch_size, args.batch_size, args.seed
    return evaluate(model, samples, methods, folder, *options, said, args.grid)


def _load_reference(args: argparse.Namespace, model: Any) -> 'nn.Module':
    from timm_abn.data.class_names import name_classes
    from timm_abn.models.loading import load_any_model

    given = {} if args.reference_checkpoint is None else dict(num_classes=model.num_classes)
    reference: Any = load_any_model(args.reference, args.reference_checkpoint, **given)
    if reference.num_classes != model.num_classes:
        raise CommandError(
            f'--reference {args.reference or args.reference_checkpoint} has {reference.num_classes} classes, '
            f'{model_title(args)} has {model.num_classes}'
        )
    name_classes(reference, args.label_names)
    return reference.to(next(model.parameters()).device)
