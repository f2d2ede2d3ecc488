"""Score the maps of multi-task ABNs on scenes whose objects are known: where they lie, what they delete.

Example:
    pip install '.[scenes]'
    python experiments/make_multi_attribute_set.py --data-dir data --download --out data/multi_attribute
    for seed in 0 1 2; do python experiments/train_multi_attribute.py --seed $seed; done
    python experiments/score_scenes.py --data-dir data/multi_attribute --out outputs/scenes

Of each object of the test scenes the map of its attribute is scored: pointing game, and energy in the mask; and of the
objects of the first scenes SRG, deletion and insertion by the probability of the attribute, a sigmoid (``scoring.py``).
The attention map is compared with Grad-CAM of the same network and with controls: noise, a Gaussian in the middle, and
the mean map of the same attribute in other scenes.

Means are over all objects and runs. Intervals, and those of paired differences, come from drawing scenes, each with all
of its objects in all runs. A flat map has no score, nor has one without a positive value any energy.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from photos import see
from results import Row, once, run, where, write
from scoring import FILLS, STEPS, chart_of, claim, make_maps, mean_of, score_maps, table_of
from train_multi_attribute import SIZE

import timm_abn
from timm_abn.data.celeba import CelebA
from timm_abn.data.reading import ImageError, open_image
from timm_abn.errors import TimmAbnError
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import energy, pointing_game
from timm_abn.staging import check_output_folder
from timm_abn_cli.argument_types import positive

ATTENTION, AT_CUT = 'attention map of the task', 'Grad-CAM at the cut'
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    ATTENTION: ('attention', {}),
    'Grad-CAM at the last stage': ('grad_cam', dict(layer='layer4')),
    AT_CUT: ('grad_cam', dict(layer='layer1')),
}
LOCALISATION = {'pointing game': pointing_game, 'energy': energy}
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
    models = {folder: timm_abn.load_model('abn', checkpoint=folder / 'last.pth.tar') for folder in args.runs}
    settings = dict(limit=args.limit, steps=args.steps, walked=args.walked_scenes, fills=FILLS)
    rows: list[Row] = []
    for folder, model in models.items():
        objects = read_objects(model, args.data_dir, args.limit)
        path = args.out / f'{folder.name}.scores.json'
        found = once(path, settings, lambda model=model, objects=objects: score(model, objects, args))
        rows += [dict(row, run=folder.as_posix()) for row in found]
    write(args, result_of(rows, args), rows)


def result_of(rows: list[Row], args: argparse.Namespace) -> dict[str, Any]:
    """Return the table, chart and claims."""
    own, metrics = where(rows, map=ATTENTION), [*LOCALISATION]
    rivals = [*METHODS][1:] + [mean_of(ATTENTION)]
    return dict(
        title='Multi-task networks on scenes',
        command='make scenes',
        setup=f'ABN over `test_resnet`, ten attributes; {len(args.runs)} seeds. Pointing game and energy of '
        f'all objects of {args.limit} test scenes, SRG of those of {args.walked_scenes}.',
        seeds=[*range(len(args.runs))],
        tables=[table_of(rows, 'scene', metrics, rival=AT_CUT)],
        charts=[chart_of(rows, 'Scenes, multi-task network', 'scene')],
        claims=[
            claim(f'Maps of tasks are above {name}', own, where(rows, map=name), ['SRG', metrics[0]], 'scene')
            for name in rivals
        ],
    )


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


def load_segmentation(data_dir: Path, limit: int) -> torch.Tensor:
    """Return what each pixel of the test scenes shows, (N, 64, 64): t + 1 for attribute t, 0 for background."""
    scenes = []
    for name in CelebA(str(data_dir), 'test').images[:limit]:
        path = data_dir / 'segmentation' / name
        try:
            with open_image(path) as file:
                scenes.append(torch.from_numpy(np.array(file)))
        except ImageError as error:
            raise TimmAbnError(f'{error}; make the scenes by experiments/make_multi_attribute_set.py') from None
        if scenes[-1].shape != (SIZE, SIZE):
            raise TimmAbnError(f'{path} must be grey, of {SIZE}x{SIZE} pixels, got {tuple(scenes[-1].shape)}')
    return torch.stack(scenes)


def score(model: Any, objects: Objects, args: argparse.Namespace) -> list[Row]:
    """Return a row for each map and object; SRG of the objects of the first scenes."""
    explainers = {name: create_explainer(method, model, **kwargs) for name, (method, kwargs) in METHODS.items()}
    scene, task = objects.scene, objects.task
    images, masks = objects.images[scene], (objects.masks[scene] == task[:, None, None] + 1).unsqueeze(1)
    maps = make_maps(explainers, model, images, task, BATCH_SIZE)
    few = scene < args.walked_scenes
    walked = {name: own[few] for name, own in maps.items()}
    walks = score_maps(model, images[few], walked, task[few], args.steps, BATCH_SIZE)
    rows = []
    for name, own in maps.items():
        scores = {metric: measure(own, masks).tolist() for metric, measure in LOCALISATION.items()}
        scored = where(walks, map=name)
        for number, (of, attribute, *values) in enumerate(zip(scene.tolist(), task.tolist(), *scores.values())):
            what = dict(map=name, scene=objects.scenes[of], attribute=objects.attributes[attribute])
            walk = {key: value for key, value in scored[number].items() if key not in what} if few[number] else {}
            rows.append({**what, **walk, **dict(zip(scores, values))})
    return rows


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = [Path('outputs/multi_attribute') / f'abn-seed{seed}' for seed in range(3)]
    parser.add_argument('--data-dir', type=Path, default=Path('data/multi_attribute'), help='default: %(default)s')
    parser.add_argument('--runs', type=Path, nargs='+', default=runs, help='folders of runs (default: seeds 0, 1, 2)')
    parser.add_argument('--limit', type=positive, default=2000, help='test scenes (default: %(default)s)')
    parser.add_argument('--walked-scenes', type=positive, default=100, help='of these, for SRG (default: %(default)s)')
    parser.add_argument('--steps', type=positive, default=STEPS, help='of SRG (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('outputs/scenes'), help='default: %(default)s')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
