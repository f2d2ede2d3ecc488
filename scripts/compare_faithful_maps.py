"""Fine-tune the packaged ABN-ResNet-20 for faithful maps, and without; say what predictions and maps gain and lose.

Example:
    python scripts/compare_faithful_maps.py --data-dir data --out outputs/faithful

Every run is timm's train.py under our launcher: the recipe ``fashion_mnist_faithful``, the control, which is the same
fine-tuning with the loss of the paper, and ResNet-20 without ABN, trained from scratch for as many epochs.
No epoch is picked. Stopped and started again, it goes on with the runs that have not ended.

Deletion and insertion are of ``--limit`` test images, ``deletion, black`` with black pixels, which no training saw;
Grad-CAM of an ABN is taken where its map gates. Accuracies, and what they lose with the map of another image, or the
mean of each map everywhere, are of all 10,000 test images. Means are over all images and seeds; intervals come from
drawing images, each with all of its seeds. Seeds agree by the IoU of the highest 30 % of their maps (two random maps:
0.18). Written are ``table.md`` and ``scores.json``.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from compare_fashion_mnist import Contestant, add_training_arguments, experiment, train_all
from huggingface_hub.utils import tqdm

import timm_abn
from timm_abn.errors import TimmAbnError
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import deletion, insertion, replacement_effects, top_overlap
from timm_abn.explain.statistics import Interval, bootstrap_mean
from timm_abn.models.loading import load_classifier
from timm_abn.networks.network import AttentionBranchNet
from timm_abn.publish.markdown import markdown_table
from timm_abn.staging import staged_files
from timm_abn_cli.argument_types import positive
from timm_abn_cli.table import format_table

PACKAGED = 'abn_resnet20_cifar.fashion_mnist'
FAITHFUL = 'fashion_mnist_faithful'
BACKBONE = Contestant('ResNet-20', 'resnet20_cifar', [])
CONTESTANTS = (
    Contestant('ABN, hard and faithful', PACKAGED, [], FAITHFUL),
    Contestant(
        'ABN, loss of the paper',
        PACKAGED,
        ['--pretrained', '--lr', '0.05', '--batch-size', '64', '--warmup-epochs', '0'],
    ),
    BACKBONE,
)
METHODS = ('attention', 'class_map', 'grad_cam')
MAP_METRICS = ('deletion', 'deletion, black', 'insertion')
AGREEMENT, SHARE = 'agreement of seeds', 0.3  # the share that hard attention keeps
BATCH_SIZE = 250

Row = dict[str, Any]  # contestant, seed, image, method (empty of predictions), metric, value
Key = tuple[str, str, str]  # contestant, method, metric
Table = tuple[list[str], list[list[str]]]


def main() -> int:
    """Train what is missing, score, print the tables and write them; returns the exit code."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not train_all(args, CONTESTANTS):
        return 1
    try:
        rows = [row for seed in args.seeds for contestant in CONTESTANTS for row in score(contestant, seed, args)]
        rows += [row for contestant in CONTESTANTS for row in agreement(contestant, args)]
    except TimmAbnError as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    scores = summarise(rows)
    tables = [prediction_table(scores, rows), map_table(scores)]
    print('\n\n'.join(format_table(*table) for table in tables))
    with staged_files(args.out) as folder:
        text = '\n\n'.join(markdown_table(*table) for table in tables)
        (folder / 'table.md').write_text(f'{text}\n', encoding='utf-8')
        named = {' / '.join(key): interval._asdict() for key, interval in scores.items()}
        settings = {name: str(value) for name, value in vars(args).items()}
        (folder / 'scores.json').write_text(json.dumps(dict(settings=settings, scores=named), indent=1) + '\n')
    print(f'\nWritten to: {args.out / "table.md"}, {args.out / "scores.json"}')
    return 0


def score(contestant: Contestant, seed: int, args: argparse.Namespace) -> list[Row]:
    """Return the scores of a run, image by image; those of a run with the same settings come from its file."""
    name = experiment(contestant, seed)
    path = args.out / name / f'scores-{args.limit}-{args.steps}.json'
    if not path.is_file():
        model = load(contestant, seed, args)
        images, labels = read_test_images(model, args.data_dir)
        methods = METHODS if isinstance(model, AttentionBranchNet) else ('grad_cam',)
        rows = score_predictions(model, images, labels) + score_maps(model, some_of(images, args), args, methods)
        with staged_files(path.parent) as folder:
            (folder / path.name).write_text(json.dumps(rows))
    return [dict(row, contestant=contestant.title, seed=seed) for row in json.loads(path.read_text())]


def load(contestant: Contestant, seed: int, args: argparse.Namespace) -> Any:
    """Return the network that a run has trained."""
    checkpoint = args.out / experiment(contestant, seed) / 'last.pth.tar'
    return load_classifier(contestant.model.split('.')[0], checkpoint=checkpoint)


def some_of(images: torch.Tensor, args: argparse.Namespace) -> torch.Tensor:
    """Return the images whose maps are scored."""
    return images[:: max(len(images) // args.limit, 1)]


def agreement(contestant: Contestant, args: argparse.Namespace) -> list[Row]:
    """Return how far the maps of each two seeds agree, image by image: IoU of their highest 30 %."""
    models = [load(contestant, seed, args) for seed in args.seeds]
    if not isinstance(models[0], AttentionBranchNet):
        return []
    images = some_of(read_test_images(models[0], args.data_dir)[0], args)
    with torch.no_grad():
        maps = [model.explain(images).attention_map for model in models]
    pairs = itertools.combinations(zip(args.seeds, maps), 2)
    return [
        dict(row, contestant=contestant.title, seed=seeds)
        for (seed, first), (other_seed, second) in pairs
        for seeds in [f'{seed} and {other_seed}']
        for row in rows_of('attention', {AGREEMENT: top_overlap(first, second, SHARE).tolist()})
    ]


def read_test_images(model: Any, data_dir: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all test images, normalised for the model, with their classes."""
    samples = list(timm_abn.load_samples(model, data_dir, 'torch/fashion_mnist', 'test'))
    labels = [-1 if sample.label is None else sample.label for sample in samples]
    return torch.stack([sample.image for sample in samples]), torch.tensor(labels)


def score_predictions(model: Any, images: torch.Tensor, labels: torch.Tensor) -> list[Row]:
    """Return whether predictions are right, and what that changes by with other maps."""
    changes: dict[str, list[float]] = {}
    for first in tqdm(range(0, len(images), BATCH_SIZE), desc='predictions'):
        batch, target = images[first : first + BATCH_SIZE], labels[first : first + BATCH_SIZE]
        if isinstance(model, AttentionBranchNet):
            effects, right = replacement_effects(model, batch, target, BATCH_SIZE)
            found = {f'accuracy, {name}': effects[name].accuracy_change for name in ('other', 'mean')}
            found['effect, other'] = effects['other'].effect
        else:
            with torch.no_grad():
                found, right = {}, model(batch).argmax(dim=1).eq(target)
        for metric, values in dict(found, accuracy=right).items():
            changes.setdefault(metric, []).extend(values.double().tolist())
    return rows_of('', changes)


def score_maps(model: Any, images: torch.Tensor, args: argparse.Namespace, methods: Sequence[str]) -> list[Row]:
    """Return deletion and insertion of the maps of each method."""
    rows = []
    for method in methods:
        explainer = create_explainer(method, model)
        found: dict[str, list[float]] = {metric: [] for metric in MAP_METRICS}
        for batch in tqdm(images.split(BATCH_SIZE), desc=method):
            walk = model, batch, explainer(batch)
            options = dict(steps=args.steps, batch_size=BATCH_SIZE)
            found['deletion'] += deletion(*walk, baseline='mean', **options).tolist()
            found['deletion, black'] += deletion(*walk, baseline='black', **options).tolist()
            found['insertion'] += insertion(*walk, baseline='blur', **options).tolist()
        rows += rows_of(method, found)
    return rows


def rows_of(method: str, scores: dict[str, list[float]]) -> list[Row]:
    return [
        dict(image=image, method=method, metric=metric, value=value)
        for metric, values in scores.items()
        for image, value in enumerate(values)
    ]


def summarise(rows: list[Row]) -> dict[Key, Interval]:
    """Return the mean of all images and seeds, by contestant, method and metric."""
    values: dict[Key, list[tuple[int, float]]] = {}
    for row in rows:
        key = row['contestant'], row['method'], row['metric']
        values.setdefault(key, []).append((row['image'], row['value']))
    return {
        key: bootstrap_mean([value for _, value in found], groups=[image for image, _ in found])
        for key, found in tqdm(values.items(), desc='intervals')
    }


def prediction_table(scores: dict[Key, Interval], rows: list[Row]) -> Table:
    """Return header and rows of the table of accuracies."""
    header = ['model', 'accuracy', 'each seed', "with another image's map", 'with the mean of the map']
    lines = []
    for contestant in CONTESTANTS:
        title = contestant.title
        right: dict[int, list[float]] = {}
        for row in rows:
            if row['contestant'] == title and row['metric'] == 'accuracy':
                right.setdefault(row['seed'], []).append(row['value'])
        each = ', '.join(f'{sum(values) / len(values):.4f}' for values in right.values())
        changes = [scores.get((title, '', f'accuracy, {name}')) for name in ('other', 'mean')]
        texts = ['' if change is None else str(change) for change in changes]
        lines.append([title, str(scores[title, '', 'accuracy']), each, *texts])
    return header, lines


def map_table(scores: dict[Key, Interval]) -> Table:
    """Return header and rows of the table of maps."""
    lines = [
        [
            contestant.title,
            method,
            *(str(scores[contestant.title, method, metric]) for metric in MAP_METRICS),
            str(scores.get((contestant.title, method, AGREEMENT), '')),
        ]
        for contestant in CONTESTANTS
        for method in METHODS
        if (contestant.title, method, 'deletion') in scores
    ]
    names = ['deletion to the mean (low)', 'deletion to black (low)', 'insertion (high)', AGREEMENT]
    return ['model', 'map', *names], lines


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, 'outputs/faithful')
    parser.add_argument('--limit', type=positive, default=500, help='images with maps (default: %(default)s)')
    parser.add_argument('--steps', type=positive, default=28, help='of deletion and insertion (default: %(default)s)')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
