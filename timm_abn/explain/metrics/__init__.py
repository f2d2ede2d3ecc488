"""Metrics of explanations: tensors in, one number per image out, on the device of the images.

- Faithfulness: ``deletion``, ``insertion``, ``pixel_flipping``, and their curves.
- Localisation: ``pointing_game``, ``energy``, ``chance_corrected_energy``, ``iou``; ``grid_pointing_game``.
- Reliance of an ABN on its map: ``reliance``.
- Doubt: ``position_bias``, ``stability``, ``rank_stability``, ``cascading_randomisation``, ``max_sensitivity``,
  ``sparseness``.

Which maps are flat or hold a NaN, and so have no result or one without a meaning, is told by ``usable_maps``.
"""

from .baselines import BASELINES, gaussian_blur, make_baseline
from .checks import usable_maps
from .faithfulness import (
    area_under_curve,
    deletion,
    deletion_and_insertion_curves,
    deletion_curve,
    insertion,
    insertion_curve,
    replaced_fractions,
)
from .localisation import chance_corrected_energy, energy, iou, pointing_game, pointing_tolerance
from .mosaics import Mosaics, explain_mosaics, grid_pointing_game, make_mosaics
from .pixel_flipping import pixel_flipping, pixel_flipping_curve
from .position_bias import position_bias
from .predictions import predict
from .randomisation import cascading_randomisation, randomised_models
from .reliance import Reliance, RelianceRow, ReplacementEffects, reliance, replacement_effects
from .sensitivity import max_sensitivity
from .similarity import rank_correlation, top_overlap
from .sparseness import sparseness
from .stability import rank_stability, stability

__all__ = [
    'BASELINES',
    'Mosaics',
    'Reliance',
    'RelianceRow',
    'ReplacementEffects',
    'area_under_curve',
    'cascading_randomisation',
    'chance_corrected_energy',
    'deletion',
    'deletion_and_insertion_curves',
    'deletion_curve',
    'energy',
    'explain_mosaics',
    'gaussian_blur',
    'grid_pointing_game',
    'insertion',
    'insertion_curve',
    'iou',
    'make_baseline',
    'make_mosaics',
    'max_sensitivity',
    'pixel_flipping',
    'pixel_flipping_curve',
    'pointing_game',
    'pointing_tolerance',
    'position_bias',
    'predict',
    'randomised_models',
    'rank_correlation',
    'rank_stability',
    'reliance',
    'replaced_fractions',
    'replacement_effects',
    'sparseness',
    'stability',
    'top_overlap',
    'usable_maps',
]
