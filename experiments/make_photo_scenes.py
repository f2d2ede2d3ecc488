"""Make photos of things in front of places, from what Debian packages hold: a folder for timm-abn attach.

Example:
    sudo apt-get install tuxpaint-stamps-default mate-backgrounds plasma-workspace-wallpapers lomiri-wallpapers
    python experiments/make_photo_scenes.py --out data/photo_scenes

A scene shows one or two of some 300 photographed animals, fruits, flowers, vehicles, tools and instruments, cut out
along their outline, on a part of one of some 50 wallpapers, most of them photos. The things are from the package
tuxpaint-stamps-default (GPL-2), the wallpapers from mate-backgrounds (GPL-2+, CC-BY-SA-4.0), lomiri-wallpapers
(CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0, CC0) and plasma-workspace-wallpapers (GPL-2+); none of them is part of this
repository.
The same seed makes the same folder of the same files.
"""

import argparse
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.utils import tqdm
from PIL import Image
from results import run

from timm_abn.data.reading import open_image, read_image
from timm_abn.errors import TimmAbnError
from timm_abn.staging import check_new_folder, staged_folder
from timm_abn_cli.argument_types import positive, whole

STAMPS = Path('/usr/share/tuxpaint/stamps')
KINDS = ('animals', 'clothes', 'food', 'hobbies', 'household', 'plants', 'sports', 'vehicles')
BACKGROUNDS = (Path('/usr/share/backgrounds'), Path('/usr/share/wallpapers'))
LEAST_SIDE = 600  # of a wallpaper, in pixels: what is smaller is a preview
MOST_SIDE = 1600  # larger ones are reduced, as a scene shows a third of their side at least
SECOND = 0.3  # how often there are two things
QUALITY = 92


def main(args: argparse.Namespace) -> None:
    """Make the folder."""
    stamps, backgrounds = find_stamps(args.stamps), find_backgrounds(args.backgrounds)
    check_new_folder(args.out)
    places = [read_image(path) for path in tqdm(backgrounds, desc='wallpapers')]
    for place in places:
        place.thumbnail((MOST_SIDE, MOST_SIDE))
    with staged_folder(args.out) as folder:
        for index in tqdm(range(args.number), desc='scenes'):
            drawn = random.Random(f'{args.seed} {index}')
            scene(drawn, stamps, places, args.size).save(folder / f'{index:05}.jpg', quality=QUALITY)
    print(f'{args.number} scenes of {len(stamps)} things on {len(places)} wallpapers are in {args.out}')


def find_stamps(folder: Path) -> list[Path]:
    """Return the photographed things of Tux Paint, or raise TimmAbnError."""
    found = [path for kind in KINDS for path in sorted((folder / kind).rglob('*.png'))]
    found = [path for path in found if 'cartoon' not in path.parts and '_mirror' not in path.stem]
    if not found:
        raise TimmAbnError(f'{folder} has no stamps of {", ".join(KINDS)}: apt-get install tuxpaint-stamps-default')
    return found


def find_backgrounds(folders: Sequence[Path]) -> list[Path]:
    """Return the wallpapers below some folders, of each the largest of its sizes, or raise TimmAbnError."""
    largest: dict[str, Path] = {}
    for path in sorted(path for folder in folders for path in folder.rglob('*.jpg')):
        with open_image(path) as image:
            is_large = min(image.size) >= LEAST_SIDE
        # a picture in several sizes: a folder of files that are called 1920x1080.jpg
        picture = str(path.parent if re.fullmatch(r'\d+x\d+', path.stem) else path)
        if is_large and (picture not in largest or path.stat().st_size > largest[picture].stat().st_size):
            largest[picture] = path
    if not largest:
        raise TimmAbnError(
            f'there are no wallpapers in {", ".join(map(str, folders))}: apt-get install mate-backgrounds '
            'plasma-workspace-wallpapers lomiri-wallpapers'
        )
    return [largest[picture] for picture in sorted(largest)]


def scene(drawn: random.Random, stamps: Sequence[Path], places: Sequence[Image.Image], size: int) -> Image.Image:
    """Return a scene, a square RGB image of ``size`` pixels a side."""
    image = cut_part(drawn, drawn.choice(places), 0.3, size)
    for _ in range(2 if drawn.random() < SECOND else 1):
        with open_image(drawn.choice(stamps)) as stamp:
            thing = stamp.convert('RGBA')
        thing = thing.crop(thing.getchannel('A').getbbox())
        factor = size * drawn.uniform(0.35, 0.9) / max(thing.size)
        extent = [max(round(length * factor), 1) for length in thing.size]
        thing = thing.resize((extent[0], extent[1]), Image.Resampling.LANCZOS)
        if drawn.random() < 0.5:
            thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        corner = drawn.randint(0, size - thing.width), drawn.randint(0, size - thing.height)
        image.paste(thing, corner, thing)
    return image


def cut_part(drawn: random.Random, photo: Image.Image, least: float, size: int) -> Image.Image:
    """Return a square part of a photo, of ``least`` of its shorter side or more, in ``size`` pixels a side."""
    side = drawn.uniform(least, 1.0) * min(photo.size)
    left, top = drawn.uniform(0, photo.width - side), drawn.uniform(0, photo.height - side)
    part = photo.crop((int(left), int(top), int(left + side), int(top + side)))
    return part.resize((size, size), Image.Resampling.LANCZOS)


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--stamps', type=Path, default=STAMPS, help='stamps of Tux Paint (default: %(default)s)')
    parser.add_argument(
        '--backgrounds', type=Path, nargs='+', default=list(BACKGROUNDS), help="folders (default: Debian's)"
    )
    parser.add_argument('--out', type=Path, default=Path('data/photo_scenes'), help='a new folder (%(default)s)')
    parser.add_argument('--number', type=positive, default=2000, help='of scenes (default: %(default)s)')
    parser.add_argument('--size', type=positive, default=256, help='pixels of a side (default: %(default)s)')
    parser.add_argument('--seed', type=whole, default=0, help='(default: %(default)s)')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
