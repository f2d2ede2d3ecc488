"""Compare the time of an explanation, and of a training step, with that of the authors' own network.

Example:
    git clone https://github.com/machine-perception-robotics-group/attention_branch_network
    OMP_NUM_THREADS=1 python scripts/benchmark_authors.py attention_branch_network --depth 50

Both run in turn on the same images; the ratios are medians of the rounds.
"""

import argparse
import importlib.util
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F

import timm_abn  # noqa: F401  registers the models
from timm_abn.benchmark.machine import timed

CPU = torch.device('cpu')


def main() -> None:
    """Print a line for explanations, and one for training steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('authors', type=Path, help="folder of the authors' repository")
    parser.add_argument('--depth', type=int, choices=(18, 34, 50, 101, 152), default=50, help='default: %(default)s')
    parser.add_argument('--batch-size', type=int, default=4, help='default: %(default)s')
    parser.add_argument('--rounds', type=int, default=7, help='default: %(default)s')
    args = parser.parse_args()
    ours: Any = timm.create_model(f'abn_resnet{args.depth}')
    theirs = authors_network(args.authors, args.depth)
    images = torch.randn(args.batch_size, 3, 224, 224)
    target = torch.zeros(args.batch_size, dtype=torch.long)
    with torch.inference_mode():
        runs = {'authors': lambda: theirs.eval()(images), 'ours': lambda: ours.eval().explain(images)}
        report('explanation', in_turn(runs, args.rounds))
    runs = {name: training_step(model, images, target) for name, model in (('authors', theirs), ('ours', ours))}
    report('training step', in_turn(runs, args.rounds))


def authors_network(folder: Path, depth: int) -> Any:
    """Return the authors' network for ImageNet, from their file.

    Args:
        folder: Their repository.
        depth: Layers of the ResNet.
    """
    spec: Any = importlib.util.spec_from_file_location('authors_resnet', folder / 'models' / 'imagenet' / 'resnet.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, f'resnet{depth}')()


def training_step(model: Any, images: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
    """Return a step of plain SGD with the losses of both branches, which both networks return first."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        first, second = model(images)[:2]
        optimizer.zero_grad()
        (F.cross_entropy(first, target) + F.cross_entropy(second, target)).backward()
        optimizer.step()

    model.train()
    return step


def in_turn(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each run in each round, after one that prepares."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            seconds[name].append(timed(run, CPU))
    return {name: values[1:] for name, values in seconds.items()}


def report(what: str, seconds: dict[str, list[float]]) -> None:
    theirs, ours = (statistics.median(seconds[name]) for name in ('authors', 'ours'))
    ratio = statistics.median(b / a for a, b in zip(seconds['authors'], seconds['ours']))
    print(f'{what}: authors {theirs:.3f} s, ours {ours:.3f} s, ratio {ratio:.2f}', flush=True)


if __name__ == '__main__':
    main()
