"""Make scenes with several attributes and known object masks: Fashion-MNIST items, pasted on photos.

Example:
    pip install '.[scenes]'
    python experiments/make_multi_attribute_set.py --data-dir data --download --out data/multi_attribute

A scene of 64x64 pixels shows two to four items of different classes, each with a size, a tint and a place of its own.
Attribute t says whether an item of class t is in the scene. Items of the test scenes come from Fashion-MNIST's test
images, and lie on photos that no training scene shows.

The folder has the layout of CelebA, and is read as such (``--dataset celeba``): ``img_align_celeba/*.png``,
``list_attr_celeba.txt``, ``list_eval_partition.txt``. Beside them, ``segmentation/*.png`` tells what each pixel shows:
t + 1 where it is the item of attribute t, 0 where it is background. The same seed makes the same folder.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
from huggingface_hub.utils import tqdm
from PIL import Image
from results import run
from torchvision.datasets import FashionMNIST

from timm_abn.errors import TimmAbnError, one_line
from timm_abn.staging import check_new_folder, staged_folder
from timm_abn_cli.argument_types import positive, whole

SIZE = 64
ITEMS = (2, 4)
ITEM_SIZE = (20, 32)
LEAST_VISIBLE = 0.75  # of the pixels of every item
FOREGROUND = 16  # of 255: Fashion-MNIST's background is black, with a little noise

TRAINING_PHOTOS = ('astronaut', 'brick', 'cat', 'coins', 'grass', 'hubble_deep_field', 'motorcycle', 'retina')
TEST_PHOTOS = ('camera', 'coffee', 'gravel', 'moon', 'rocket')

# name -> partition of CelebA, Fashion-MNIST's training images, range of its items, photos
SPLITS: dict[str, tuple[int, bool, slice, tuple[str, ...]]] = {
    'train': (0, True, slice(0, 55_000), TRAINING_PHOTOS),
    'val': (1, True, slice(55_000, None), TRAINING_PHOTOS),
    'test': (2, False, slice(None), TEST_PHOTOS),
}


def main(args: argparse.Namespace) -> None:
    """Make the folder."""
    items = prepare(args)
    with staged_folder(args.out) as folder:
        rows: list[tuple[str, int, list[int]]] = []
        for name in ('img_align_celeba', 'segmentation'):
            (folder / name).mkdir()
        for split, (partition, train, chosen, photos) in SPLITS.items():
            pictures = items[train].data.numpy()[chosen]
            labels = items[train].targets.numpy()[chosen]
            backgrounds = [photo(name) for name in photos]
            for index in tqdm(range(getattr(args, split)), desc=f'{split} scenes'):
                random = np.random.default_rng((args.seed, partition, index))
                image, segmentation = scene(random, backgrounds, pictures, labels)
                file = f'{len(rows) + 1:06}.png'
                Image.fromarray(image).save(folder / 'img_align_celeba' / file)
                Image.fromarray(segmentation).save(folder / 'segmentation' / file)
                present = np.isin(np.arange(1, 11), segmentation)
                rows.append((file, partition, [1 if there else -1 for there in present]))
        # names of attributes are words without blanks in CelebA's files
        names = [name.replace(' ', '_') for name in items[True].classes]
        lines = [str(len(rows)), ' '.join(names), *(f'{file} {" ".join(map(str, row))}' for file, _, row in rows)]
        (folder / 'list_attr_celeba.txt').write_text('\n'.join(lines) + '\n')
        (folder / 'list_eval_partition.txt').write_text(''.join(f'{file} {part}\n' for file, part, _ in rows))
    print(f'{len(rows)} scenes are in {args.out}')


def prepare(args: argparse.Namespace) -> dict[bool, FashionMNIST]:
    """Return the training items, by True, and the test items, once it is sure that scenes can be made of them."""
    missing = [name for name in ('scipy', 'skimage') if importlib.util.find_spec(name) is None]
    if missing:
        raise TimmAbnError(f"{' and '.join(missing)} cannot be imported: pip install '.[scenes]'")
    check_new_folder(args.out)
    return {train: load_items(args.data_dir, train, args.download) for train in (True, False)}


def load_items(data_dir: Path, train: bool, download: bool = False) -> FashionMNIST:
    """Return Fashion-MNIST, or raise TimmAbnError."""
    try:
        return FashionMNIST(str(data_dir), train=train, download=download)
    except Exception as error:  # on damaged files torchvision raises errors of several types
        raise TimmAbnError(
            f'{data_dir / "FashionMNIST" / "raw"} must hold Fashion-MNIST: {one_line(error)}; delete what is damaged '
            'there, and pass --download'
        ) from error


def photo(name: str) -> np.ndarray:
    """Return a photo of scikit-image, shape (H, W, 3)."""
    import skimage.data  # of the extra, as scipy is below; --help works without

    pixels = skimage.data.stereo_motorcycle()[0] if name == 'motorcycle' else getattr(skimage.data, name)()
    return np.asarray(Image.fromarray(pixels).convert('RGB'))


def scene(
    random: np.random.Generator, backgrounds: list[np.ndarray], pictures: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (64, 64, 3) and its segmentation (64, 64)."""
    image = background(random, backgrounds[random.integers(len(backgrounds))])
    segmentation = np.zeros((SIZE, SIZE), dtype=np.uint8)
    classes = random.permutation(10)[: random.integers(ITEMS[0], ITEMS[1] + 1)]
    areas: dict[int, int] = {}
    for label in classes:
        picture = pictures[random.choice(np.flatnonzero(labels == label))]
        colour, alpha = item(random, picture)
        mask = alpha > 0.5
        areas[label + 1] = mask.sum()
        for _ in range(1000):  # the third or fourth item does not always find a place at once
            top, left = random.integers(0, SIZE + 1 - np.array(alpha.shape))
            window = slice(top, top + alpha.shape[0]), slice(left, left + alpha.shape[1])
            covered = segmentation.copy()
            covered[window][mask] = label + 1
            if all((covered == value).sum() >= LEAST_VISIBLE * area for value, area in areas.items()):
                segmentation = covered
                image[window] = image[window] * (1 - alpha[..., None]) + colour * alpha[..., None]
                break
        else:
            return scene(random, backgrounds, pictures, labels)
    return image.round().astype(np.uint8), segmentation


def background(random: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Return a random piece of a photo, at random scale, perhaps mirrored, shape (64, 64, 3)."""
    side = random.integers(SIZE, min(pixels.shape[:2]) // 2 + 1)
    top, left = (random.integers(0, length + 1 - side) for length in pixels.shape[:2])
    piece = Image.fromarray(pixels[top : top + side, left : left + side]).resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(piece, dtype=np.float64)[:, :: random.choice((1, -1))].copy()


def item(
    random: np.random.Generator, picture: np.ndarray, size: tuple[int, int] = ITEM_SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Return an item at random size with a random tint: colours (s, s, 3) in [0, 255] and opacity (s, s) in [0, 1]."""
    from scipy.ndimage import binary_fill_holes

    side = random.integers(size[0], size[1] + 1)
    tint = random.uniform(0.5, 1.0, 3)
    opaque = binary_fill_holes(picture > FOREGROUND)
    grey, alpha = (
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR))
        for plane in (picture, opaque)
    )
    return grey[..., None] * tint, alpha


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, 'data/multi_attribute', train=20_000, val=1_000, test=2_000)
    return parser.parse_args()


def add_arguments(parser: argparse.ArgumentParser, out: str, train: int, val: int, test: int) -> None:
    """Add what says of what scenes are made, how many, and where they go."""
    parser.add_argument('--data-dir', type=Path, default=Path('data'), help='folder that holds FashionMNIST/raw')
    parser.add_argument('--download', action='store_true', help='download Fashion-MNIST into it')
    parser.add_argument('--out', type=Path, default=Path(out), help='default: %(default)s')
    parser.add_argument('--train', type=positive, default=train, help='training scenes (default: %(default)s)')
    parser.add_argument('--val', type=positive, default=val, help='validation scenes (default: %(default)s)')
    parser.add_argument('--test', type=positive, default=test, help='test scenes (default: %(default)s)')
    parser.add_argument('--seed', type=whole, default=0)


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
