"""Draw the features of an ABN before and after attention by t-SNE, and say how well both separate the classes.

examples:
  timm-abn tsne --model abn_resnet20_cifar.fashion_mnist --data-dir data --dataset torch/fashion_mnist --split test \\
      --limit 2000 --out outputs/tsne
  timm-abn tsne --checkpoint output/train/abn/last.pth.tar --data-dir photos/

The features are those that the attention map is applied to, and what the perception branch receives, averaged over all
positions (paper, Fig. 6). OUT/tsne.png shows both, coloured by class; OUT/tsne.csv has a row per image: name, label, x
and y before and after.

In a t-SNE picture, neither the size of groups nor the distance between them has a meaning, and another --seed gives
another picture. So the command also prints numbers about the features themselves, with 95 % bootstrap intervals over
the images whose class is known: the silhouette (from -1 to 1), and how often the 5 nearest other images give the right
class. Thousands of images take minutes; --limit takes fewer.

Needs the extra plot: pip install 'timm-abn[plot]'

exit code: 0 on success, 1 if images cannot be read (the others are drawn), 2 if arguments are wrong.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .arguments import (
    add_computing_arguments,
    add_data_arguments,
    add_model_arguments,
    add_out_argument,
    choose_device,
    given_data,
    given_model_kwargs,
    model_title,
)
from .printing import visible
from .table import format_table

if TYPE_CHECKING:
    from timm_abn.explain.projection import AttendedFeatures, Separation

__all__ = ['add_arguments', 'run']

COLUMNS = ('image', 'label', 'x_before', 'y_before', 'x_after', 'y_after')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_out_argument(parser, 'outputs/tsne')
    add_computing_arguments(parser, batch_size=64)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from timm_abn.data.class_names import name_classes
    from timm_abn.data.samples import load_samples
    from timm_abn.explain.plot_packages import check_plot_packages
    from timm_abn.explain.projection import aligned, attended_features, check_attention, project, separation
    from timm_abn.explain.scatter_plots import draw_scatter_plots, write_figure
    from timm_abn.models.loading import load_classifier
    from timm_abn.staging import check_output_folder, staged_files, write_csv

    check_plot_packages('matplotlib', 'sklearn')
    check_output_folder(args.out)
    device = choose_device(args)
    model: Any = load_classifier(args.model, args.checkpoint, **given_model_kwargs(args)).to(device)
    check_attention(model)
    names = name_classes(model, args.label_names)
    features = attended_features(model, load_samples(model, **given_data(args)), args.batch_size)
    separations = separation(features, args.seed)
    before = project(features.before, args.seed)
    points = before, aligned(project(features.after, args.seed), before)
    title = f'{model_title(args)}, {args.dataset or args.data_dir}, {len(features.names)} images'
    figure = draw_scatter_plots(points, features.labels, names, separations, title)
    with staged_files(args.out) as staging:
        write_figure(figure, staging / 'tsne.png')
        labels = ['' if label is None else names[label] for label in features.labels]
        cells = [(image, label, *xy, *xy_after) for image, label, xy, xy_after in zip(features.names, labels, *points)]
        write_csv(staging / 'tsne.csv', [dict(zip(COLUMNS, row)) for row in cells], COLUMNS)
    print(_report(features, separations))
    print(f'\nWritten to: {args.out / "tsne.png"}, {args.out / "tsne.csv"}')
    for problem in features.problems:
        print(f'timm-abn: error: {visible(problem)}', file=sys.stderr)
    return 1 if features.problems else 0


def _report(features: 'AttendedFeatures', separations: Mapping[str, 'Separation']) -> str:
    labels = [label for label in features.labels if label is not None]
    known = f'{len(features.names)} images, {len(labels)} with a known class, {len(set(labels))} classes'
    if not separations:
        return f'{known}: too few to say how well features separate classes'
    rows: list[Sequence[str]] = [
        (name, str(value.before), str(value.after), str(value.difference)) for name, value in separations.items()
    ]
    return f'{known}\n\n{format_table(("", "before attention", "after attention", "difference"), rows)}'
