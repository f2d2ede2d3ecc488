"""Train ABN-ResNet-20 on Fashion-MNIST with zeros, and with replicated borders, around what its maps come from.

Example:
    python scripts/compare_padding.py --data-dir data --out outputs/padding

Every run is timm's train.py under our launcher, from scratch, with the recipe ``fashion_mnist``, one epoch without
warm-up; no epoch is picked. Stopped and started again, it goes on with the runs that have not ended.

Printed, and written to ``table.md``, are mean and deviation of the seeds: accuracy on all 10,000 test images; of the
first ``--limit`` of them, how much of the variance of the maps is the same in all of them
(``timm_abn.explain.metrics.position_bias``); the deviation over places of the maps of constant images
(``scripts/explain_position_bias.py``); and what ``explain()`` takes, by the time of the process.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch
from compare_fashion_mnist import Contestant, add_training_arguments, experiment, last_row, spread, train_all
from explain_position_bias import spread as deviation_over_places

import timm_abn
from timm_abn.console.argument_types import positive
from timm_abn.console.table import format_table, markdown_table
from timm_abn.errors import TimmAbnError
from timm_abn.explain.metrics import position_bias
from timm_abn.staging import staged_files

CONTESTANTS = tuple(
    Contestant(padding, 'abn_resnet20_cifar', ['--model-kwargs', f'padding_mode={padding}', '--warmup-epochs', '0'])
    for padding in ('zeros', 'replicate')
)
BATCH_SIZE = 250
ROUNDS = 5


def main() -> int:
    """Train what is missing, print the table and write it; returns the exit code."""
    args = parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if not train_all(args, CONTESTANTS):
        return 1
    try:
        header, rows = table_of(args)
    except TimmAbnError as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    print(format_table(header, rows))
    with staged_files(args.out) as folder:
        (folder / 'table.md').write_text(f'{markdown_table(header, rows)}\n', encoding='utf-8')
    print(f'\nWritten to: {args.out / "table.md"}')
    return 0


def table_of(args: argparse.Namespace) -> Tuple[List[str], List[List[str]]]:
    """Return header and rows."""
    rows = []
    for contestant in CONTESTANTS:
        measured: Dict[str, List[float]] = {'bias': [], 'deviation': [], 'milliseconds': []}
        for seed in args.seeds:
            folder = args.out / experiment(contestant, seed)
            model: Any = timm_abn.load_model(contestant.model, checkpoint=folder / 'last.pth.tar')
            samples = timm_abn.load_samples(model, args.data_dir, 'torch/fashion_mnist', 'test', args.limit)
            images = torch.stack([read().image for read in samples])
            maps = torch.cat([model.explain(batch).attention_map for batch in images.split(BATCH_SIZE)])
            measured['bias'].append(position_bias(maps))
            measured['deviation'].append(deviation_over_places(model))
            measured['milliseconds'].append(milliseconds(model, images[:BATCH_SIZE]))
        accuracies = [float((last_row(args, contestant, seed) or {})['eval_top1']) for seed in args.seeds]
        figures = [plain_spread(measured['bias'], 3), plain_spread(measured['deviation'], 4)]
        rows.append([contestant.title, spread(accuracies), *figures, f'{min(measured["milliseconds"]):.2f}'])
    header = ['padding', 'test accuracy', 'position bias', 'deviation over places, constant images']
    return [*header, 'ms of explain() an image'], rows


def milliseconds(model: Any, images: torch.Tensor) -> float:
    """Return what the explanation of an image takes, the best of several rounds."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        model.explain(images)
        seconds.append(time.process_time() - start)
    return 1000 * min(seconds) / len(images)


def plain_spread(values: List[float], digits: int) -> str:
    """Return mean and deviation."""
    found = torch.tensor(values)
    deviation = f' ± {found.std():.{digits}f}' if len(values) > 1 else ''
    return f'{found.mean():.{digits}f}{deviation}'


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, 'outputs/padding')
    parser.set_defaults(epochs=1, jobs=1)
    parser.add_argument('--limit', type=positive, default=1000, help='images with maps (default: %(default)s)')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
