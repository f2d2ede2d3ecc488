"""Train a multi-task ABN, or its backbone without ABN, on scenes with several attributes.

Example:
    pip install '.[scenes]'
    python experiments/make_multi_attribute_set.py --data-dir data --download --out data/multi_attribute
    python experiments/train_multi_attribute.py --model abn --data-dir data/multi_attribute
    python experiments/train_multi_attribute.py --model baseline --data-dir data/multi_attribute

Both get the same scenes in the same order, the same steps and the same learning rates. The task and its evaluator are
those of timm for multi-label training; importing timm_abn.task teaches them both branches.

Printed, and written to ``metrics.json``: accuracy and average precision, mean of the attributes. ``score_scenes.py``
says where the maps lie.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from huggingface_hub.utils import tqdm
from results import run
from timm.optim import create_optimizer_v2
from timm.task import MultiLabelClassificationTask
from torch.utils.data import TensorDataset

import timm_abn.task  # noqa: F401  registers the models, and teaches timm's tasks the loss of ABNs
from timm_abn.data.celeba import CelebA
from timm_abn.errors import TimmAbnError
from timm_abn.staging import check_output_folder, staged_files
from timm_abn_cli.argument_types import positive, positive_number, whole, zero_or_more

BACKBONE = 'test_resnet'  # a tiny ResNet: the cut after layer1 gives maps of 16x16 for scenes of 64x64
ABN = dict(backbone=BACKBONE, split='layer1', multi_task=True, attention_map='raw', mechanism='product')
SIZE = 64
MEAN, STD = 0.45, 0.25


def main(args: argparse.Namespace) -> None:
    """Train, evaluate and write the results."""
    out = args.out / f'{args.model}-seed{args.seed}'
    check_output_folder(out)
    (scenes, attributes), (held_out, _), (test, _) = (load(args.data_dir, split) for split in ('train', 'val', 'test'))
    if args.batch_size > len(scenes):
        raise TimmAbnError(f'--batch-size {args.batch_size} is more than the {len(scenes)} training scenes')
    # in the words of timm's train.py
    setup: dict[str, Any] = dict(
        model='abn' if args.model == 'abn' else BACKBONE,
        model_kwargs=dict(ABN, task_chunk_size=len(attributes)) if args.model == 'abn' else {},
        num_classes=len(attributes),
        input_size=[3, SIZE, SIZE],
        mean=[MEAN] * 3,
        std=[STD] * 3,
        crop_pct=1.0,
    )
    torch.manual_seed(args.seed)
    model = timm.create_model(setup['model'], num_classes=len(attributes), **setup['model_kwargs'])
    model.to(memory_format=torch.channels_last)
    task = MultiLabelClassificationTask(model, verbose=False)
    start = time.process_time()
    fit(task, scenes, held_out, args.epochs, args.batch_size, args.lr, args.weight_decay, args.seed)
    minutes = (time.process_time() - start) / 60
    metrics = dict(evaluate(task, test), cpu_minutes=minutes)
    for name, value in metrics.items():
        print(f'{name:32} {value:.4f}')
    with staged_files(out) as folder:
        (folder / 'args.yaml').write_text(yaml.safe_dump(setup))
        (folder / 'metrics.json').write_text(json.dumps(metrics, indent=2) + '\n')
        # as timm's train.py leaves them, so that timm-abn explain knows what the model is, and what its images are like
        settings, epoch = argparse.Namespace(**setup), args.epochs - 1
        checkpoint = dict(arch=setup['model'], state_dict=model.state_dict(), args=settings, epoch=epoch)
        torch.save(checkpoint, folder / 'last.pth.tar')


def load(data_dir: Path, split: str) -> tuple[TensorDataset, list[str]]:
    """Return images (N, 3, 64, 64) of bytes with targets (N, T), and the names of the attributes."""
    dataset = CelebA(str(data_dir), split)
    images = [np.asarray(dataset[index][0]) for index in tqdm(range(len(dataset)), desc=f'reading {split}')]
    return TensorDataset(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), dataset.targets), dataset.attributes


def fit(
    task: Any,
    data: TensorDataset,
    held_out: TensorDataset,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
) -> None:
    """Train a task of timm: AdamW, one cycle, mirrored images; print the metrics of the held-out images."""
    optimizer = create_optimizer_v2(task, 'adamw', lr=lr, weight_decay=weight_decay)
    steps = len(data) // batch_size
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps, pct_start=0.2)
    order = torch.Generator().manual_seed(seed)  # of its own: the same for every model
    for epoch in range(epochs):
        task.train()
        batches = tqdm(batches_of(data, batch_size, order), desc=f'epoch {epoch + 1}/{epochs}', total=steps)
        for images, targets in batches:
            loss = task(images, targets)['loss']
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
            batches.set_postfix(loss=f'{loss.item():.3f}')
        metrics = evaluate(task, held_out)
        print(f'epoch {epoch + 1}, validation: ' + ', '.join(f'{k} {v:.2f}' for k, v in metrics.items()), flush=True)


def batches_of(data: TensorDataset, size: int, order: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches in an order that is drawn, half of the images mirrored."""
    for chosen in torch.randperm(len(data), generator=order).split(size):
        if len(chosen) == size:
            images, targets = data[chosen]
            mirrored = torch.rand(size, 1, 1, 1, generator=order) < 0.5
            yield normalize(torch.where(mirrored, images.flip(3), images)), targets


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Return images of bytes as networks see them."""
    return ((images.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def evaluate(task: Any, data: TensorDataset) -> dict[str, float]:
    """Return the metrics of timm's evaluator, in percent."""
    model = task.get_eval_model().eval()
    evaluator = task.create_evaluator()
    for images, targets in zip(*(tensor.split(250) for tensor in data.tensors)):
        evaluator.update(model(normalize(images)), targets)
    return evaluator.compute()


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', choices=('abn', 'baseline'), default='abn', help='default: %(default)s')
    parser.add_argument('--data-dir', type=Path, default=Path('data/multi_attribute'), help='default: %(default)s')
    parser.add_argument('--out', type=Path, default=Path('outputs/multi_attribute'), help='default: %(default)s')
    parser.add_argument('--epochs', type=positive, default=8, help='default: %(default)s')
    parser.add_argument('--batch-size', type=positive, default=64, help='default: %(default)s')
    parser.add_argument('--lr', type=positive_number, default=2e-3, help='peak learning rate (default: %(default)s)')
    parser.add_argument('--weight-decay', type=zero_or_more, default=0.05, help='default: %(default)s')
    parser.add_argument('--seed', type=whole, default=0)
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
