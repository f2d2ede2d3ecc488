"""Fine-tune the packaged ABN-ResNet-20 for faithful maps, and without; say what predictions and maps gain and lose.

Example:
    python experiments/compare_faithful_maps.py --data-dir data --out outputs/faithful

Every run is timm's train.py under our launcher: the recipe ``fashion_mnist_faithful``, the control, which is the same
fine-tuning with the loss of the paper, and ResNet-20 without ABN, trained from scratch for as many epochs.
Stopped and started again, it goes on with the runs that have not ended.

Deletion and insertion are of ``--limit`` test images, ``deletion, black`` with black pixels, which no training saw;
Grad-CAM is taken at the last stage. Accuracies, and what they lose with the map of another image, or the
mean of each map everywhere, are of all 10,000 test images. Means are over all images and seeds; intervals come from
drawing images, each with all of its seeds. Seeds agree by the IoU of the highest 30 % of their maps (two random maps:
0.18).
"""

import argparse
import hashlib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import tqdm
from results import Row, Table, as_rows, interval, means, once, run, where, write
from trainings import Contestant, add_training_arguments, train_all

import timm_abn
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import deletion, insertion, replacement_effects, top_overlap
from timm_abn.networks.network import AttentionBranchNet
from timm_abn_cli.argument_types import positive

PACKAGED = 'abn_resnet20_cifar.fashion_mnist'
AS_LONG = ('--pretrained', '--lr', '0.05', '--batch-size', '64', '--warmup-epochs', '0')
CONTESTANTS = (
    Contestant('ABN, hard and faithful', PACKAGED, recipe='fashion_mnist_faithful'),
    Contestant('ABN, loss of the paper', PACKAGED, AS_LONG),
    Contestant('ResNet-20', 'resnet20_cifar'),
)
METHODS = ('attention', 'class_map', 'grad_cam')
PREDICTIONS = ''  # in the place of a method
AGREEMENT, SHARE = 'agreement of seeds', 0.3  # the share that hard attention keeps
BATCH_SIZE = 250


def main(args: argparse.Namespace) -> None:
    """Train what is missing, score, and write the tables."""
    train_all(args, CONTESTANTS)
    rows = [row for seed in args.seeds for contestant in CONTESTANTS for row in score(contestant, seed, args)]
    rows += [row for contestant in CONTESTANTS[:2] for row in agreement(contestant, args)]
    write(args, [prediction_table(rows), map_table(rows)], rows)


def score(contestant: Contestant, seed: int, args: argparse.Namespace) -> list[Row]:
    """Return the scores of a run, image by image."""

    def make() -> list[Row]:
        model = contestant.load(args, seed)
        images, labels = read_test_images(model, args.data_dir)
        methods = METHODS if isinstance(model, AttentionBranchNet) else METHODS[2:]
        return score_predictions(model, images, labels) + score_maps(model, some_of(images, args), methods, args.steps)

    folder = contestant.folder(args, seed)
    weights = hashlib.sha256((folder / 'last.pth.tar').read_bytes()).hexdigest()
    rows = once(folder / 'scores.json', dict(limit=args.limit, steps=args.steps, weights=weights), make)
    return [dict(row, model=contestant.title, seed=seed) for row in rows]


def some_of(images: torch.Tensor, args: argparse.Namespace) -> torch.Tensor:
    """Return the images whose maps are scored."""
    return images[:: max(len(images) // args.limit, 1)]


def agreement(contestant: Contestant, args: argparse.Namespace) -> list[Row]:
    """Return how far the maps of each two seeds agree, image by image."""
    models = [contestant.load(args, seed) for seed in args.seeds]
    images = some_of(read_test_images(models[0], args.data_dir)[0], args)
    with torch.no_grad():
        maps = [model.explain(images).attention_map for model in models]
    return [
        row
        for (seed, first), (other, second) in itertools.combinations(zip(args.seeds, maps), 2)
        for row in as_rows(
            {AGREEMENT: top_overlap(first, second, SHARE).tolist()},
            model=contestant.title,
            seed=f'{seed} and {other}',
            method='attention',
        )
    ]


def read_test_images(model: Any, data_dir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all test images, normalised for the model, with their classes."""
    samples = list(timm_abn.load_samples(model, data_dir, 'torch/fashion_mnist', 'test'))
    labels = [-1 if sample.label is None else sample.label for sample in samples]
    return torch.stack([sample.image for sample in samples]), torch.tensor(labels)


def score_predictions(model: Any, images: torch.Tensor, labels: torch.Tensor) -> list[Row]:
    """Return whether predictions are right, and what that changes by with other maps."""
    scores: dict[str, list[float]] = {}
    for batch, target in zip(tqdm(images.split(BATCH_SIZE), desc='predictions'), labels.split(BATCH_SIZE)):
        found: dict[str, Any] = {}
        if isinstance(model, AttentionBranchNet):
            effects, right = replacement_effects(model, batch, target, BATCH_SIZE)
            found = {f'accuracy, {name}': effects[name].accuracy_change for name in ('other', 'mean')}
            found['effect, other'] = effects['other'].effect
        else:
            with torch.no_grad():
                right = model(batch).argmax(dim=1).eq(target)
        for metric, values in dict(found, accuracy=right).items():
            scores.setdefault(metric, []).extend(values.double().tolist())
    return as_rows(scores, method=PREDICTIONS)


def score_maps(model: Any, images: torch.Tensor, methods: Sequence[str], steps: int) -> list[Row]:
    """Return deletion and insertion of the maps of each method."""
    rows = []
    for method in methods:
        explainer = create_explainer(method, model)
        scores: dict[str, list[float]] = {'deletion': [], 'deletion, black': [], 'insertion': []}
        for batch in tqdm(images.split(BATCH_SIZE), desc=method):
            walk, options = (model, batch, explainer(batch)), dict(steps=steps, batch_size=BATCH_SIZE)
            scores['deletion'] += deletion(*walk, baseline='mean', **options).tolist()
            scores['deletion, black'] += deletion(*walk, baseline='black', **options).tolist()
            scores['insertion'] += insertion(*walk, baseline='blur', **options).tolist()
        rows += as_rows(scores, method=method)
    return rows


def prediction_table(rows: list[Row]) -> Table:
    """Return header and lines of the table of accuracies."""
    lines = []
    for contestant in CONTESTANTS:
        own = where(rows, model=contestant.title, method=PREDICTIONS)
        each = ', '.join(f'{value:.4f}' for value in means(own, 'accuracy', of='seed').values())
        changes = [
            '' if name not in own[0] else str(interval(own, name)) for name in ('accuracy, other', 'accuracy, mean')
        ]
        lines.append([contestant.title, str(interval(own, 'accuracy')), each, *changes])
    return ('model', 'accuracy', 'each seed', "with another image's map", 'with the mean of the map'), lines


def map_table(rows: list[Row]) -> Table:
    """Return header and lines of the table of maps."""
    titles = {
        'deletion to the mean (low)': 'deletion',
        'deletion to black (low)': 'deletion, black',
        'insertion (high)': 'insertion',
        AGREEMENT: AGREEMENT,
    }
    lines = []
    for contestant, method in itertools.product(CONTESTANTS, METHODS):
        if own := where(rows, model=contestant.title, method=method):
            found = [interval(own, metric) for metric in titles.values()]
            lines.append([contestant.title, method, *(str(score) if score.number else '' for score in found)])
    return ('model', 'map', *titles), lines


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, 'outputs/faithful')
    parser.add_argument('--limit', type=positive, default=500, help='images with maps (default: %(default)s)')
    parser.add_argument('--steps', type=positive, default=28, help='of deletion and insertion (default: %(default)s)')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
