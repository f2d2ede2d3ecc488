"""Measure what the launcher and losses of maps add to a training step, and what the launcher adds to reading an image.

Example:
    python scripts/benchmark_training.py --model abn_resnet20_cifar --batch-size 64
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import timm
import timm.data
import timm.task
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset

import timm_abn  # noqa: F401  registers the models
from timm_abn.training.data.reproducible import SeededDataset
from timm_abn.training.map_settings import MapLossSettings
from timm_abn.training.task import extend_timm_tasks

MAP_LOSS = MapLossSettings(dict(masked=1.0, area=0.5, smoothness=0.0, consistency=0.0))


def main() -> None:
    """Print two lines for steps and one for images; medians of runs in turn: a drift of the machine hits both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='abn_resnet20_cifar', help='name of an ABN (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=64, help='default: %(default)s')
    parser.add_argument('--steps', type=int, default=60, help='of each kind (default: %(default)s)')
    args = parser.parse_args()

    by_hand, under_task = steps(args.model, args.batch_size)
    report('training step', 'by hand', 'under the task', in_turn(by_hand, under_task, args.steps), 1e3, 'ms')
    of_paper, faithful = steps(args.model, args.batch_size, map_loss=True)
    seconds = in_turn(of_paper, faithful, args.steps)
    report('training step', 'loss of the paper', 'and of masked images', seconds, 1e3, 'ms')
    plain, seeded = reads()
    report('reading an image', 'of timm', 'seeded', in_turn(plain, seeded, 3000), 1e6, 'us')


def steps(name: str, batch_size: int, map_loss: bool = False) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a step written by hand, and one of timm's task, perhaps with a loss of the map, of models of their own."""
    models = [timm.create_model(name).train() for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in models]
    images = torch.randn(batch_size, *models[0].pretrained_cfg['input_size'])
    target = torch.randint(0, models[0].num_classes, (batch_size,))
    images = images[:, :1].expand(-1, models[0].in_chans, -1, -1).contiguous()
    extend_timm_tasks(map_loss=MAP_LOSS if map_loss else None)
    task = timm.task.ClassificationTask(models[1], torch.nn.CrossEntropyLoss(), verbose=False)

    def by_hand() -> None:
        logits, attention_logits = models[0](images)
        loss = F.cross_entropy(logits, target) + F.cross_entropy(attention_logits, target)
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()

    def under_task() -> None:
        loss = task(images, target)['loss']
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()

    return by_hand, under_task


class Photos(Dataset):
    """A picture of 32x32 pixels, with the augmentation for CIFAR: little work, so that what is added shows."""

    def __init__(self) -> None:
        self.transform: Any = timm.data.create_transform(32, is_training=True, color_jitter=None, use_prefetcher=True)
        self.image = Image.new('RGB', (32, 32), (200, 30, 30))

    def __len__(self) -> int:
        return 50000

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.image), 0


def reads() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return how an image is read, as timm does and with a seed of its own."""
    plain = Photos()
    seeded = SeededDataset(plain, seed=42)
    return lambda: plain[7], lambda: seeded[7]


def in_turn(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> list[float]:
    """Return the median seconds of both, of processor time, which other work on the machine touches little."""
    times: list[list[float]] = [[], []]
    for repeat in range(repeats + 5):
        for index, call in enumerate((first, second)):
            start = time.process_time()
            call()
            if repeat >= 5:  # the first ones warm up
                times[index].append(time.process_time() - start)
    return [statistics.median(column) for column in times]


def report(what: str, first: str, second: str, seconds: list[float], unit: float, name: str) -> None:
    print(
        f'{what}: {first} {seconds[0] * unit:.2f} {name}, {second} {seconds[1] * unit:.2f} {name}, '
        f'{(seconds[1] / seconds[0] - 1) * 100:+.1f} %'
    )


if __name__ == '__main__':
    main()
