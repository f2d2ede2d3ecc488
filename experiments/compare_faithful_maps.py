"""Fine-tune the packaged ABN-ResNet-20 for faithful maps, and without; say what predictions and maps gain and lose.

Example:
    python experiments/compare_faithful_maps.py --data-dir data --out outputs/faithful
    python experiments/compare_faithful_maps.py --out outputs/faithful_amp -- --amp --amp-dtype bfloat16

Every run is timm's train.py under our launcher, with the flags behind --: the recipe ``fashion_mnist_faithful``, the
control, which is the same fine-tuning with the loss of the paper, and ResNet-20 without ABN, as many epochs from
scratch. Stopped and started again, it goes on with the runs that have not ended.

Maps of the faithful networks and of ResNet-20 are scored on ``--limit`` test images (``scoring.py``); Grad-CAM is that
of the last stage. Accuracies, and what they lose with the map of another image, or the mean of each map everywhere, are
of all 10,000 test images. Means are over all images and seeds; intervals come from drawing images, each with all of its
seeds.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import tqdm
from results import Cells, Row, as_rows, interval, means, once, run, where, write
from scoring import FILLS, STEPS, chart_of, claim, make_maps, mean_of, score_maps, table_of
from trainings import Contestant, add_training_arguments, train_all

import timm_abn
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import predict, replacement_effects
from timm_abn.networks.network import AttentionBranchNet
from timm_abn_cli.argument_types import positive

PACKAGED = 'abn_resnet20_cifar.fashion_mnist'
AS_LONG = ('--pretrained', '--lr', '0.05', '--batch-size', '64', '--warmup-epochs', '0')
FAITHFUL = Contestant('ABN, hard and faithful', PACKAGED, recipe='fashion_mnist_faithful')
OF_PAPER = Contestant('ABN, loss of the paper', PACKAGED, AS_LONG)
PLAIN = Contestant('ResNet-20', 'resnet20_cifar')
CONTESTANTS = (FAITHFUL, OF_PAPER, PLAIN)
GRAD_CAM = 'Grad-CAM at the last stage'
MAPS: dict[Contestant, dict[str, tuple[str, dict[str, str]]]] = {
    FAITHFUL: {'class map': ('class_map', {}), 'attention map': ('attention', {})},
    PLAIN: {},
}
CHANGES = ('accuracy, other', 'accuracy, mean')
BATCH_SIZE = 250


def main(args: argparse.Namespace) -> None:
    """Train what is missing, score, and write the tables."""
    train_all(args, CONTESTANTS)
    rows = [row for seed in args.seeds for contestant in CONTESTANTS for row in score(contestant, seed, args)]
    write(args, result_of(rows, len(args.seeds), args.limit, args.flags), rows)


def result_of(rows: list[Row], seeds: int, limit: int, flags: Sequence[str]) -> dict[str, Any]:
    """Return the tables, chart and claims."""
    faithful, plain = where(rows, model=FAITHFUL.title), where(rows, model=PLAIN.title)
    class_map = where(faithful, map='class map')
    rivals = {
        'Grad-CAM of the same network': where(faithful, map=GRAD_CAM),
        'Grad-CAM of ResNet-20': where(plain, map=GRAD_CAM),
        'its mean map over other images of the class': where(faithful, map=mean_of('class map')),
    }
    return dict(
        title='Faithful networks on Fashion-MNIST',
        command='make faithful' + (f" FLAGS='{' '.join(flags)}'" if flags else ''),
        setup=f'ABN-ResNet-20, fine-tuned by the recipe `fashion_mnist_faithful`, and ResNet-20; {seeds} seeds. '
        f'Maps of {limit} test images; accuracies of all 10,000.',
        tables=[
            dict(table_of(faithful, rival=GRAD_CAM), title=f'Maps of {FAITHFUL.title}'),
            dict(table_of(plain), title='Maps of ResNet-20'),
            dict(prediction_table(rows), title='Accuracy, and what it changes by with other maps'),
        ],
        charts=[
            chart_of(faithful, 'Fashion-MNIST, faithful network'),
            chart_of(where(plain, map=GRAD_CAM), 'Fashion-MNIST, ResNet-20'),
        ],
        claims=[
            *(
                claim(f'Class maps of faithful networks are above {name}', class_map, own)
                for name, own in rivals.items()
            ),
            cost_of_another_map(faithful),
        ],
    )


def cost_of_another_map(faithful: list[Row]) -> dict[str, Any]:
    """Return the claim that a faithful network needs its map."""
    change = interval(faithful, CHANGES[0])
    words = "Another image's map costs faithful networks 5 points of accuracy"
    return dict(claim=words, differences={'accuracy': change}, holds=change.high <= -0.05)


def score(contestant: Contestant, seed: int, args: argparse.Namespace) -> list[Row]:
    """Return the scores of a run, image by image."""

    def make() -> list[Row]:
        model = contestant.load(args, seed)
        images, labels = read_test_images(model, args.data_dir)
        rows = score_predictions(model, images, labels)
        if contestant in MAPS:
            few = images[:: max(len(images) // args.limit, 1)]
            methods = MAPS[contestant] | {GRAD_CAM: ('grad_cam', dict(layer='layer3'))}
            explainers = {name: create_explainer(method, model, **kwargs) for name, (method, kwargs) in methods.items()}
            classes = predict(model, few, BATCH_SIZE).argmax(dim=1)
            rows += score_maps(
                model, few, make_maps(explainers, model, few, classes, BATCH_SIZE), classes, args.steps, BATCH_SIZE
            )
        return rows

    folder = contestant.folder(args, seed)
    weights = hashlib.sha256((folder / 'last.pth.tar').read_bytes()).hexdigest()
    path = args.out / f'{folder.name}.scores.json'
    rows = once(path, dict(limit=args.limit, steps=args.steps, fills=FILLS, weights=weights), make)
    return [dict(row, model=contestant.title, seed=seed) for row in rows]


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
        else:
            with torch.no_grad():
                right = model(batch).argmax(dim=1).eq(target)
        for metric, values in dict(found, accuracy=right).items():
            scores.setdefault(metric, []).extend(values.double().tolist())
    return as_rows(scores)


def prediction_table(rows: list[Row]) -> dict[str, Any]:
    """Return the table of accuracies."""
    lines: list[Cells] = []
    for contestant in CONTESTANTS:
        own = [row for row in where(rows, model=contestant.title) if 'accuracy' in row]
        each = ', '.join(f'{value:.4f}' for value in means(own, 'accuracy', of='seed').values())
        changes = [interval(own, name) if name in own[0] else None for name in CHANGES]
        lines.append([contestant.title, interval(own, 'accuracy'), each, *changes])
    return dict(columns=['network', 'accuracy', 'each seed', "with another image's map", 'with its mean'], rows=lines)


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, 'outputs/faithful')
    parser.add_argument('--limit', type=positive, default=500, help='images with maps (default: %(default)s)')
    parser.add_argument('--steps', type=positive, default=STEPS, help='of the scores (default: %(default)s)')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
