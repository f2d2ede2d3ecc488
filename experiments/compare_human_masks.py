"""Train with human masks of none, 1 % and 10 % of the images, where the background betrays the label in training only.

Example:
    pip install '.[scenes]'
    python experiments/make_biased_set.py --data-dir data --download --out data/biased
    python experiments/compare_human_masks.py --data-dir data/biased --out outputs/masks

Every run is timm's train.py under our launcher: the recipe ``biased_scenes`` of an ABN, with ``--attention-mask-dir``
and ``--attention-mask-share``, without, and of its backbone. They see the same images for as many epochs. Stopped and
started again, it goes on with the runs that have not ended.

Of the test scenes, where each class lies on each photo equally often: accuracy, that of the worst of the 16 groups of
class and photo, and where the map lies: energy in the mask, and pointing game. Grad-CAM of the backbone, at the layer
where the ABN is cut, is in the place of a map of its own. Means are over all images and seeds; intervals come from
drawing images, each with all of its seeds; the worst group is that of all seeds, and ± is the deviation of the
worst groups of the seeds.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import tqdm
from results import Cells, Row, deviation, interval, means, run, where, write
from trainings import Contestant, add_training_arguments, train_all

import timm_abn
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import energy, pointing_game
from timm_abn.networks.network import AttentionBranchNet

RECIPE = 'biased_scenes'
CUT = 'layer1'  # of the recipe
COLUMNS = ('model', 'accuracy', 'worst group', 'which it is', 'energy in the mask', 'pointing game')
SETUP = (
    'Scenes of one item on one of four photos, which betrays the class in training alone. ABNs over `test_resnet` with '
    'hard attention; ± is the deviation of the seeds. Of the backbone Grad-CAM is in the place of a map.'
)
SHARES = (0.01, 0.1)
BATCH_SIZE = 200


def contestants(data_dir: Path) -> list[Contestant]:
    """Return who takes part: the same network with more and more masks, and its backbone."""
    masks = ('--attention-mask-dir', str(data_dir / 'masks' / 'train'), '--attention-mask-weight', '10')
    taught = [
        Contestant(f'ABN, masks of {100 * share:g} %', 'abn', (*masks, '--attention-mask-share', str(share)), RECIPE)
        for share in SHARES
    ]
    plain = Contestant('backbone', 'test_resnet', recipe=RECIPE)
    return [Contestant('ABN, no masks', 'abn', recipe=RECIPE), *taught, plain]


def main(args: argparse.Namespace) -> None:
    """Train what is missing, score, and write the table."""
    compared = contestants(args.data_dir)
    train_all(args, compared)
    rows = [row for contestant in compared for seed in args.seeds for row in score(contestant, seed, args)]
    lines: list[Cells] = [[*line_of(contestant.title, rows)] for contestant in compared]
    table = dict(columns=[*COLUMNS], rows=lines)
    write(args, dict(title='Human masks', setup=SETUP, command='make masks', tables=[table]), rows)


def score(contestant: Contestant, seed: int, args: argparse.Namespace) -> list[Row]:
    """Return the scores of a run, image by image."""
    model: Any = contestant.load(args, seed)
    is_abn = isinstance(model, AttentionBranchNet)
    explainer = create_explainer('attention', model) if is_abn else create_explainer('grad_cam', model, layer=CUT)
    found = timm_abn.load_samples(model, args.data_dir / 'test', masks=args.data_dir / 'masks' / 'test')
    classes = sorted(path.name for path in (args.data_dir / 'test').iterdir())  # as timm numbers them
    rows = []
    for first in tqdm(range(0, len(found), BATCH_SIZE), desc=contestant.folder(args, seed).name):
        samples = [found[index] for index in range(first, min(first + BATCH_SIZE, len(found)))]
        images, objects = (torch.stack([getattr(sample, part) for sample in samples]) for part in ('image', 'mask'))
        objects = objects.unsqueeze(1)
        paths = [Path(sample.name) for sample in samples]
        labels = torch.tensor([classes.index(path.parent.name) for path in paths])
        with torch.no_grad():
            right = (model(images).argmax(dim=1) == labels).float()
        maps = explainer(images)
        scores = right.tolist(), energy(maps, objects).tolist(), pointing_game(maps, objects).tolist()
        for path, *values in zip(paths, *scores):
            group = f'{path.parent.name} on {path.name.rpartition("_")[0]}'
            what = dict(model=contestant.title, seed=seed, image=str(path), group=group)
            rows.append(dict(what, **dict(zip(('accuracy', 'energy', 'pointing'), values))))
    return rows


def line_of(title: str, rows: list[Row]) -> list[str]:
    """Return the line of a contestant."""
    own = where(rows, model=title)
    group = worst_group(own)
    seeds = [where(own, seed=seed) for seed in sorted({row['seed'] for row in own})]
    each = [means(found, 'accuracy', of='group')[worst_group(found)] for found in seeds]
    accuracy, inside, pointing = (str(interval(own, metric)) for metric in ('accuracy', 'energy', 'pointing'))
    worst = f'{interval(where(own, group=group), "accuracy")}{deviation(each)}'
    return [title, accuracy, worst, group, inside, pointing]


def worst_group(rows: list[Row]) -> str:
    """Return the group whose accuracy is the least."""
    accuracies = means(rows, 'accuracy', of='group')
    return min(accuracies, key=lambda group: accuracies[group])


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, 'outputs/masks', 'data/biased', epochs=8)
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
