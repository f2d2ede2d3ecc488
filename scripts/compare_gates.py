"""Train small backbones with each gate; say what predictions and maps make of it. The choice of gates follows this.

Example:
    python scripts/make_multi_attribute_set.py --data-dir data --out data/multi_attribute
    python scripts/compare_gates.py --data-dir data --scenes data/multi_attribute --out outputs/gates

The grid, fixed before the first run; nothing in it was picked by its scores:

- Backbones, from scratch, cut where maps have 8x8 places: a ViT with class token (4 blocks of width 64, cut after the
  second), a Swin (stages of 1, 2, 2 blocks, width 32), a ConvNeXt (4 stages of one block, layer scale 0.3), a PVT-v2
  (4 stages of one block).
- Gates: features, centred; tokens, where blocks take a bias of attention scores (ViT).
- Seeds 0, 1, 2, of weights and order.
- Fashion-MNIST, padded to 32x32: one epoch of the first 12,000 training images; Eq. 2 (residual).
- Scenes with known masks, 64x64: four epochs of 20,000 training scenes; Eq. 1 (product); a map for each of four
  attributes (trouser, dress, bag, ankle boot), since the time goes with their number. (One epoch of 10,000 taught the
  ViT nothing: mean average precision 0.32, chance 0.30. It was then that this line was changed, and no other.)
- The loss of the paper; AdamW, batches of 64, peak learning rate 2e-3, one cycle, weight decay 0.05, mirrored images.

Scores, of the same images for all: accuracy, and its change where each image gets the map of another; the effect of
that on the pre-logits, relative to their norm; deletion and insertion of the map (Fashion-MNIST); mean average
precision, pointing game and energy less chance (scenes). Means are over all images and seeds; intervals come from
drawing images, each with all of its seeds. Written are a JSON a run, which is not done again, and ``table.md``.
Fashion-MNIST takes a quarter of an hour of one core; the scenes, by the speed of their steps, nearly two hours.
"""

import argparse
import itertools
import json
import statistics
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from compare_faithful_maps import Key, Row, Table, score_maps, score_predictions, summarise
from make_multi_attribute_set import load_items
from score_scenes import LOCALISATION, Objects
from score_scenes import score as score_objects
from timm.task import ClassificationTask, MultiLabelClassificationTask
from torch.utils.data import TensorDataset
from train_multi_attribute import MEAN, STD, evaluate, fit, load, load_segmentation, normalize

import timm_abn.task  # noqa: F401  registers the models, and teaches timm's tasks the loss of ABNs
from timm_abn.explain.statistics import Interval
from timm_abn.publish.markdown import markdown_table
from timm_abn.staging import staged_files
from timm_abn.training.errors import TrainingError
from timm_abn_cli.table import format_table

SEEDS = (0, 1, 2)
FASHION_MNIST, SCENES = 'Fashion-MNIST', 'scenes'
TRAINING_IMAGES = {FASHION_MNIST: 12_000, SCENES: 20_000}
EPOCHS = {FASHION_MNIST: 1, SCENES: 4}
TEST_IMAGES = {FASHION_MNIST: 1_000, SCENES: 500}
IMAGES_WITH_WALKS = 200  # of deletion and insertion
STEPS = 14
HELD_OUT = 250  # images that say, while it trains, that it does
ATTRIBUTES = ('Trouser', 'Dress', 'Bag', 'Ankle_boot')
FIT = dict(batch_size=64, lr=2e-3, weight_decay=0.05)


class Backbone(NamedTuple):
    """A backbone that takes part.

    Attributes:
        gates: Those that it can have.
        arguments: Those of ``timm.create_model``.
        by_data: What they are beside these, by data set.
    """

    gates: tuple[str, ...]
    arguments: dict[str, Any]
    by_data: dict[str, dict[str, Any]]


BACKBONES = {
    'ViT, class token': Backbone(
        ('features', 'centred', 'tokens'),
        dict(backbone='test_vit', embed_dim=64, depth=4, num_heads=2, split='blocks.1'),
        {FASHION_MNIST: dict(img_size=32, patch_size=4), SCENES: dict(img_size=64, patch_size=8)},
    ),
    'Swin': Backbone(
        ('features', 'centred'),
        dict(
            backbone='swin_tiny_patch4_window7_224',
            window_size=4,
            embed_dim=32,
            depths=(1, 2, 2),
            num_heads=(1, 2, 4),
            split='layers.1',
        ),
        {FASHION_MNIST: dict(img_size=32, patch_size=2), SCENES: dict(img_size=64, patch_size=4)},
    ),
    'ConvNeXt': Backbone(
        ('features', 'centred'),
        dict(backbone='test_convnext', depths=(1, 1, 1, 1), dims=(32, 64, 96, 128), ls_init_value=0.3),
        {FASHION_MNIST: dict(patch_size=2, split='stages.0'), SCENES: dict(patch_size=4, split='stages.1')},
    ),
    'PVT-v2': Backbone(
        ('features', 'centred'),
        dict(backbone='pvt_v2_b0', depths=(1, 1, 1, 1), embed_dims=(32, 64, 96, 128), num_heads=(1, 2, 3, 4)),
        {FASHION_MNIST: dict(split='stages.0'), SCENES: dict(split='stages.1')},
    ),
}

# heading of a column -> method and metric of its scores
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    FASHION_MNIST: {
        'accuracy': ('', 'accuracy'),
        "with another image's map": ('', 'accuracy, other'),
        'effect of that': ('', 'effect, other'),
        'deletion (low)': ('attention', 'deletion'),
        'insertion (high)': ('attention', 'insertion'),
    },
    SCENES: {
        'accuracy': ('', 'accuracy'),
        "with another image's map": ('', 'accuracy, other'),
        'effect of that': ('', 'effect, other'),
        'pointing game': ('attention', 'pointing game'),
        'energy less chance': ('attention', 'energy less chance'),
    },
}


class Data(NamedTuple):
    """Images of bytes with targets, and of scenes what each pixel of the test images shows: t + 1 for attribute t."""

    train: TensorDataset
    held_out: TensorDataset
    test: TensorDataset
    masks: torch.Tensor


class Run(NamedTuple):
    """A cell of the grid, and a seed."""

    data: str
    seed: int
    backbone: str
    gate: str

    @property
    def title(self) -> str:
        """Which cell it is."""
        return f'{self.backbone} / {self.gate}'

    def path(self, out: Path) -> Path:
        """Return the file of its scores."""
        words = f'{self.data} {self.backbone} {self.gate} seed{self.seed}'.lower().replace(',', '')
        return out / f'{words.replace(" ", "-")}.json'


def main() -> int:
    """Do the runs that are missing, print the tables and write them; returns the exit code."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tables = {}
    try:
        for name in args.data:
            runs = [run for run in grid(args.seeds) if run.data == name]
            waiting = [run for run in runs if not run.path(args.out).is_file()]
            if waiting:
                data = read_fashion_mnist(args.data_dir) if name == FASHION_MNIST else read_scenes(args.scenes)
                for run in waiting:
                    write(run.path(args.out), do(run, data))
            tables[name] = table_of(name, runs, args.out)
    except (OSError, TrainingError) as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    print('\n\n'.join(f'{name}\n\n{format_table(*table)}' for name, table in tables.items()))
    with staged_files(args.out) as folder:
        text = '\n\n'.join(f'{name}\n\n{markdown_table(*table)}' for name, table in tables.items())
        (folder / 'table.md').write_text(f'{text}\n', encoding='utf-8')
    return 0


def grid(seeds: Sequence[int]) -> Iterator[Run]:
    """Yield all runs, every cell with the first seed before any with the second."""
    for data, seed, (name, backbone) in itertools.product(TRAINING_IMAGES, seeds, BACKBONES.items()):
        for gate in backbone.gates:
            yield Run(data, seed, name, gate)


def do(run: Run, data: Data) -> dict[str, Any]:
    """Train a network and return its scores."""
    print(f'{run.data}, {run.title}, seed {run.seed}', flush=True)
    torch.manual_seed(run.seed)
    model = create(run)
    model.to(memory_format=torch.channels_last)
    task_class = MultiLabelClassificationTask if run.data == SCENES else ClassificationTask
    criterion = {} if run.data == SCENES else dict(criterion=torch.nn.CrossEntropyLoss())
    task = task_class(model, verbose=False, **criterion)
    fit(task, data.train, data.held_out, argparse.Namespace(seed=run.seed, epochs=EPOCHS[run.data], **FIT))
    model.eval()
    images, targets = data.test.tensors
    rows = score_predictions(model, normalize(images), targets)
    if run.data == SCENES:
        return dict(metrics=evaluate(task, data.test), rows=rows + score_localisation(model, data))
    settings = argparse.Namespace(steps=STEPS)
    walked = normalize(images[:IMAGES_WITH_WALKS])
    return dict(metrics=evaluate(task, data.test), rows=rows + score_maps(model, walked, settings, ['attention']))


def create(run: Run, **kwargs: Any) -> Any:
    """Return a network that is not trained."""
    backbone = BACKBONES[run.backbone]
    arguments = dict(backbone.arguments, gate=run.gate, **backbone.by_data[run.data])
    if run.data == SCENES:
        arguments.update(multi_task=True, task_chunk_size=len(ATTRIBUTES), mechanism='product')
    arguments.update(num_classes=len(ATTRIBUTES) if run.data == SCENES else 10)
    arguments.update(in_chans=3 if run.data == SCENES else 1, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that a map has no effect is what some of the runs show
        model = timm.create_model('abn', **arguments)
    model.pretrained_cfg.update(mean=(MEAN,) * model.in_chans, std=(STD,) * model.in_chans)
    return model


def score_localisation(model: Any, data: Data) -> list[Row]:
    """Return where the maps of the objects of the test scenes lie."""
    images, targets = data.test.tensors
    scene, task = targets.nonzero(as_tuple=True)
    names = [str(number) for number in range(len(images))]
    objects = Objects(normalize(images), data.masks, names, list(ATTRIBUTES), scene, task)
    settings = argparse.Namespace(deletion_scenes=0)
    found = score_objects('maps', model, objects, settings, ['attention'])
    return [
        dict(image=int(row['scene']), method='attention', metric=metric, value=row[metric])
        for row in found
        for metric in LOCALISATION
    ]


def read_fashion_mnist(data_dir: Path) -> Data:
    """Return Fashion-MNIST."""
    sets = []
    for train in (True, False):
        items = load_items(data_dir, train, download=False)
        images = torch.nn.functional.pad(items.data, (2, 2, 2, 2)).unsqueeze(1)
        sets.append((images, items.targets))
    (images, targets), (test_images, test_targets) = sets
    number, tested = TRAINING_IMAGES[FASHION_MNIST], TEST_IMAGES[FASHION_MNIST]
    return Data(
        TensorDataset(images[:number], targets[:number]),
        TensorDataset(images[-HELD_OUT:], targets[-HELD_OUT:]),
        TensorDataset(test_images[:tested], test_targets[:tested]),
        torch.empty(0),
    )


def read_scenes(folder: Path) -> Data:
    """Return the scenes with the chosen attributes."""
    sets = []
    for split, number in (('train', TRAINING_IMAGES[SCENES]), ('val', HELD_OUT), ('test', TEST_IMAGES[SCENES])):
        scenes, attributes = load(folder, split)
        missing = [name for name in ATTRIBUTES if name not in attributes]
        if missing:
            raise TrainingError(f'the scenes in {folder} have no attribute {", ".join(missing)}.')
        columns = [attributes.index(name) for name in ATTRIBUTES]
        sets.append(TensorDataset(scenes.tensors[0][:number], scenes.tensors[1][:number, columns]))
    shown = load_segmentation(folder)[: TEST_IMAGES[SCENES]]
    masks = torch.zeros_like(shown)
    for number, column in enumerate(columns, start=1):
        masks[shown == column + 1] = number
    return Data(*sets, masks)


def write(path: Path, scores: dict[str, Any]) -> None:
    """Write the scores of a run."""
    with staged_files(path.parent) as folder:
        (folder / path.name).write_text(json.dumps(scores), encoding='utf-8')


def table_of(data: str, runs: Sequence[Run], out: Path) -> Table:
    """Return header and rows of the table of a data set."""
    scores = {run: json.loads(run.path(out).read_text(encoding='utf-8')) for run in runs}
    rows = [dict(row, contestant=run.title) for run, found in scores.items() for row in found['rows']]
    intervals: dict[Key, Interval] = summarise(rows)
    lines = []
    for run in {run.title: run for run in runs}.values():
        default = create(run._replace(gate=None), device=torch.device('meta')).config['gate']
        own = [found['metrics'] for other, found in scores.items() if other.title == run.title]
        line = [run.backbone, f'{run.gate} (chosen)' if run.gate == default else run.gate]
        line += [str(intervals[(run.title, *score)]) for score in COLUMNS[data].values()]
        if data == SCENES:
            line.insert(3, spread([metrics['map'] / 100 for metrics in own]))
        lines.append(line)
    header = ['backbone', 'gate', *COLUMNS[data]]
    if data == SCENES:
        header.insert(3, 'mean average precision, deviation of seeds')
    return header, lines


def spread(values: Sequence[float]) -> str:
    """Return mean and deviation in words."""
    deviation = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.3f}{deviation}'


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, default=Path('data'), help='folder that holds FashionMNIST/raw')
    parser.add_argument('--scenes', type=Path, default=Path('data/multi_attribute'), help='default: %(default)s')
    parser.add_argument('--data', nargs='+', choices=tuple(TRAINING_IMAGES), default=list(TRAINING_IMAGES))
    parser.add_argument('--seeds', type=int, nargs='+', default=list(SEEDS), help='default: 0 1 2')
    parser.add_argument('--out', type=Path, default=Path('outputs/gates'), help='default: %(default)s')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
