"""What the launcher of timm's ``train.py`` takes for training with human masks: flags, and the same keys in recipes."""

import argparse
from pathlib import Path
from typing import NamedTuple

from .errors import TrainingError
from .loss import check_weight
from .map_settings import may_be_abn
from .mask_loss import MASK_LOSSES

__all__ = ['MaskSettings', 'add_mask_arguments', 'read_mask_settings']

# settings of timm under which a mask would not be where the object is, and why
_REFUSED = {
    'aa': 'turns and shears images by steps that a mask cannot follow',
    'mixup': 'mixes images, whose masks then are of neither',
    'cutmix': 'mixes images, whose masks then are of neither',
    'cutmix_minmax': 'mixes images, whose masks then are of neither',
    'aug_splits': 'makes several images of one',
    'train_img_sizes': 'transforms images after they have left their data set, which masks do not',
}


class MaskSettings(NamedTuple):
    """How maps are trained with human masks.

    Attributes:
        path: Folder of PNG files, or JSON file in the form of COCO (``timm_abn.data.masks``).
        loss: One of ``MASK_LOSSES``.
        weight: Weight of that loss.
        share: Share of the images with a mask whose mask is used, above 0 and at most 1.
        multi_task: Whether the network has a map for each attribute of the data set, and not one map.
    """

    path: Path
    loss: str = 'bce'
    weight: float = 1.0
    share: float = 1.0
    multi_task: bool = False


def add_mask_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser; without them, a recipe's settings hold."""
    parser.add_argument(
        '--attention-mask-dir',
        metavar='DIR|JSON',
        help='human masks of training images: PNG files called as the images, or a JSON file in the form of COCO; '
        'images without one are skipped (default: no masks)',
    )
    parser.add_argument(
        '--attention-mask-loss', choices=MASK_LOSSES, help='distance between map and mask (default: bce)'
    )
    parser.add_argument('--attention-mask-weight', type=float, metavar='W', help='weight of that loss (default: 1)')
    parser.add_argument(
        '--attention-mask-share',
        type=float,
        metavar='S',
        help='share of the masks that is used, always the same ones for a --seed (default: 1)',
    )


def read_mask_settings(settings: argparse.Namespace) -> MaskSettings | None:
    """Return how maps are to be trained with masks; None if there are none.

    Raises:
        TrainingError: There are no such masks, their settings make no sense, or they do not go with the others.
    """
    values = {name: getattr(settings, f'attention_mask_{name}') for name in ('loss', 'weight', 'share')}
    given = {name: value for name, value in values.items() if value is not None}
    if settings.attention_mask_dir is None:
        for name in given:
            raise TrainingError(f'--attention-mask-{name} says how --attention-mask-dir works: pass that, too.')
        return None
    multi_task = bool(settings.model_kwargs.get('multi_task'))
    found = MaskSettings(Path(str(settings.attention_mask_dir)), **given, multi_task=multi_task)
    _check_values(found)
    _check_run(settings)
    return found


def _check_values(found: MaskSettings) -> None:
    if not found.path.exists():
        raise TrainingError(
            f'--attention-mask-dir {found.path} does not exist: expected a folder of PNG files, or a JSON file in the '
            'form of COCO.'
        )
    if found.loss not in MASK_LOSSES:  # of a recipe
        raise TrainingError(f'attention_mask_loss must be one of {", ".join(MASK_LOSSES)}, got {found.loss!r}.')
    check_weight(found.weight, '--attention-mask-weight')
    if isinstance(found.share, bool) or not isinstance(found.share, (int, float)) or not 0 < found.share <= 1:
        raise TrainingError(f'--attention-mask-share must be in (0, 1], got {found.share!r}.')


def _check_run(settings: argparse.Namespace) -> None:
    """Refuse what masks do not go with."""
    if not may_be_abn(settings.model):
        raise TrainingError(f'--attention-mask-dir is for Attention Branch Networks, got --model {settings.model}.')
    map_type = settings.model_kwargs.get('attention_map', 'sigmoid')
    if map_type != 'sigmoid':
        raise TrainingError(
            f"masks are for maps in [0, 1]: --attention-mask-dir needs attention_map='sigmoid', got {map_type!r}."
        )
    for key, reason in _REFUSED.items():
        if getattr(settings, key):
            raise TrainingError(f'--{key.replace("_", "-")} {reason}: leave it out, or --attention-mask-dir.')
    dataset = settings.dataset.lower()
    if dataset == 'compcars':
        raise TrainingError('--dataset compcars cuts images to the car, which masks do not follow.')
    if '/' in dataset:
        raise TrainingError(
            f'masks are found by the names of image files, which --dataset {settings.dataset} does not have: pass a '
            'folder of images, or --dataset celeba.'
        )
