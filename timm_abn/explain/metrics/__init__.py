"""Metrics of explanations: tensors in, one number per image out, on the device of the images.

- Faithfulness: ``symmetric_relevance_gain``, ``deletion``, ``insertion``; ``replacement_curves`` for all.
- Localisation: ``pointing_game``, ``energy``, ``chance_corrected_energy``, ``iou``; ``grid_pointing_game``.
- Reliance of an ABN on its map: ``reliance``.
- Sanity checks: ``position_bias``, ``random_head``; similarity of maps: ``rank_correlation``, ``top_overlap``.

``usable_maps`` tells which maps are flat or contain NaN, and so have no meaningful result.
"""

from .baselines import BASELINES, gaussian_blur, make_baseline
from .checks import map_problems, usable_maps
from .faithfulness import (
    STEPS,
    ReplacementCurves,
    deletion,
    insertion,
    replaced_fractions,
    replacement_curves,
    symmetric_relevance_gain,
)
from .localisation import chance_corrected_energy, energy, iou, pointing_game
from .mosaics import Mosaics, draw_members, explain_mosaics, grid_pointing_game, join_mosaics, make_mosaics
from .position_bias import position_bias
from .predictions import predict
from .randomisation import random_head
from .reliance import Reliance, RelianceRow, ReplacementEffects, reliance, replacement_effects
from .similarity import rank_correlation, top_overlap

__all__ = [
    'BASELINES',
    'Mosaics',
    'STEPS',
    'Reliance',
    'RelianceRow',
    'ReplacementCurves',
    'ReplacementEffects',
    'chance_corrected_energy',
    'deletion',
    'energy',
    'draw_members',
    'explain_mosaics',
    'gaussian_blur',
    'grid_pointing_game',
    'insertion',
    'iou',
    'join_mosaics',
    'make_baseline',
    'make_mosaics',
    'map_problems',
    'pointing_game',
    'position_bias',
    'predict',
    'random_head',
    'rank_correlation',
    'reliance',
    'replaced_fractions',
    'replacement_curves',
    'replacement_effects',
    'symmetric_relevance_gain',
    'top_overlap',
    'usable_maps',
]
