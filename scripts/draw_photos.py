"""Draw docs/photos.jpg: what an attached branch says of photos that nobody trained it on, beside Grad-CAM.

Example:
    python scripts/make_photo_scenes.py --number 1500 --out data/photo_scenes
    python scripts/demo_photos.py --photos data/photo_scenes --out outputs/demo_photos
    python scripts/draw_photos.py outputs/demo_photos/attached/last.pth.tar --out docs/photos.jpg

The photos are those of scikit-image that anybody may print (public domain and CC0). Chosen before there were maps, they
are not the ones that flatter.
"""

import argparse
import sys
from pathlib import Path

import torch
from demo_photos import draw
from score_photos import explainers_of, load_attached, load_model, package_folder

from timm_abn.data.images import Preprocessing, read_image
from timm_abn.errors import TimmAbnError
from timm_abn.explain.comparison import compare_methods
from timm_abn.staging import staged_files

PHOTOS = ('chelsea.png', 'coffee.png', 'rocket.jpg', 'motorcycle_left.png')
COMPARED = ('attached attention map', 'Grad-CAM at the last stage')  # the better one of the two


def main() -> int:
    """Draw the picture; returns the exit code."""
    args = parse_args()
    try:
        model, paths = load_model(), [package_folder('skimage') / 'data' / name for name in PHOTOS]
        preprocessing = Preprocessing(model)
        images = torch.stack([preprocessing(read_image(path))[0] for path in paths])
        attached = load_attached(args.checkpoint, model, images)
    except TimmAbnError as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    compared = compare_methods(model, images, explainers_of(COMPARED, model, attached))
    sheet = draw(compared, model, images, [path.stem for path in paths])
    with staged_files(args.out.parent) as folder:
        sheet.save(folder / args.out.name, quality=88)
    print(f'The picture is {args.out}')
    return 0


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path, help='of a branch that explains tf_efficientnet_lite0')
    parser.add_argument('--out', type=Path, default=Path('docs/photos.jpg'), help='default: %(default)s')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
