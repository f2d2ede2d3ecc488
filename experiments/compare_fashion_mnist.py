"""Train ResNet-20, and ABN-ResNet-20 with each mechanism, on Fashion-MNIST; print mean and deviation of several seeds.

Example:
    python experiments/compare_fashion_mnist.py --data-dir data --out outputs/comparison

Every run is timm's train.py under our launcher, with the recipe ``fashion_mnist``. Accuracies are those after the last
epoch, on the 10,000 test images. Stopped and started again, it goes on with the runs that have not ended.
"""

import argparse
import sys

from results import Cells, Row, run, spread, where, write
from trainings import Contestant, add_training_arguments, train_all

CONTESTANTS = (
    Contestant('ResNet-20', 'resnet20_cifar'),
    Contestant('ABN-ResNet-20, product', 'abn_resnet20_cifar', ('--model-kwargs', 'mechanism=product')),
    Contestant('ABN-ResNet-20, residual', 'abn_resnet20_cifar', ('--model-kwargs', 'mechanism=residual')),
)
SETUP = (
    'The recipe `fashion_mnist` on Fashion-MNIST, and the same without ABN; accuracy after the last epoch on the '
    '10,000 test images, mean and deviation of the seeds.'
)
PERCEPTION, ATTENTION = 'eval_top1', 'eval_attention_top1'  # as timm's summary.csv calls them


def main(args: argparse.Namespace) -> None:
    """Train what is missing, and write the table of accuracies."""
    train_all(args, CONTESTANTS)
    rows: list[Row] = []
    for contestant in CONTESTANTS:
        for seed in args.seeds:
            found = contestant.last_row(args, seed) or {}
            accuracies = {name: float(found[name]) for name in (PERCEPTION, ATTENTION) if name in found}
            rows.append(dict(model=contestant.title, seed=seed, **accuracies))
    lines: list[Cells] = []
    for contestant in CONTESTANTS:
        own = where(rows, model=contestant.title)
        each = [[row[name] for row in own if name in row] for name in (PERCEPTION, ATTENTION)]
        shown = [f'{spread(values, 2)} %' if values else '' for values in each]
        lines.append([contestant.title, *shown, ', '.join(f'{accuracy:.2f}' for accuracy in each[0])])
    table = dict(columns=['model', 'test accuracy', 'of the attention branch', 'each seed'], rows=lines)
    write(
        args, dict(title='ResNet-20 with and without ABN', setup=SETUP, command='make comparison', tables=[table]), rows
    )


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, 'outputs/comparison')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
