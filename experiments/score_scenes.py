"""Score the maps of multi-task ABNs on scenes whose objects are known: where they lie, what they delete.

Example:
    pip install '.[scenes,plot]'
    python experiments/make_multi_attribute_set.py --data-dir data --download --out data/multi_attribute
    for seed in 0 1 2; do python experiments/train_multi_attribute.py --seed $seed; done
    python experiments/score_scenes.py --data-dir data/multi_attribute --out outputs/scenes

Of each object of the test scenes, the map of its attribute is scored: pointing game, energy in the mask, the same
corrected for the mask's area, IoU at the best threshold; and of the objects of the first scenes, deletion: the
probability of the attribute (a sigmoid) while pixels are replaced by the mean colour. The attention map is compared
with Grad-CAM of the same network at its last stage, with the same Gaussian in the middle of each image, and with random
maps.

Means are over all objects and runs. Intervals, and those of paired differences, come from drawing scenes, each with all
of its objects in all runs; the deviation is that of the means of the runs.
A flat map has no score, nor has one without a positive value any energy: how many maps have one is printed.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.utils import tqdm
from photos import see
from results import Row, Table, deviation, difference, interval, mean, means, run, where, write
from train_multi_attribute import load_segmentation

import timm_abn
from timm_abn.data.celeba import CelebA
from timm_abn.errors import TimmAbnError
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import chance_corrected_energy, deletion, energy, iou, pointing_game
from timm_abn.staging import check_output_folder
from timm_abn_cli.argument_types import positive

METHODS = ('attention', 'grad_cam', 'centre', 'random')
FIRST = METHODS[0]
LOCALISATION: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    'pointing game': pointing_game,
    'energy': energy,
    'energy less chance': chance_corrected_energy,
    'IoU': iou,
}
METRICS = (*LOCALISATION, 'deletion')
BATCH_SIZE = 250


class Objects(NamedTuple):
    """The objects of the test scenes.

    Attributes:
        images: Of the scenes, normalised, shape (N, 3, H, W).
        masks: What each pixel shows, t + 1 for attribute t, shape (N, H, W).
        scenes: Names of the scenes.
        attributes: Names of the attributes.
        scene: Number of the scene of each object, shape (M,).
        task: Number of the attribute of each object, shape (M,).
    """

    images: torch.Tensor
    masks: torch.Tensor
    scenes: list[str]
    attributes: list[str]
    scene: torch.Tensor
    task: torch.Tensor


def main(args: argparse.Namespace) -> None:
    """Score all runs, and write the tables."""
    check_output_folder(args.out)
    models = {folder.as_posix(): timm_abn.load_model('abn', checkpoint=folder / 'last.pth.tar') for folder in args.runs}
    rows: list[Row] = []
    for name, model in models.items():
        rows += score(name, model, read_objects(model, args.data_dir, args.limit), args)
    write(args, [total_table(rows), attribute_table(rows)], rows)


def read_objects(model: Any, data_dir: Path, limit: int) -> Objects:
    """Return the objects of the first test scenes, as a network sees them."""
    data = CelebA(str(data_dir), 'test')
    maps = getattr(model.attention_branch, 'num_maps', 1)
    if maps != len(data.attributes):
        raise TimmAbnError(f'the scenes have {len(data.attributes)} attributes, the network has {maps} maps.')
    names = data.images[:limit]
    images = see(model, [data_dir / 'img_align_celeba' / name for name in names])
    scene, task = data.targets[:limit].nonzero(as_tuple=True)
    return Objects(images, load_segmentation(data_dir, limit), names, data.attributes, scene, task)


def score(run_name: str, model: Any, objects: Objects, args: argparse.Namespace) -> list[Row]:
    """Return a row for each method and object."""
    explainers = {method: create_explainer(method, model) for method in METHODS}
    rows = []
    for chosen in tqdm(torch.arange(len(objects.task)).split(BATCH_SIZE), desc=run_name):
        scene, task = objects.scene[chosen], objects.task[chosen]
        images = objects.images[scene]
        masks = (objects.masks[scene] == task[:, None, None] + 1).unsqueeze(1)
        for method, explainer in explainers.items():
            maps = explainer(images, task)
            scores = {metric: measure(maps, masks) for metric, measure in LOCALISATION.items()}
            scores['deletion'] = torch.full((len(chosen),), math.nan)
            deleted = scene < args.deletion_scenes
            if deleted.any():
                few = images[deleted], maps[deleted], task[deleted]
                scores['deletion'][deleted] = deletion(model, *few, steps=args.steps, batch_size=BATCH_SIZE)
            columns = zip(scene.tolist(), task.tolist(), *(values.tolist() for values in scores.values()))
            for number, attribute, *values in columns:
                what = dict(scene=objects.scenes[number], attribute=objects.attributes[attribute])
                rows.append(dict(run=run_name, method=method, **what, **dict(zip(scores, values))))
    return rows


def total_table(rows: Sequence[Row]) -> Table:
    """Return header and lines of the table of all objects."""
    lines = []
    first = where(rows, method=FIRST)
    for metric in METRICS:
        for method in METHODS:
            own = where(rows, method=method)
            found = interval(own, metric, 'scene')
            paired = str(difference(own, first, metric, 'scene')) if method != FIRST else ''
            of_runs = deviation(means(own, metric, of='run').values()).removeprefix(' ± ')
            lines.append([metric, method, str(found), of_runs or '-', paired, f'{found.number:,}'])
    header = ('metric', 'map', 'mean and 95 % interval', 'deviation of runs', f'difference to {FIRST}', 'maps scored')
    return header, lines


def attribute_table(rows: Sequence[Row]) -> Table:
    """Return header and lines of the table of attributes, with the mean of the attributes at the end of each metric."""
    by_method = {method: where(rows, method=method) for method in METHODS}
    lines = []
    for metric in METRICS:
        for attribute in sorted({row['attribute'] for row in rows}):
            own = [interval(where(found, attribute=attribute), metric, 'scene') for found in by_method.values()]
            lines.append([metric, attribute, *map(str, own)])
        of_attributes = (mean(means(found, metric, of='attribute').values()) for found in by_method.values())
        lines.append([metric, 'mean of attributes', *(f'{value:.3f}' for value in of_attributes)])
    return ('metric', 'attribute', *METHODS), lines


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = [Path('outputs/multi_attribute') / f'abn-seed{seed}' for seed in range(3)]
    parser.add_argument('--data-dir', type=Path, default=Path('data/multi_attribute'), help='default: %(default)s')
    parser.add_argument('--runs', type=Path, nargs='+', default=runs, help='folders of runs (default: seeds 0, 1, 2)')
    parser.add_argument('--limit', type=positive, default=2000, help='test scenes (default: %(default)s)')
    parser.add_argument('--deletion-scenes', type=positive, default=150, help='of these (default: %(default)s)')
    parser.add_argument('--steps', type=positive, default=32, help='of deletion (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('outputs/scenes'), help='default: %(default)s')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
