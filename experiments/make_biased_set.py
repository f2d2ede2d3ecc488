"""Make scenes whose background betrays the label in training, and not in test: Fashion-MNIST items, pasted on photos.

Example:
    pip install '.[scenes]'
    python experiments/make_biased_set.py --data-dir data --download --out data/biased

A scene of 64x64 pixels shows one item, on one of four photos. In training each class lies on its own photo, but for
10 % of the scenes; in validation and test every class lies on every photo equally often. So a network that looks at the
background is found out by the worst of the 16 groups of class and photo (as Waterbirds does: Sagawa et al., arXiv
1911.08731).

The folders ``train``, ``val`` and ``test`` have one sub-folder per class, as timm's reader of folders wants them, and
``masks`` has the same with the mask of each item, 255 where it is. A file is called like its photo, with a number.
Items of the test scenes come from Fashion-MNIST's test images. The same seed makes the same folder.
"""

import argparse
import sys

import numpy as np
from huggingface_hub.utils import tqdm
from make_multi_attribute_set import SIZE, add_arguments, background, item, photo, prepare
from PIL import Image
from results import run

from timm_abn.staging import staged_folder

# class of Fashion-MNIST -> the photo that betrays it, of scikit-image
PHOTOS = {'T-shirt/top': 'brick', 'Trouser': 'grass', 'Dress': 'gravel', 'Pullover': 'hubble_deep_field'}
ITEM_SIZE = (32, 48)  # larger than what a feature at the cut sees, or the background shows in all of them
BIAS = 0.9  # share of the training scenes that lie on the photo of their class
SPLITS: dict[str, tuple[int, bool, slice]] = {  # number, whether of Fashion-MNIST's training images, range of its items
    'train': (0, True, slice(0, 55_000)),
    'val': (1, True, slice(55_000, None)),
    'test': (2, False, slice(None)),
}


def main(args: argparse.Namespace) -> None:
    """Make the folder."""
    items = prepare(args)
    photos = [photo(name) for name in PHOTOS.values()]
    with staged_folder(args.out) as folder:
        for split, (number, train, chosen) in SPLITS.items():
            pictures, labels = (values.numpy()[chosen] for values in (items[train].data, items[train].targets))
            pools = [pictures[labels == items[True].classes.index(name)] for name in PHOTOS]
            for index in tqdm(range(getattr(args, split)), desc=f'{split} scenes'):
                random = np.random.default_rng((args.seed, number, index))
                label, place = group(index, split == 'train', random)
                image, mask = scene(random, photos[place], pools[label])
                name = list(PHOTOS)[label].replace('/', '-')
                file = f'{list(PHOTOS.values())[place]}_{index:05}.png'
                for kind, pixels in (('', image), ('masks', mask)):
                    (folder / kind / split / name).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(folder / kind / split / name / file)
    print(f'{sum(getattr(args, split) for split in SPLITS)} scenes are in {args.out}')


def group(index: int, biased: bool, random: np.random.Generator) -> tuple[int, int]:
    """Return the numbers of class and photo of a scene; classes take turns, and so do photos that are not biased."""
    label, turn = index % len(PHOTOS), index // len(PHOTOS)
    if not biased:
        return label, turn % len(PHOTOS)
    if random.random() < BIAS:
        return label, label
    return label, (label + 1 + turn % (len(PHOTOS) - 1)) % len(PHOTOS)


def scene(random: np.random.Generator, pixels: np.ndarray, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (64, 64, 3) of an item on a photo, and the mask of the item (64, 64), 0 or 255."""
    image = background(random, pixels)
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    colour, alpha = item(random, pictures[random.integers(len(pictures))], ITEM_SIZE)
    top, left = random.integers(0, SIZE + 1 - np.array(alpha.shape))
    window = slice(top, top + alpha.shape[0]), slice(left, left + alpha.shape[1])
    image[window] = image[window] * (1 - alpha[..., None]) + colour * alpha[..., None]
    mask[window] = 255 * (alpha > 0.5)
    return image.round().astype(np.uint8), mask


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, 'data/biased', train=8_000, val=800, test=3_200)
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(run(main, parse_args()))
