"""Train small backbones with each gate; say what predictions and maps make of it. The choice of gates follows this.

Example:
    python experiments/compare_gates.py --data-dir data --out outputs/gates

The grid, fixed before the first run; nothing in it was picked by its scores:

- Backbones, from scratch, cut where maps have 8x8 places: a ViT with class token (4 blocks of width 64, cut after the
  second), a Swin (stages of 1, 2, 2 blocks, width 32), a ConvNeXt (4 stages of one block, layer scale 0.3), a PVT-v2
  (4 stages of one block).
- Gates: features, centred; tokens, where blocks take a bias of attention scores (ViT).
- Seeds 0, 1, 2, of weights and order.
- Fashion-MNIST, padded to 32x32: one epoch of the first 12,000 training images; Eq. 2 (residual).
- The loss of the paper; AdamW, batches of 64, peak learning rate 2e-3, one cycle, weight decay 0.05, mirrored images.

Scores, of the same images for all: accuracy, and its change where each image gets the map of another; the effect of
that on the pre-logits, relative to their norm; deletion and insertion of the map. Means are over all images and seeds;
intervals come from drawing images, each with all of its seeds. A run that has ended is not done again. All take a
quarter of an hour of one core.
"""

import argparse
import functools
import itertools
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from compare_faithful_maps import PREDICTIONS, score_maps, score_predictions
from make_multi_attribute_set import load_items
from results import Row, interval, once, run, where, write
from timm.task import ClassificationTask
from torch.utils.data import TensorDataset
from train_multi_attribute import MEAN, STD, fit, normalize

import timm_abn.task  # noqa: F401  registers the models, and teaches timm's tasks the loss of ABNs
from timm_abn.staging import check_output_folder

SEEDS = (0, 1, 2)
TRAINING_IMAGES, TEST_IMAGES = 12_000, 1_000
IMAGES_WITH_WALKS, STEPS = 200, 14  # of deletion and insertion
HELD_OUT = 250  # images that say, while it trains, that it does
FIT = dict(epochs=1, batch_size=64, lr=2e-3, weight_decay=0.05)

GATES = ('features', 'centred')
# name -> its gates, and arguments of ``timm.create_model``
BACKBONES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    'ViT, class token': (
        (*GATES, 'tokens'),
        dict(backbone='test_vit', embed_dim=64, depth=4, num_heads=2, split='blocks.1', img_size=32, patch_size=4),
    ),
    'Swin': (
        GATES,
        dict(backbone='swin_tiny_patch4_window7_224', window_size=4, img_size=32, patch_size=2, split='layers.1')
        | dict(embed_dim=32, depths=(1, 2, 2), num_heads=(1, 2, 4)),
    ),
    'ConvNeXt': (
        GATES,
        dict(backbone='test_convnext', ls_init_value=0.3, patch_size=2, split='stages.0')
        | dict(depths=(1, 1, 1, 1), dims=(32, 64, 96, 128)),
    ),
    'PVT-v2': (
        GATES,
        dict(backbone='pvt_v2_b0', split='stages.0')
        | dict(depths=(1, 1, 1, 1), embed_dims=(32, 64, 96, 128), num_heads=(1, 2, 3, 4)),
    ),
}

# heading of a column -> method and metric of its scores
COLUMNS = {
    'accuracy': (PREDICTIONS, 'accuracy'),
    "with another image's map": (PREDICTIONS, 'accuracy, other'),
    'effect of that': (PREDICTIONS, 'effect, other'),
    'deletion (low)': ('attention', 'deletion'),
    'insertion (high)': ('attention', 'insertion'),
}


class Cell(NamedTuple):
    """A backbone with a gate; None for the one that is chosen where none is asked for."""

    backbone: str
    gate: str | None

    def create(self, **kwargs: Any) -> Any:
        """Return a network that is not trained."""
        arguments = dict(BACKBONES[self.backbone][1], gate=self.gate, num_classes=10, in_chans=1, **kwargs)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that a map has no effect is what some of the runs show
            model = timm.create_model('abn', **arguments)
        model.pretrained_cfg.update(mean=(MEAN,), std=(STD,))
        return model

    def path(self, out: Path, seed: int) -> Path:
        """Return the file of the scores of a seed."""
        words = f'{self.backbone} {self.gate} seed{seed}'.lower().replace(',', '')
        return out / f'{words.replace(" ", "-")}.json'


CELLS = [Cell(name, gate) for name, (gates, _) in BACKBONES.items() for gate in gates]


def main(args: argparse.Namespace) -> None:
    """Do the runs that are missing, every cell with the first seed before any with the second; write the table."""
    check_output_folder(args.out)
    read = functools.cache(lambda: read_fashion_mnist(args.data_dir))
    rows: list[Row] = []
    for seed, cell in itertools.product(args.seeds, CELLS):
        found = once(cell.path(args.out, seed), FIT, lambda cell=cell, seed=seed: score(cell, seed, read()))
        rows += [dict(row, backbone=cell.backbone, gate=cell.gate, seed=seed) for row in found]
    lines = []
    for cell in CELLS:
        chosen = cell._replace(gate=None).create(device=torch.device('meta')).config.gate == cell.gate
        own = where(rows, backbone=cell.backbone, gate=cell.gate)
        scores = [str(interval(where(own, method=method), metric)) for method, metric in COLUMNS.values()]
        lines.append([cell.backbone, f'{cell.gate} (chosen)' if chosen else str(cell.gate), *scores])
    write(args, [(('backbone', 'gate', *COLUMNS), lines)], rows)


def score(cell: Cell, seed: int, data: Sequence[TensorDataset]) -> list[Row]:
    """Train a network and return its scores."""
    print(f'{cell.backbone}, {cell.gate}, seed {seed}', flush=True)
    torch.manual_seed(seed)
    model = cell.create().to(memory_format=torch.channels_last)
    task = ClassificationTask(model, torch.nn.CrossEntropyLoss(), verbose=False)
    train, held_out, test = data
    fit(task, train, held_out, seed=seed, **FIT)
    model.eval()
    images, targets = test.tensors
    walked = normalize(images[:IMAGES_WITH_WALKS])
    return score_predictions(model, normalize(images), targets) + score_maps(model, walked, ['attention'], STEPS)


def read_fashion_mnist(data_dir: Path) -> list[TensorDataset]:
    """Return images of bytes with targets, padded to 32x32: to train on, held out, and to test on."""
    (images, targets), (test_images, test_targets) = (
        (torch.nn.functional.pad(items.data, (2, 2, 2, 2)).unsqueeze(1), items.targets)
        for items in (load_items(data_dir, train) for train in (True, False))
    )
    return [
        TensorDataset(images[:TRAINING_IMAGES], targets[:TRAINING_IMAGES]),
        TensorDataset(images[-HELD_OUT:], targets[-HELD_OUT:]),
        TensorDataset(test_images[:TEST_IMAGES], test_targets[:TEST_IMAGES]),
    ]


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, default=Path('data'), help='folder that holds FashionMNIST/raw')
    parser.add_argument('--seeds', type=int, nargs='+', default=list(SEEDS), help='default: 0 1 2')
    parser.add_argument('--out', type=Path, default=Path('outputs/gates'), help='default: %(default)s')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
