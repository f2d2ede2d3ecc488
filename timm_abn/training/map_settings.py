"""What the launcher of timm's ``train.py`` takes for maps that are faithful, or like human masks: flags, recipes.

Without a flag, a recipe's settings hold.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import TrainingError
from .faithful import BACKGROUNDS
from .loss import FaithfulMapLoss, check_weight
from .mask_loss import MASK_LOSSES

__all__ = [
    'MapLossSettings',
    'MaskSettings',
    'add_map_arguments',
    'check_choices',
    'read_map_loss',
    'read_masks',
    'take_hard_attention',
]

CHOICES = dict(
    map_loss=('masked',),
    map_background=BACKGROUNDS,
    attention_mask_loss=MASK_LOSSES,
    crop_mode=('center', 'squash', 'border'),
)

# settings of timm under which a mask would not be where the object is, and why
_MIXES = 'mixes images, so that masks fit neither'
_WITHOUT_MASKS = dict(
    aa='rotates and shears images in ways that a mask cannot follow',
    mixup=_MIXES,
    cutmix=_MIXES,
    cutmix_minmax=_MIXES,
    aug_splits='makes several images from one',
    train_img_sizes='transforms images after they left their data set, unlike masks',
)


class MapLossSettings(NamedTuple):
    """How maps are trained to be faithful.

    Attributes:
        weights: Weights of the terms of ``FaithfulMapLoss``, by name.
        background: What takes the place of what a map does not keep (see ``FaithfulTraining``).
    """

    weights: Mapping[str, float]
    background: str = 'mixed'


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


def add_map_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser."""
    add = parser.add_argument
    loss = (
        'train maps to be faithful: with "masked", what the map keeps of the image must be enough for the prediction, '
        'at the price of a second forward pass per step (default: the loss of the paper)'
    )
    add('--map-loss', choices=CHOICES['map_loss'], help=loss)
    weights = (
        'weights of its terms (default: masked=1 area=0.5 smoothness=0 consistency=0 complement=0; area=0 '
        'with hard attention); with complement, the rest of the image must not reveal the class'
    )
    add('--map-loss-weights', nargs='+', metavar='TERM=W', help=weights)
    background = 'what replaces the part that the map does not keep (default: mixed)'
    add('--map-background', choices=CHOICES['map_background'], help=background)
    hard = 'keep the greatest share Q of the map and set the rest to exactly 0; product mechanism (default: soft)'
    add('--hard-attention', type=float, metavar='Q', help=hard)
    masks = (
        'human masks of training images: PNG files named like the images, or a JSON file in COCO format; images '
        'without one are skipped (default: no masks)'
    )
    add('--attention-mask-dir', metavar='DIR|JSON', help=masks)
    distance = 'distance between map and mask (default: bce)'
    add('--attention-mask-loss', choices=CHOICES['attention_mask_loss'], help=distance)
    add('--attention-mask-weight', type=float, metavar='W', help='weight of this loss (default: 1)')
    used = 'share of the masks to use, the same masks for the same --seed (default: 1)'
    add('--attention-mask-share', type=float, metavar='S', help=used)
    crop = "crop of the validation images, as in timm's validate.py (default: that of the model)"
    add('--crop-mode', choices=CHOICES['crop_mode'], help=crop)


def check_choices(config: Mapping[str, object]) -> None:
    """Refuse in a recipe what argparse refuses on the command line."""
    for key, choices in CHOICES.items():
        if config.get(key) not in (None, *choices):
            raise TrainingError(f'{key} must be one of {", ".join(choices)}, got {config[key]!r}.')


def _check_abn(flag: str, settings: argparse.Namespace) -> None:
    """Refuse a flag for other networks; of a model at an address it is known once it is built."""
    if ':' not in settings.model and not settings.model.startswith('abn'):
        raise TrainingError(f'{flag} needs an Attention Branch Network, got --model {settings.model}.')


def take_hard_attention(settings: argparse.Namespace) -> None:
    """Put the hard attention that was asked for among the arguments of the model."""
    if settings.hard_attention is None:
        return
    _check_abn('--hard-attention', settings)
    mechanism = settings.model_kwargs.setdefault('mechanism', 'product')
    if mechanism != 'product':
        raise TrainingError(f"--hard-attention needs mechanism='product', got {mechanism!r}: Eq. 2 hides nothing.")
    settings.model_kwargs['hard_attention'] = settings.hard_attention


def read_map_loss(settings: argparse.Namespace) -> MapLossSettings | None:
    """Return how maps are to be trained; None for the loss of the paper.

    Raises:
        TrainingError: Settings make no sense, or do not go with each other.
    """
    if settings.map_loss is None:
        for flag in ('map_loss_weights', 'map_background'):
            if getattr(settings, flag) is not None:
                raise TrainingError(f'{_flag(flag)} belongs to --map-loss: pass --map-loss masked as well.')
        return None
    _check_abn('--map-loss', settings)
    is_hard = settings.model_kwargs.get('hard_attention', 1) != 1
    defaults = dict(masked=1.0, area=0.0 if is_hard else 0.5, smoothness=0.0, consistency=0.0, complement=0.0)
    weights = {**defaults, **_weights(settings.map_loss_weights or [])}
    return MapLossSettings(weights, settings.map_background or 'mixed')


def _weights(said: Mapping[str, float] | Sequence[str]) -> dict[str, float]:
    """Return the weights that a recipe or the command line gives."""
    if isinstance(said, Mapping):
        weights = dict(said)
    else:
        pairs = [pair.partition('=') for pair in said]
        try:
            weights = {name: float(weight) for name, _, weight in pairs}
        except ValueError as error:
            raise TrainingError('--map-loss-weights must be followed by TERM=WEIGHT, such as area=0.5.') from error
    for name in weights:
        if name not in FaithfulMapLoss.TERMS:
            raise TrainingError(f'--map-loss-weights has no {name!r}; its terms: {", ".join(FaithfulMapLoss.TERMS)}.')
    return weights


def read_masks(settings: argparse.Namespace) -> MaskSettings | None:
    """Return how maps are to be trained with human masks; None if there are none.

    Raises:
        TrainingError: There are no such masks, their settings make no sense, or they do not go with the others.
    """
    values = {name: getattr(settings, f'attention_mask_{name}') for name in ('loss', 'weight', 'share')}
    given = {name: value for name, value in values.items() if value is not None}
    if settings.attention_mask_dir is None:
        for name in given:
            raise TrainingError(f'--attention-mask-{name} belongs to --attention-mask-dir: pass that as well.')
        return None
    multi_task = bool(settings.model_kwargs.get('multi_task'))
    found = MaskSettings(Path(str(settings.attention_mask_dir)), **given, multi_task=multi_task)
    if not found.path.exists():
        raise TrainingError(
            f'--attention-mask-dir {found.path} does not exist: expected a folder of PNG files, or a JSON file in the '
            'form of COCO.'
        )
    check_weight(found.weight, '--attention-mask-weight')
    if isinstance(found.share, bool) or not isinstance(found.share, (int, float)) or not 0 < found.share <= 1:
        raise TrainingError(f'--attention-mask-share must be in (0, 1], got {found.share!r}.')
    _check_abn('--attention-mask-dir', settings)
    _check_run_with_masks(settings)
    return found


def _check_run_with_masks(settings: argparse.Namespace) -> None:
    """Refuse what masks do not go with."""
    map_type = settings.model_kwargs.get('attention_map', 'sigmoid')
    if map_type != 'sigmoid':
        raise TrainingError(
            f"masks need maps in [0, 1]: --attention-mask-dir needs attention_map='sigmoid', got {map_type!r}."
        )
    for key, reason in _WITHOUT_MASKS.items():
        if getattr(settings, key):
            raise TrainingError(f'{_flag(key)} {reason}: leave it out, or --attention-mask-dir.')
    dataset = settings.dataset.lower()
    if dataset == 'compcars':
        raise TrainingError('--dataset compcars crops images to the car, which masks do not follow.')
    if '/' in dataset:
        raise TrainingError(
            f'masks are found by the names of image files, which --dataset {settings.dataset} does not have: pass a '
            'folder of images, or --dataset celeba.'
        )


def _flag(key: str) -> str:
    return f'--{key.replace("_", "-")}'
