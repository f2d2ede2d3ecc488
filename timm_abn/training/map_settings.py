"""What the launcher of timm's ``train.py`` takes for faithful maps: flags, and the same keys in recipes."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..networks.map_training import BACKGROUNDS
from .errors import TrainingError
from .loss import ExplainingMapLoss, FaithfulMapLoss

__all__ = [
    'MAP_KEYS',
    'MapLossSettings',
    'add_map_arguments',
    'freeze_backbone_arguments',
    'hard_attention_arguments',
    'may_be_abn',
    'model_kwargs_flags',
    'read_map_loss',
]

MAP_LOSSES = ('masked',)
MAP_KEYS: dict[str, Any] = dict(
    map_loss=None, map_loss_weights=None, map_background=None, hard_attention=None, freeze_backbone=None
)


class MapLossSettings(NamedTuple):
    """How maps are trained to be faithful.

    Attributes:
        weights: Weights of the terms of ``FaithfulMapLoss``, by name.
        background: What takes the place of what a map does not keep (see ``AttentionBranchNet.train_maps``).
        explains: Whether maps are to be true of a backbone that stays as it is (see ``ExplainingMapLoss``).
    """

    weights: Mapping[str, float]
    background: str = 'mixed'
    explains: bool = False


def add_map_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser; without them, a recipe's settings hold.

    Args:
        parser: That of the launcher's own flags.
    """
    parser.add_argument(
        '--map-loss',
        choices=MAP_LOSSES,
        help='train maps to be faithful: "masked" asks that the prediction stands on what the map keeps, at the price '
        'of a second forward pass per step (default: the loss of the paper)',
    )
    parser.add_argument(
        '--map-loss-weights',
        nargs='+',
        metavar='TERM=W',
        help='weights of its terms (default: masked=1 area=0.5 smoothness=0 consistency=0 complement=0; area=0 where '
        'attention is hard; with --freeze-backbone area=0 complement=0.3); complement asks that nothing can be '
        'told from where the map is not',
    )
    parser.add_argument(
        '--map-background',
        choices=BACKGROUNDS,
        help='what takes the place of what the map does not keep (default: mixed)',
    )
    parser.add_argument(
        '--freeze-backbone',
        action='store_const',
        const=True,
        help='leave a trained backbone (--model-kwargs pretrained_backbone=F) as it is, and train a map to explain it, '
        'by --map-loss masked with its own predictions as targets (default: all is trained)',
    )
    parser.add_argument(
        '--hard-attention',
        type=float,
        metavar='Q',
        help='keep the share Q of the map that is greatest, the rest is exactly 0; product mechanism (default: soft)',
    )


def freeze_backbone_arguments(settings: argparse.Namespace) -> list[str]:
    """Return the flags that let timm's script build a network whose map explains a backbone that stays as it is.

    Args:
        settings: Settings of the run, whose ``model_kwargs`` get it, too, and whose ``map_loss`` is set.

    Raises:
        TrainingError: The model has no such map, or there are no weights to explain.
    """
    if not settings.freeze_backbone:
        return []
    if not may_be_abn(settings.model):
        raise TrainingError(f'--freeze-backbone is for Attention Branch Networks, got --model {settings.model}.')
    insertion = settings.model_kwargs.setdefault('insertion', 'explaining')
    if insertion != 'explaining':
        raise TrainingError(f"--freeze-backbone needs insertion='explaining', got {insertion!r}.")
    weights = ('pretrained', 'pretrained_path', 'initial_checkpoint', 'resume')
    if not settings.model_kwargs.get('pretrained_backbone') and not any(getattr(settings, name) for name in weights):
        raise TrainingError(
            '--freeze-backbone explains a trained backbone: pass --model-kwargs pretrained_backbone=True, or the name '
            'of a checkpoint of the backbone there.'
        )
    settings.map_loss = settings.map_loss or 'masked'
    return model_kwargs_flags(settings)


def may_be_abn(name: str) -> bool:
    """Return whether a model may be an Attention Branch Network; of an address that is known once it is built.

    Args:
        name: Name of the model, or its address.
    """
    return ':' in name or name.startswith('abn')


def hard_attention_arguments(settings: argparse.Namespace) -> list[str]:
    """Return the flags that let timm's script build a network with the hard attention that was asked for.

    Args:
        settings: Settings of the run, whose ``model_kwargs`` get it, too.

    Raises:
        TrainingError: The model has none.
    """
    if settings.hard_attention is None:
        return []
    if not may_be_abn(settings.model):
        raise TrainingError(f'--hard-attention is for Attention Branch Networks, got --model {settings.model}.')
    mechanism = settings.model_kwargs.setdefault('mechanism', 'product')
    if mechanism != 'product':
        raise TrainingError(f"--hard-attention needs mechanism='product', got {mechanism!r}: Eq. 2 hides nothing.")
    settings.model_kwargs['hard_attention'] = settings.hard_attention
    return model_kwargs_flags(settings)


def model_kwargs_flags(settings: argparse.Namespace) -> list[str]:
    """Return the flags that give timm's script the arguments of the model.

    Args:
        settings: Settings of the run.
    """
    return ['--model-kwargs', *(f'{key}={value!r}' for key, value in settings.model_kwargs.items())]


def read_map_loss(settings: argparse.Namespace) -> MapLossSettings | None:
    """Return how maps are to be trained; None for the loss of the paper.

    Args:
        settings: Settings of the run.

    Raises:
        TrainingError: Something else than a map loss was asked for, or its settings make no sense.
    """
    if settings.map_loss is None:
        said = {'--map-loss-weights': settings.map_loss_weights, '--map-background': settings.map_background}
        for flag in (flag for flag, value in said.items() if value is not None):
            raise TrainingError(f'{flag} says how --map-loss works: pass --map-loss masked, too.')
        return None
    if settings.map_loss not in MAP_LOSSES:
        raise TrainingError(f'map_loss must be one of {", ".join(MAP_LOSSES)}, got {settings.map_loss!r}.')
    if not may_be_abn(settings.model):
        raise TrainingError(f'--map-loss is for Attention Branch Networks, got --model {settings.model}.')
    background = settings.map_background or 'mixed'
    if background not in BACKGROUNDS:
        raise TrainingError(f'map_background must be one of {", ".join(BACKGROUNDS)}, got {background!r}.')
    is_hard = settings.model_kwargs.get('hard_attention', 1) != 1
    explains = bool(settings.freeze_backbone)
    defaults = dict(masked=1.0, area=0.0 if is_hard else 0.5, smoothness=0.0, consistency=0.0, complement=0.0)
    weights = {**(ExplainingMapLoss.DEFAULTS if explains else defaults), **_weights(settings.map_loss_weights)}
    return MapLossSettings(weights, background, explains)


def _weights(said: Any) -> dict[str, float]:
    if isinstance(said, Mapping):  # of a recipe
        weights = dict(said)
    else:
        weights = _pairs(said or [])
    for name in weights:
        if name not in FaithfulMapLoss.TERMS:
            raise TrainingError(f'--map-loss-weights has no {name!r}; its terms: {", ".join(FaithfulMapLoss.TERMS)}.')
    return weights


def _pairs(said: Sequence[str]) -> dict[str, float]:
    pairs = [pair.partition('=') for pair in said]
    try:
        return {name: float(weight) for name, _, weight in pairs}
    except ValueError as error:
        raise TrainingError('--map-loss-weights must be followed by TERM=WEIGHT, such as area=0.5.') from error
