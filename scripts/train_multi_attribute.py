"""Train a multi-task ABN, or its backbone without ABN, on scenes with several attributes; say where it looks.

Example:
    pip install '.[scenes,plot]'
    python scripts/make_multi_attribute_set.py --data-dir data --download --out data/multi_attribute
    python scripts/train_multi_attribute.py --model abn --data-dir data/multi_attribute
    python scripts/train_multi_attribute.py --model abn --attention-map sigmoid --map-loss masked --out outputs/faithful
    python scripts/train_multi_attribute.py --attention-map sigmoid --attention-mask-share 0.1 --out outputs/masks
    python scripts/train_multi_attribute.py --model baseline --data-dir data/multi_attribute

Both get the same scenes in the same order, the same steps and the same learning rates. The task and its evaluator are
those of timm for multi-label training; importing timm_abn.task teaches them both branches.

Printed, and written to ``metrics.json``: accuracy and average precision, mean of the attributes, and the pointing game:
how often the maximum of a map lies on the object of its attribute, over all objects of the test scenes. Chance is the
share of the scene that the object covers. Of the ABN, its attention maps point; of the baseline, its class activation
maps (CAM), which have 2x2 places, and those of the same weights in the dilated form of the network, with 8x8 places.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from huggingface_hub.utils import tqdm
from PIL import Image
from timm.optim import create_optimizer_v2
from timm.task import MultiLabelClassificationTask
from torch.utils.data import TensorDataset

from timm_abn.data.celeba import CelebA
from timm_abn.data.images import ImageError, image_errors
from timm_abn.errors import TimmAbnError
from timm_abn.hub.state_dicts import check_state_dict
from timm_abn.maps.operations import upsample_maps
from timm_abn.models.training_checkpoints import read_checkpoint
from timm_abn.staging import check_output_folder, staged_files
from timm_abn.training.data.masked import choose
from timm_abn.training.errors import TrainingError
from timm_abn.training.map_settings import add_map_arguments, read_map_loss, take_hard_attention
from timm_abn.training.mask_loss import target_with_masks
from timm_abn.training.mask_settings import MaskSettings
from timm_abn.training.task import extend_timm_tasks
from timm_abn_cli.argument_types import positive, positive_number, share, whole, zero_or_more

BACKBONE = 'test_resnet'  # a tiny ResNet: the cut after layer1 gives maps of 16x16 for scenes of 64x64
SPLIT = 'layer1'
SIZE = 64
MEAN, STD = 0.45, 0.25


def main() -> int:
    """Train, evaluate and write the results; returns the exit code."""
    args = parse_args()
    out = args.out / f'{args.model}-seed{args.seed}'
    try:
        check_output_folder(out)
        if args.model == 'abn' and importlib.util.find_spec('matplotlib') is None:
            raise TrainingError("the picture of the maps needs matplotlib: pip install '.[scenes,plot]'")
        segmentation = load_segmentation(args.data_dir)
        train, _ = load(args.data_dir, 'train')
        held_out, attributes = load(args.data_dir, 'val')
        test, _ = load(args.data_dir, 'test')
        if args.batch_size > len(train):
            raise TrainingError(f'--batch-size {args.batch_size} is more than the {len(train)} training scenes')
        setup = arguments(args, len(attributes))
        if args.attention_mask_share:
            train = TensorDataset(*train.tensors, load_masks(args))
        model = build(setup, args)
    except (OSError, TimmAbnError) as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    task = MultiLabelClassificationTask(model, verbose=False)
    start = time.process_time()
    fit(task, train, held_out, args)
    minutes = (time.process_time() - start) / 60

    metrics: dict[str, float] = dict(evaluate(task, test), cpu_minutes=minutes)
    maps = predict(test, explaining(model, args.model), args.batch_size)
    metrics.update(pointing(maps, test.tensors[1], segmentation))
    for name, value in metrics.items():
        print(f'{name:32} {value:.4f}')
    with staged_files(out) as folder:
        (folder / 'args.yaml').write_text(yaml.safe_dump(setup))
        (folder / 'metrics.json').write_text(json.dumps(metrics, indent=2) + '\n')
        # as timm's train.py leaves them, so that timm-abn explain knows what the model is, and what its images are like
        settings = argparse.Namespace(**setup)
        torch.save(
            dict(arch=setup['model'], state_dict=model.state_dict(), args=settings, epoch=args.epochs - 1),
            folder / 'last.pth.tar',
        )
        if args.model == 'abn':
            picture(test, maps['attention maps'], attributes).save(folder / 'maps.png')
    return 0


def arguments(args: argparse.Namespace, num_classes: int) -> dict[str, Any]:
    """Return what the model is and what its images are like, in the words of timm's train.py; choose the loss.

    Raises:
        TrainingError: Settings of the maps that cannot be.
    """
    model_kwargs = dict(
        backbone=BACKBONE,
        split=SPLIT,
        multi_task=True,
        task_chunk_size=num_classes,
        attention_map=args.attention_map,
        mechanism=args.mechanism,
    )
    setup = dict(
        model='abn' if args.model == 'abn' else BACKBONE,
        model_kwargs=model_kwargs if args.model == 'abn' else {},
        num_classes=num_classes,
        input_size=[3, SIZE, SIZE],
        mean=[MEAN] * 3,
        std=[STD] * 3,
        crop_pct=1.0,
    )
    settings = argparse.Namespace(**{**vars(args), **setup})
    take_hard_attention(settings)  # into model_kwargs
    masks = None
    if args.attention_mask_share:
        masks = MaskSettings(args.data_dir, weight=args.attention_mask_weight, multi_task=True)
    extend_timm_tasks(map_loss=read_map_loss(settings), mask_settings=masks)
    return setup


def build(setup: dict[str, Any], args: argparse.Namespace) -> torch.nn.Module:
    """Return the model, with the weights that it begins with.

    Raises:
        TimmAbnError: These cannot be read, or are of another model.
    """
    torch.manual_seed(args.seed)
    model = timm.create_model(setup['model'], num_classes=setup['num_classes'], **setup['model_kwargs'])
    if args.initial_checkpoint:
        weights, _ = read_checkpoint(args.initial_checkpoint)
        check_state_dict(weights, model.state_dict(), setup['model'], args.initial_checkpoint)
        model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last)


def load(data_dir: Path, split: str) -> tuple[TensorDataset, list[str]]:
    """Return images (N, 3, 64, 64) of bytes with targets (N, T), and the names of the attributes."""
    dataset = CelebA(str(data_dir), split)
    images = [np.asarray(dataset[index][0]) for index in tqdm(range(len(dataset)), desc=f'reading {split}')]
    return TensorDataset(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), dataset.targets), dataset.attributes


def load_masks(args: argparse.Namespace) -> torch.Tensor:
    """Return what each pixel of the training scenes shows, (N, 64, 64); of those without masks, that it is nothing."""
    names = CelebA(str(args.data_dir), 'train').images
    used = choose(names, args.attention_mask_share, args.seed)
    scenes = load_segmentation(args.data_dir, 'train')
    return scenes * torch.tensor([name in used for name in names], dtype=scenes.dtype)[:, None, None]


def load_segmentation(data_dir: Path, split: str = 'test') -> torch.Tensor:
    """Return what each pixel of the scenes shows, (N, 64, 64): t + 1 for attribute t, 0 for background."""
    scenes = []
    for name in CelebA(str(data_dir), split).images:
        path = data_dir / 'segmentation' / name
        try:
            with image_errors(path), Image.open(path) as file:
                scenes.append(torch.from_numpy(np.array(file)))
        except ImageError as error:
            raise TrainingError(f'{error}; make the scenes by scripts/make_multi_attribute_set.py') from None
        if scenes[-1].shape != (SIZE, SIZE):
            raise TrainingError(f'{path} must be grey, of {SIZE}x{SIZE} pixels, got {tuple(scenes[-1].shape)}')
    return torch.stack(scenes)


def fit(
    task: MultiLabelClassificationTask, train: TensorDataset, held_out: TensorDataset, args: argparse.Namespace
) -> None:
    optimizer = create_optimizer_v2(task, 'adamw', lr=args.lr, weight_decay=args.weight_decay)
    steps = len(train) // args.batch_size
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * steps, pct_start=0.2)
    order = torch.Generator().manual_seed(args.seed)  # of its own: the same for every model
    for epoch in range(args.epochs):
        task.train()
        batches = tqdm(batches_of(train, args.batch_size, order), desc=f'epoch {epoch + 1}/{args.epochs}', total=steps)
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
    for chosen in torch.randperm(len(data), generator=order).split(size):
        if len(chosen) == size:
            images, targets, *masks = data[chosen]
            mirrored = torch.rand(size, 1, 1, 1, generator=order) < 0.5
            if masks:
                segmentation = torch.where(mirrored[:, 0], masks[0].flip(2), masks[0])
                targets = torch.stack([with_masks(*one) for one in zip(targets, segmentation)])
            yield normalize(torch.where(mirrored, images.flip(3), images)), targets


def with_masks(target: torch.Tensor, segmentation: torch.Tensor) -> torch.Tensor:
    """Return the target of an image that carries the mask of each attribute, as timm's tasks are taught to read it."""
    kinds = torch.arange(1, len(target) + 1, dtype=segmentation.dtype)
    return target_with_masks(target, segmentation == kinds[:, None, None])


def normalize(images: torch.Tensor) -> torch.Tensor:
    return ((images.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def evaluate(task: MultiLabelClassificationTask, data: TensorDataset) -> dict[str, float]:
    """Return the metrics of timm's evaluator, in percent."""
    model = task.get_eval_model().eval()
    evaluator = task.create_evaluator()
    for images, targets in zip(*(tensor.split(250) for tensor in data.tensors)):
        evaluator.update(model(normalize(images)), targets)
    return evaluator.compute()


def explaining(model: torch.nn.Module, name: str) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Return what makes maps (B, T, h, w) of images, by name."""
    if name == 'abn':
        return lambda images: {'attention maps': model.explain(images).attention_map}
    dilated = timm.create_model(BACKBONE, num_classes=model.num_classes, output_stride=8).eval()
    dilated.load_state_dict(model.state_dict())

    def class_activation(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        return torch.einsum('bchw,tc->bthw', network.forward_features(images), network.get_classifier().weight)

    return lambda images: {'CAM': class_activation(model, images), 'CAM, dilated': class_activation(dilated, images)}


@torch.no_grad()
def predict(
    data: TensorDataset,
    maps_of: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    batch_size: int,
) -> dict[str, torch.Tensor]:
    """Return the maps of all images, (N, T, h, w), by name."""
    batches = [maps_of(normalize(images)) for images in tqdm(data.tensors[0].split(batch_size), desc='maps')]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def pointing(maps: dict[str, torch.Tensor], targets: torch.Tensor, segmentation: torch.Tensor) -> dict[str, float]:
    """Return how often the maximum of each kind of map lies on the object, and the chance of it, in percent."""
    image, task = targets.nonzero(as_tuple=True)
    objects = (segmentation[image] == task[:, None, None] + 1).flatten(1)
    results = {'pointing, chance': 100 * objects.float().mean().item()}
    for name, values in maps.items():
        place = upsample_maps(values, tuple(segmentation.shape[1:]))[image, task].flatten(1).argmax(dim=1)
        results[f'pointing, {name}'] = 100 * objects.gather(1, place[:, None]).float().mean().item()
    return results


def picture(data: TensorDataset, maps: torch.Tensor, attributes: list[str], rows: int = 8) -> Image.Image:
    """Return a figure: scenes, and beside each its attention maps; those of attributes that it has are framed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images, targets = data[:rows]
    rows = len(images)
    figure = Figure(figsize=(1.1 * (len(attributes) + 1), 1.15 * rows + 0.3), layout='constrained')
    axes = figure.subplots(rows, len(attributes) + 1)
    for row in range(rows):
        axes[row, 0].imshow(images[row].permute(1, 2, 0).numpy())
        for column, name in enumerate(attributes, start=1):
            axis = axes[row, column]
            axis.imshow(maps[row, column - 1].numpy(), cmap='inferno')
            present = bool(targets[row, column - 1])
            for spine in axis.spines.values():
                spine.set(color='tab:green', linewidth=3, visible=present)
            axes[0, column].set_title(name.replace('_', ' '), fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert('RGB')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', choices=('abn', 'baseline'), default='abn', help='default: %(default)s')
    parser.add_argument('--attention-map', choices=('sigmoid', 'raw'), default='raw', help='default: %(default)s')
    add_map_arguments(parser)
    parser.add_argument(
        '--attention-mask-share', type=share, metavar='S', help='share of the scenes with masks (default: no masks)'
    )
    parser.add_argument(
        '--attention-mask-weight', type=zero_or_more, default=10.0, metavar='W', help='of their loss (default: 10)'
    )
    parser.add_argument('--mechanism', choices=('residual', 'product'), default='product', help='default: %(default)s')
    parser.add_argument('--data-dir', type=Path, default=Path('data/multi_attribute'), help='default: %(default)s')
    parser.add_argument('--out', type=Path, default=Path('outputs/multi_attribute'), help='default: %(default)s')
    parser.add_argument('--initial-checkpoint', type=Path, metavar='FILE', help='weights to begin with, of such a run')
    parser.add_argument('--epochs', type=positive, default=8, help='default: %(default)s')
    parser.add_argument('--batch-size', type=positive, default=64, help='default: %(default)s')
    parser.add_argument('--lr', type=positive_number, default=2e-3, help='peak learning rate (default: %(default)s)')
    parser.add_argument('--weight-decay', type=zero_or_more, default=0.05, help='default: %(default)s')
    parser.add_argument('--seed', type=whole, default=0)
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
