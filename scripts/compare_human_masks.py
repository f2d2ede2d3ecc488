"""Train with human masks of none, 1 % and 10 % of the images, where the background betrays the label in training only.

Example:
    pip install '.[scenes]'
    python scripts/make_biased_set.py --data-dir data --download --out data/biased
    python scripts/compare_human_masks.py --data-dir data/biased --out outputs/masks

Every run is timm's train.py under our launcher: the recipe ``biased_scenes`` of an ABN, with ``--attention-mask-dir``
and ``--attention-mask-share``, without, and of its backbone. They see the same images for as many epochs. No epoch is
picked. Stopped and started again, it goes on with the runs that have not ended.

Of the test scenes, where each class lies on each photo equally often: accuracy, that of the worst of the 16 groups of
class and photo, and where the map lies: energy in the mask, and pointing game. Grad-CAM of the backbone, at the layer
where the ABN is cut, is in the place of a map of its own. Means are over all images and seeds; intervals come from
drawing images, each with all of its seeds; the worst group is that of all seeds, and ± is the deviation of the
worst groups of the seeds. Written are ``table.md`` and ``scores.json``.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from compare_fashion_mnist import Contestant, add_training_arguments, experiment, train_all
from huggingface_hub.utils import tqdm

import timm_abn
from timm_abn.errors import TimmAbnError
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import energy, pointing_game
from timm_abn.explain.statistics import Interval, bootstrap_mean
from timm_abn.models.loading import load_classifier
from timm_abn.networks.network import AttentionBranchNet
from timm_abn.publish.markdown import markdown_table
from timm_abn.staging import staged_files
from timm_abn_cli.table import format_table

RECIPE = 'biased_scenes'
CUT = 'layer1'  # of the recipe
SHARES = (0.01, 0.1)
BATCH_SIZE = 200
METRICS = ('accuracy', 'energy', 'pointing')

Row = dict[str, Any]  # contestant, seed, image, group, and a value for each of METRICS


def contestants(data_dir: Path) -> tuple[Contestant, ...]:
    """Return who takes part: the same network with more and more masks, and its backbone."""
    masks = ['--attention-mask-dir', str(data_dir / 'masks' / 'train'), '--attention-mask-weight', '10']
    return (
        Contestant('ABN, no masks', 'abn', [], RECIPE),
        *(
            Contestant(
                f'ABN, masks of {share:.0%}'.replace('%', ' %'),
                'abn',
                [*masks, '--attention-mask-share', str(share)],
                RECIPE,
            )
            for share in SHARES
        ),
        Contestant('backbone', 'test_resnet', [], RECIPE),
    )


def main() -> int:
    """Train what is missing, score, print the table and write it; returns the exit code."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    compared = contestants(args.data_dir)
    if not train_all(args, compared):
        return 1
    try:
        rows = [row for contestant in compared for seed in args.seeds for row in score(contestant, seed, args)]
    except TimmAbnError as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    scores = {
        contestant.title: summarise([row for row in rows if row['contestant'] == contestant.title])
        for contestant in tqdm(compared, desc='intervals')
    }
    table = table_of(scores)
    print(format_table(*table))
    with staged_files(args.out) as folder:
        (folder / 'table.md').write_text(f'{markdown_table(*table)}\n', encoding='utf-8')
        settings = {name: str(value) for name, value in vars(args).items()}
        (folder / 'scores.json').write_text(json.dumps(dict(settings=settings, scores=scores), indent=1) + '\n')
    print(f'\nWritten to: {args.out / "table.md"}, {args.out / "scores.json"}')
    return 0


def score(contestant: Contestant, seed: int, args: argparse.Namespace) -> list[Row]:
    """Return the scores of a run, image by image."""
    name = experiment(contestant, seed)
    model: Any = load_classifier(contestant.model, checkpoint=args.out / name / 'last.pth.tar')
    is_abn = isinstance(model, AttentionBranchNet)
    explainer = create_explainer('attention', model) if is_abn else create_explainer('grad_cam', model, layer=CUT)
    readers = timm_abn.load_samples(model, args.data_dir / 'test', masks=args.data_dir / 'masks' / 'test')
    classes = sorted(path.name for path in (args.data_dir / 'test').iterdir())  # as timm numbers them
    rows = []
    for first in tqdm(range(0, len(readers), BATCH_SIZE), desc=name):
        samples = readers[first : first + BATCH_SIZE]
        images, objects = (torch.stack([getattr(sample, part) for sample in samples]) for part in ('image', 'mask'))
        objects = objects.unsqueeze(1)
        paths = [Path(sample.name) for sample in samples]
        labels = torch.tensor([classes.index(path.parent.name) for path in paths])
        with torch.no_grad():
            right = model(images).argmax(dim=1) == labels
        maps = explainer(images)
        columns = zip(right.tolist(), energy(maps, objects).tolist(), pointing_game(maps, objects).tolist())
        rows += [
            dict(
                contestant=contestant.title,
                seed=seed,
                image=str(path),
                group=f'{path.parent.name} on {path.name.rpartition("_")[0]}',
                **dict(zip(METRICS, map(float, values))),
            )
            for path, values in zip(paths, columns)
        ]
    return rows


def summarise(rows: list[Row]) -> dict[str, Any]:
    """Return the means of a contestant with their intervals, and its worst group, of all seeds and of each."""
    images = [row['image'] for row in rows]
    scores: dict[str, Any] = {
        metric: bootstrap_mean([row[metric] for row in rows], groups=images)._asdict() for metric in METRICS
    }
    group, worst = worst_group(rows)
    seeds = sorted({row['seed'] for row in rows})
    each = {seed: worst_group([row for row in rows if row['seed'] == seed])[1].mean for seed in seeds}
    return dict(scores, worst_group=dict(worst._asdict(), group=group, each=each))


def worst_group(rows: list[Row]) -> tuple[str, Interval]:
    """Return the group whose accuracy is the least, and that."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row['group'], []).append(row)
    found = {
        group: bootstrap_mean([row['accuracy'] for row in own], groups=[row['image'] for row in own])
        for group, own in groups.items()
    }
    return min(found.items(), key=lambda item: item[1].mean)


def table_of(scores: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table."""
    lines = []
    for title, found in scores.items():
        accuracy, inside, pointing = (str(Interval(**found[metric])) for metric in METRICS)
        worst = dict(found['worst_group'])
        group, each = worst.pop('group'), list(worst.pop('each').values())
        deviation = f' ± {statistics.stdev(each):.3f}' if len(each) > 1 else ''
        lines.append([title, accuracy, f'{Interval(**worst)}{deviation}', group, inside, pointing])
    return ['model', 'accuracy', 'worst group', 'which it is', 'energy in the mask', 'pointing game'], lines


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_arguments(parser, 'outputs/masks', 'data/biased', epochs=8)
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
