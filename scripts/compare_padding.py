"""Train ABN-ResNet-20 on Fashion-MNIST with zeros, and with replicated borders, around what its maps come from.

Example:
    python scripts/compare_padding.py --data-dir data --out outputs/padding

Written down before any run: from scratch, seeds 0, 1, 2, the first 12,800 training images once, mirrored at random, in
200 batches of 64; SGD with Nesterov momentum, learning rate 0.1 that falls to 0 as a cosine, weight decay 5e-4; the
loss of the paper. A run takes less than a minute of one core.

Mean and deviation of the seeds: accuracy on all 10,000 test images; of the first 1,000 of them, how much of the
maps' variance is the same in all (``timm_abn.explain.metrics.position_bias``); the deviation over places of the
maps of constant images, as ``scripts/explain_position_bias.py`` measures it; and what ``explain()`` takes, by the time
of the process. One JSON file per run; started again, it goes on with the runs that are missing. Written is
``table.md``.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from explain_position_bias import LEVELS
from torchvision.datasets import FashionMNIST

import timm_abn  # noqa: F401  registers the models
from timm_abn.errors import one_line
from timm_abn.explain.metrics import position_bias
from timm_abn.networks.choices import PADDING_MODES
from timm_abn.publish.markdown import markdown_table
from timm_abn.staging import staged_files
from timm_abn.task import AttentionBranchLoss
from timm_abn_cli.table import format_table

MODEL = 'abn_resnet20_cifar'
MEAN, STD = 0.2860, 0.3530
TRAINING_IMAGES, IMAGES_WITH_MAPS = 12_800, 1000
BATCH_SIZE, EVALUATION_BATCH_SIZE = 64, 250
ROUNDS = 5

Data = tuple[torch.Tensor, torch.Tensor]  # images and classes


def main() -> int:
    """Train and score what is missing, print the table and write it; returns the exit code."""
    args = parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        train, test = (read_images(args.data_dir, is_train) for is_train in (True, False))
    except Exception as error:  # on damaged files torchvision raises errors of several types
        print(f'{Path(__file__).name}: error: Fashion-MNIST in {args.data_dir}: {one_line(error)}', file=sys.stderr)
        return 2
    runs: dict[str, list[dict[str, float]]] = {padding: [] for padding in PADDING_MODES}
    for seed in args.seeds:
        for padding in PADDING_MODES:
            path = args.out / f'{padding}-{seed}.json'
            if not path.is_file():
                scores = measure(train_network(padding, seed, train), test)
                with staged_files(args.out) as folder:
                    (folder / path.name).write_text(json.dumps(scores, indent=1) + '\n')
            runs[padding].append(json.loads(path.read_text()))
            print(path.stem, runs[padding][-1], flush=True)
    header = ['padding', 'test accuracy, %', 'position bias', 'deviation over places, constant images']
    header.append('ms of explain() an image')
    rows = [[padding, *map(spread, zip(*(run.values() for run in found)))] for padding, found in runs.items()]
    print(format_table(header, rows))
    with staged_files(args.out) as folder:
        (folder / 'table.md').write_text(f'{markdown_table(header, rows)}\n', encoding='utf-8')
    print(f'\nWritten to: {args.out / "table.md"}')
    return 0


def read_images(data_dir: Path, is_train: bool) -> Data:
    """Return normalised images (N, 1, 28, 28), and their classes."""
    dataset = FashionMNIST(str(data_dir), train=is_train)
    return ((dataset.data.float() / 255 - MEAN) / STD).unsqueeze(1), dataset.targets


def train_network(padding_mode: str, seed: int, data: Data) -> Any:
    """Return a network that is trained from scratch."""
    torch.manual_seed(seed)
    model: Any = timm.create_model(MODEL, num_classes=10, in_chans=1, padding_mode=padding_mode)
    model.to(memory_format=torch.channels_last).train()
    criterion = AttentionBranchLoss(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = TRAINING_IMAGES // BATCH_SIZE
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)  # of its own: the same for both
    batches = torch.randperm(TRAINING_IMAGES, generator=order)[: steps * BATCH_SIZE].view(steps, BATCH_SIZE)
    for chosen in batches:
        images, targets = data[0][chosen], data[1][chosen]
        mirrored = torch.rand(BATCH_SIZE, 1, 1, 1, generator=order) < 0.5
        images = torch.where(mirrored, images.flip(3), images).contiguous(memory_format=torch.channels_last)
        loss = criterion(model(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
    return model.eval()


@torch.no_grad()
def measure(model: Any, data: Data) -> dict[str, float]:
    """Return the scores of a network, in the order of the table."""
    images, targets = data
    logits = torch.cat([model(batch) for batch in images.split(EVALUATION_BATCH_SIZE)])
    batches = images[:IMAGES_WITH_MAPS].split(EVALUATION_BATCH_SIZE)
    maps = torch.cat([model.explain(batch).attention_map for batch in batches])
    constant = torch.tensor(LEVELS)[:, None, None, None].expand(-1, *images.shape[1:]).contiguous()
    return dict(
        accuracy=100 * logits.argmax(dim=1).eq(targets).double().mean().item(),
        bias=position_bias(maps),
        deviation=model.explain(constant).attention_map.std(dim=(1, 2, 3)).mean().item(),
        milliseconds=min(milliseconds(model, batches[0]) for _ in range(ROUNDS)),
    )


def milliseconds(model: Any, images: torch.Tensor) -> float:
    """Return what the explanation of an image takes."""
    start = time.process_time()
    model.explain(images)
    return 1000 * (time.process_time() - start) / len(images)


def spread(values: tuple[float, ...]) -> str:
    """Return mean and deviation in four digits."""
    deviation = f' ± {statistics.stdev(values):.2g}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.4g}{deviation}'


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, default=Path('data'), help='folder that holds FashionMNIST/raw')
    parser.add_argument('--out', type=Path, default=Path('outputs/padding'), help='default: %(default)s')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
