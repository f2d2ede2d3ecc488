"""What the launcher of timm's ``train.py`` takes for faithful maps: flags, and the same keys in recipes."""

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .errors import TrainingError
from .faithful import BACKGROUNDS
from .loss import FaithfulMapLoss

__all__ = ['MapLossSettings', 'add_map_arguments', 'may_be_abn', 'read_map_loss', 'take_hard_attention']

MAP_LOSSES = ('masked',)


class MapLossSettings(NamedTuple):
    """How maps are trained to be faithful.

    Attributes:
        weights: Weights of the terms of ``FaithfulMapLoss``, by name.
        background: What takes the place of what a map does not keep (see ``FaithfulTraining``).
    """

    weights: Mapping[str, float]
    background: str = 'mixed'


def add_map_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser; without them, a recipe's settings hold."""
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
        'attention is hard); complement asks that nothing can be told from where the map is not',
    )
    parser.add_argument(
        '--map-background',
        choices=BACKGROUNDS,
        help='what takes the place of what the map does not keep (default: mixed)',
    )
    parser.add_argument(
        '--hard-attention',
        type=float,
        metavar='Q',
        help='keep the share Q of the map that is greatest, the rest is exactly 0; product mechanism (default: soft)',
    )


def may_be_abn(name: str) -> bool:
    """Return whether a model may be an Attention Branch Network; of an address that is known once it is built."""
    return ':' in name or name.startswith('abn')


def take_hard_attention(settings: argparse.Namespace) -> None:
    """Put the hard attention that was asked for among the arguments of the model.

    Raises:
        TrainingError: The model has none.
    """
    if settings.hard_attention is None:
        return
    if not may_be_abn(settings.model):
        raise TrainingError(f'--hard-attention is for Attention Branch Networks, got --model {settings.model}.')
    mechanism = settings.model_kwargs.setdefault('mechanism', 'product')
    if mechanism != 'product':
        raise TrainingError(f"--hard-attention needs mechanism='product', got {mechanism!r}: Eq. 2 hides nothing.")
    settings.model_kwargs['hard_attention'] = settings.hard_attention


def read_map_loss(settings: argparse.Namespace) -> MapLossSettings | None:
    """Return how maps are to be trained; None for the loss of the paper.

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
    defaults = dict(masked=1.0, area=0.0 if is_hard else 0.5, smoothness=0.0, consistency=0.0, complement=0.0)
    return MapLossSettings({**defaults, **_weights(settings.map_loss_weights or [])}, background)


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
