"""Localisation scores against numbers computed by hand, and what has none."""

import pytest
import torch

from timm_abn.errors import TimmAbnError
from timm_abn.explain.metrics import (
    chance_corrected_energy,
    energy,
    grid_pointing_game,
    iou,
    pointing_game,
    usable_maps,
)

SCORES = [pointing_game, energy, chance_corrected_energy, iou]


def grid(rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)[None, None]


MAP = grid([[0, 1, 0, 0], [2, 6, 1, 0], [0, 0, 0, 0], [0, 0, 0, 2]])
MASK = grid([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]], torch.bool)


def test_energy_by_hand():
    assert energy(MAP, MASK).tolist() == [3 / 12]
    assert chance_corrected_energy(MAP, MASK).tolist() == [(3 / 12 - 6 / 16) / (10 / 16)]
    # negative values are no energy
    assert energy(MAP - 1, MASK).tolist() == [1 / 7]
    assert chance_corrected_energy(MASK.double(), MASK).tolist() == [1]
    assert chance_corrected_energy((~MASK).double(), MASK).tolist() == [-6 / 10]


def test_iou_by_hand():
    # thresholds 6, 2, 1 and 0 keep 1, 3, 5 and 16 places, of which 0, 1, 2 and 6 of the mask's 6
    assert iou(MAP, MASK).tolist() == [max(0 / 7, 1 / 8, 2 / 9, 6 / 16)]
    assert iou(MASK.double(), MASK).tolist() == [1]
    # equal values cannot be told apart, in whatever order they are
    for row in ([1, 1, 0, 0], [0, 0, 1, 1]):
        assert iou(grid([[1, 1, 1, 1], [0, 0, 0, 0]]), grid([row, [0, 0, 0, 0]], torch.bool)).tolist() == [2 / 4]


def test_pointing_game_by_hand():
    for tolerance, hit in ((0, 0), (0.9, 0), (1, 1), (5, 1)):
        assert pointing_game(MAP, MASK, tolerance).tolist() == [hit]
    # the tolerance is a circle
    maps, masks = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    maps[0, 0, 0, 0] = 1
    masks[0, 0, 3, 4] = True
    assert [pointing_game(maps, masks, radius).item() for radius in (4.9, 5)] == [0, 1]
    # of equal maxima the first counts
    for row, hit in (([0, 1, 0, 0], 1), ([0, 0, 0, 1], 0)):
        assert pointing_game(grid([[0, 3, 0, 3]]), grid([row], torch.bool)).item() == hit
    with pytest.raises(TimmAbnError, match=r'^tolerance must be 0 or more pixels, got -1\.$'):
        pointing_game(MAP, MASK, -1)


def test_maps_are_upsampled_to_the_masks():
    maps = grid([[1, 0], [0, 0]])
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2, :2] = True
    # bilinear: rows of weights 1, 3/4, 1/4, 0
    weights = torch.tensor([1, 0.75, 0.25, 0], dtype=torch.float64)
    expected = weights[:2].sum() ** 2 / weights.sum() ** 2
    assert energy(maps, mask).item() == expected.item()
    assert pointing_game(maps, mask).item() == 1 and iou(maps, mask).item() == 1


def problems():
    """Images of which only the first can be scored."""
    maps, masks = MAP.repeat(6, 1, 1, 1), MASK.repeat(6, 1, 1, 1)
    maps[1] = 0.3
    maps[2, 0, 3, 0] = float('nan')
    maps[3, 0, 3, 0] = float('inf')
    maps[4] = 0
    masks[5] = False
    return maps, masks


@pytest.mark.parametrize('score', SCORES)
def test_what_cannot_be_scored_is_nan(score):
    maps, masks = problems()
    for dtype in (torch.float32, torch.float64):
        scores = score(maps.to(dtype), masks)
        assert scores.isnan().tolist() == [False, *[True] * 5]
        torch.testing.assert_close(scores[:1], score(MAP, MASK).to(dtype))
    assert usable_maps(maps).tolist() == [True, False, False, False, False, True]


def test_energy_without_positive_values_is_nan():
    assert energy(MAP - 10, MASK).isnan().all() and pointing_game(MAP - 10, MASK, 1).item() == 1
    assert chance_corrected_energy(MAP, torch.ones_like(MASK)).isnan().all()


@pytest.mark.parametrize('score', SCORES)
def test_refused_arguments(score):
    with pytest.raises(TimmAbnError, match=r'^masks must be bool of shape \(B, 1, H, W\), got \(1, 1, 4, 4\) of'):
        score(MAP, MASK.float())
    with pytest.raises(TimmAbnError, match=r'^maps must be floats of shape \(2, 1, h, w\), one per image, got \(1, 1,'):
        score(MAP, MASK.repeat(2, 1, 1, 1))


def test_grid_pointing_game_by_hand():
    maps = torch.zeros(1, 4, 4, 4, dtype=torch.float64)
    maps[0, 0, 0, 0], maps[0, 0, 3, 3] = 3, 1
    maps[0, 1, 1, 2], maps[0, 1, 0, 0] = 2, -5
    maps[0, 2, 0, 0] = 4
    maps[0, 3] = 7
    scores = grid_pointing_game(maps, (4, 4))
    assert scores[0, :3].tolist() == [3 / 4, 1, 0] and scores[0, 3].isnan()
    with pytest.raises(
        TimmAbnError, match=r'^maps must have shape \(M, n \* n, h, w\) with an n that divides the size'
    ):
        grid_pointing_game(maps, (5, 4))
    with pytest.raises(TimmAbnError, match=r'got \(1, 3, 4, 4\)\.$'):
        grid_pointing_game(maps[:, :3], (4, 4))
