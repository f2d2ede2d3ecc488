"""Train ResNet-20, and ABN-ResNet-20 with each mechanism, on Fashion-MNIST; print mean and deviation of several seeds.

Example:
    python scripts/compare_fashion_mnist.py --data-dir data --out outputs/comparison

Every run is timm's train.py under our launcher, with the recipe ``fashion_mnist``. Accuracies are those after
the last epoch, on the 10,000 test images: no epoch is picked by its test accuracy. Stopped and started again, it goes
on with the runs that have not ended.
"""

import argparse
import csv
import dataclasses
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A model that takes part, and how it is trained."""

    title: str
    model: str
    flags: list[str]
    recipe: str = 'fashion_mnist'


CONTESTANTS = (
    Contestant('ResNet-20', 'resnet20_cifar', []),
    Contestant('ABN-ResNet-20, product', 'abn_resnet20_cifar', ['--model-kwargs', 'mechanism=product']),
    Contestant('ABN-ResNet-20, residual', 'abn_resnet20_cifar', ['--model-kwargs', 'mechanism=residual']),
)


def main() -> int:
    """Run what is missing, and print the table; returns the exit code."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.time()
    if not train_all(args, CONTESTANTS):
        return 1
    table = table_of(args)
    command = f'make comparison, {args.epochs} epochs, seeds {", ".join(map(str, args.seeds))}'
    (args.out / 'table.md').write_text(table)
    print(f'{table}\n{command}; {(time.time() - start) / 60:.0f} minutes. Written to {args.out / "table.md"}.')
    return 0


def train_all(args: argparse.Namespace, contestants: Sequence[Contestant]) -> bool:
    """Train whatever has not been trained, several at a time; returns whether all went well."""
    waiting = [(contestant, seed) for seed in args.seeds for contestant in contestants]
    waiting = [(contestant, seed) for contestant, seed in waiting if not last_row(args, contestant, seed)]
    running: dict[subprocess.Popen, str] = {}
    failed = False
    while running or (waiting and not failed):
        while waiting and len(running) < args.jobs and not failed:
            contestant, seed = waiting.pop(0)
            name = experiment(contestant, seed)
            print(f'{name} begins, {len(waiting)} wait', flush=True)
            running[begin(args, contestant, seed)] = name
        for process in [process for process in running if process.poll() is not None]:
            name = running.pop(process)
            if process.returncode:
                failed = True
                print(f'{name} failed; see {args.out / name}.log', file=sys.stderr)
        time.sleep(0.2)
    return not failed


def begin(args: argparse.Namespace, contestant: Contestant, seed: int) -> subprocess.Popen:
    """Start a training run."""
    name = experiment(contestant, seed)
    command = [
        sys.executable,
        str(ROOT / 'train_wrappers' / 'train.py'),
        '--recipe',
        contestant.recipe,
        '--model',
        contestant.model,
        *contestant.flags,
        '--data-dir',
        str(args.data_dir),
        '--epochs',
        str(args.epochs),
        '--val-interval',
        str(args.epochs),
        '--seed',
        str(seed),
        '--output',
        str(args.out),
        '--experiment',
        name,
        '--workers',
        '0',
    ]
    if args.timm_scripts:
        command += ['--timm-scripts', args.timm_scripts]
    # one thread each: two runs side by side use two cores better than one run with two threads
    with open(args.out / f'{name}.log', 'w') as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ, OMP_NUM_THREADS='1'))


def experiment(contestant: Contestant, seed: int) -> str:
    words = re.sub('[^a-z0-9]+', '-', contestant.title.lower()).strip('-')
    return f'{words}-seed{seed}'


def last_row(args: argparse.Namespace, contestant: Contestant, seed: int) -> dict[str, str] | None:
    """Return the metrics after the last epoch, if the run has come to it."""
    path = args.out / experiment(contestant, seed) / 'summary.csv'
    rows = list(csv.DictReader(path.open())) if path.is_file() else []
    return rows[-1] if rows and rows[-1]['epoch'] == str(args.epochs - 1) else None


def table_of(args: argparse.Namespace) -> str:
    """Return the table of accuracies as Markdown."""
    lines = ['| model | test accuracy | of the attention branch | each seed |', '|---|---|---|---|']
    for contestant in CONTESTANTS:
        rows = [last_row(args, contestant, seed) or {} for seed in args.seeds]
        perception = [float(row['eval_top1']) for row in rows]
        attention = [float(row['eval_attention_top1']) for row in rows if 'eval_attention_top1' in row]
        each = ', '.join(f'{accuracy:.2f}' for accuracy in perception)
        lines.append(f'| {contestant.title} | {spread(perception)} | {spread(attention)} | {each} |')
    return '\n'.join(lines) + '\n'


def spread(accuracies: list[float]) -> str:
    if not accuracies:
        return ''
    deviation = f' ± {statistics.stdev(accuracies):.2f}' if len(accuracies) > 1 else ''
    return f'{statistics.mean(accuracies):.2f}{deviation} %'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, 'outputs/comparison')
    return parser.parse_args()


def add_training_arguments(parser: argparse.ArgumentParser, out: str, data_dir: str = 'data', epochs: int = 4) -> None:
    """Add what says where and how contestants are trained."""
    parser.add_argument('--data-dir', type=Path, default=Path(data_dir), help='default: %(default)s')
    parser.add_argument('--out', type=Path, default=Path(out), help='default: %(default)s')
    parser.add_argument('--epochs', type=int, default=epochs, help='default: %(default)s')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time (default: %(default)s)')
    parser.add_argument('--timm-scripts', metavar='DIR', help='as of timm-abn-train (default: $TIMM_SCRIPTS)')


if __name__ == '__main__':
    sys.exit(main())
