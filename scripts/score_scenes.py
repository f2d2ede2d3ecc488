"""Score the maps of multi-task ABNs on scenes whose objects are known: where they lie, what they delete.

Example:
    pip install '.[scenes,plot]'
    python scripts/make_multi_attribute_set.py --data-dir data --download --out data/multi_attribute
    for seed in 0 1 2; do python scripts/train_multi_attribute.py --data-dir data/multi_attribute --seed $seed; done
    python scripts/score_scenes.py --data-dir data/multi_attribute --out outputs/scenes

Of each object of the test scenes, the map of its attribute is scored: pointing game, energy in the mask, the same
corrected for the mask's area, IoU at the best threshold; and of the objects of the first scenes, deletion: the
probability of the attribute (a sigmoid) while pixels are replaced by the mean colour. The attention map is compared
with Grad-CAM of the same network at its cut, with the same Gaussian in the middle of each image, and with random maps.

Means are over all objects and runs. Intervals, and those of paired differences, come from drawing scenes, each with all
of its objects in all runs; the deviation is that of the means of the runs.
A flat map has no score, nor has one without a positive value any energy: how many maps have one is printed. Written
are ``scenes.csv`` (one row per map), ``scenes.json`` and ``scenes.md``.
"""

import argparse
import csv
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from huggingface_hub.utils import tqdm
from PIL import Image

import timm_abn
from timm_abn.data.celeba import CelebA
from timm_abn.data.images import Preprocessing, image_errors, read_image
from timm_abn.errors import TimmAbnError
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import chance_corrected_energy, deletion, energy, iou, pointing_game
from timm_abn.explain.statistics import Interval, bootstrap_mean
from timm_abn.publish.markdown import markdown_table
from timm_abn.staging import check_output_folder, staged_files
from timm_abn_cli.argument_types import positive
from timm_abn_cli.table import format_table

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

Row = dict[str, Any]  # run, method, scene and attribute of a map, and its scores by metric
Scores = dict[str, dict[str, dict[str, Any]]]  # by metric, or by attribute, and by method


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


def main() -> int:
    """Score, print the tables and write them; returns the exit code."""
    args = parse_args()
    try:
        check_output_folder(args.out)
        models = {run.as_posix(): timm_abn.load_model('abn', checkpoint=run / 'last.pth.tar') for run in args.runs}
        rows = []
        for run, model in models.items():
            rows += score(run, model, read_objects(model, args.data_dir, args.limit), args)
    except (TimmAbnError, OSError) as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    scores, attributes = summarise(rows), by_attribute(rows)
    tables = [total_table(scores), attribute_table(attributes)]
    print('\n\n'.join(format_table(*table) for table in tables))
    with staged_files(args.out) as folder:
        with (folder / 'scenes.csv').open('w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        versions = {module.__name__: module.__version__ for module in (timm_abn, timm, torch)}
        settings = {name: str(value) for name, value in vars(args).items()}
        summary = dict(versions=versions, settings=settings, scores=scores, attributes=attributes)
        (folder / 'scenes.json').write_text(json.dumps(without_nan(summary), indent=1) + '\n', encoding='utf-8')
        text = '\n\n'.join(markdown_table(*table) for table in tables)
        (folder / 'scenes.md').write_text(f'{text}\n', encoding='utf-8')
    print(f'\nWritten to: {", ".join(str(args.out / f"scenes.{kind}") for kind in ("csv", "json", "md"))}')
    return 0


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


def read_objects(model: Any, data_dir: Path, limit: int) -> Objects:
    """Return the objects of the first test scenes."""
    data = CelebA(str(data_dir), 'test')
    maps = getattr(model.attention_branch, 'num_maps', 1)
    if maps != len(data.attributes):
        raise TimmAbnError(f'the scenes have {len(data.attributes)} attributes, the network has {maps} maps.')
    names = data.images[:limit]
    preprocessing = Preprocessing(model)
    images = torch.stack([preprocessing(read_image(data_dir / 'img_align_celeba' / name))[0] for name in names])
    masks = torch.stack([read_mask(data_dir / 'segmentation' / name, images.shape[2:]) for name in names])
    scene, task = data.targets[:limit].nonzero(as_tuple=True)
    return Objects(images, masks, names, data.attributes, scene, task)


def read_mask(path: Path, size: Sequence[int]) -> torch.Tensor:
    """Return what each pixel of a scene shows, shape (H, W)."""
    with image_errors(path), Image.open(path) as file:
        mask = torch.from_numpy(np.array(file.convert('L')))
    if list(mask.shape) != list(size):
        found, right = (' x '.join(map(str, shape)) for shape in (mask.shape, size))
        raise TimmAbnError(f'masks of the scenes must have {right} pixels, {path} has {found}.')
    return mask


def score(
    run: str,
    model: Any,
    objects: Objects,
    args: argparse.Namespace,
    methods: Sequence[str] = METHODS,
) -> list[Row]:
    """Return a row for each method and object."""
    explainers = {method: create_explainer(method, model) for method in methods}
    batches = torch.arange(len(objects.task)).split(BATCH_SIZE)
    rows = []
    for chosen in tqdm(batches, desc=run):
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
            rows += [
                dict(
                    run=run,
                    method=method,
                    scene=objects.scenes[number],
                    attribute=objects.attributes[attribute],
                    **dict(zip(scores, values)),
                )
                for number, attribute, *values in columns
            ]
    return rows


def summarise(rows: Sequence[Row]) -> Scores:
    """Return, by metric and method, the mean of all objects, its difference to the first method, and each run's."""
    by_method = {method: [row for row in rows if row['method'] == method] for method in METHODS}
    scores: Scores = {}
    for metric in METRICS:
        reference = [row[metric] for row in by_method[FIRST]]
        for method, own in by_method.items():
            scenes = [row['scene'] for row in own]
            differences = [row[metric] - other for row, other in zip(own, reference, strict=True)]
            runs = {
                run: mean([row[metric] for row in own if row['run'] == run]) for run in {row['run']: 0 for row in own}
            }
            scores.setdefault(metric, {})[method] = dict(
                score=bootstrap_mean([row[metric] for row in own], groups=scenes)._asdict(),
                difference=bootstrap_mean(differences, groups=scenes)._asdict(),
                runs=runs,
                deviation=statistics.stdev(runs.values()) if len(runs) > 1 else math.nan,
            )
    return scores


def by_attribute(rows: Sequence[Row]) -> dict[str, Scores]:
    """Return the mean of the objects of each attribute, by metric, attribute and method."""
    values: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        values.setdefault((row['attribute'], row['method']), []).append(row)
    scores: dict[str, Scores] = {metric: {} for metric in METRICS}
    for (attribute, method), own in sorted(values.items()):
        scenes = [row['scene'] for row in own]
        for metric in METRICS:
            interval = bootstrap_mean([row[metric] for row in own], groups=scenes)
            scores[metric].setdefault(attribute, {})[method] = interval._asdict()
    return scores


def mean(values: Sequence[float]) -> float:
    """Return the mean of what is not NaN; NaN of nothing."""
    present = [value for value in values if value == value]
    return statistics.fmean(present) if present else math.nan


def total_table(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of all objects."""
    header = ['metric', 'map', 'mean and 95 % interval', 'deviation of runs', f'difference to {FIRST}', 'maps scored']
    lines = []
    for metric, methods in scores.items():
        for method, found in methods.items():
            interval, difference = Interval(**found['score']), Interval(**found['difference'])
            paired = str(difference) if method != FIRST else ''
            deviation = f'{found["deviation"]:.3f}' if len(found['runs']) > 1 else '-'
            lines.append([metric, method, str(interval), deviation, paired, f'{interval.number:,}'])
    return header, lines


def attribute_table(scores: dict[str, Scores]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of attributes, with the mean of the attributes at the end of each metric."""
    lines = []
    for metric, attributes in scores.items():
        for attribute, methods in attributes.items():
            lines.append([metric, attribute, *(str(Interval(**methods[method])) for method in METHODS)])
        means = [mean([methods[method]['mean'] for methods in attributes.values()]) for method in METHODS]
        lines.append([metric, 'mean of attributes', *(f'{value:.3f}' for value in means)])
    return ['metric', 'attribute', *METHODS], lines


def without_nan(value: Any) -> Any:
    """Return a value for JSON, which has no NaN: None stands for it."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == '__main__':
    sys.exit(main())
