"""Mosaics: which images they are built from, and how."""

import pytest
import torch
import torch.nn as nn

from timm_abn.errors import TimmAbnError
from timm_abn.explain.metrics import explain_mosaics, grid_pointing_game, make_mosaics


class ByColour(nn.Module):
    """The class is the value of the first pixel; where the second is not 0, it is not sure of it."""

    def forward(self, images):
        doubt = images[:, 0, 0, 1]
        return -(images[:, 0, 0, :1] - torch.arange(6.0)).abs() * (100 * (doubt == 0) + 0.01)[:, None]


def labelled():
    labels = torch.arange(6).repeat(4)
    images = labels.float()[:, None, None, None].repeat(1, 2, 3, 5)
    images[..., 1] = 0.0
    images[:6, :, :, 1] = 1  # in doubt
    wrong = labels.clone()
    wrong[6:12] = (labels[6:12] + 1) % 6  # labelled otherwise than predicted
    images[..., 2] = torch.arange(24.0)[:, None, None]  # their number
    return images, wrong


def test_mosaics_show_confident_images_of_distinct_classes():
    images, labels = labelled()
    mosaics = make_mosaics(ByColour().eval(), images, labels, cells=2, count=30, batch_size=5)
    assert mosaics.images.shape == (30, 2, 6, 10) and mosaics.members.shape == (30, 4)
    assert mosaics.members.min() == 12 and len(mosaics.members.unique()) == 12
    assert all(len(set(classes)) == 4 for classes in mosaics.classes.tolist())
    assert torch.equal(mosaics.classes, labels[mosaics.members])
    for mosaic, members in zip(mosaics.images, mosaics.members):
        rows = [torch.cat([images[i] for i in members[start : start + 2]], dim=2) for start in (0, 2)]
        assert torch.equal(mosaic, torch.cat(rows, dim=1))


def test_draws_are_seeded():
    images, labels = labelled()
    first, again, other = (
        make_mosaics(ByColour().eval(), images, labels, cells=2, count=5, seed=seed).members for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_too_few_classes_are_named():
    images, labels = labelled()
    with pytest.raises(TimmAbnError) as error:
        make_mosaics(ByColour().eval(), images, labels, cells=3)
    assert str(error.value) == (
        'Mosaics of 3 x 3 need images of 9 classes that are predicted rightly with a probability of 0.8 or more; of '
        '24 images 12 are, of 6 classes.'
    )
    with pytest.raises(TimmAbnError, match='^labels must be 24 whole numbers, one per image, got'):
        make_mosaics(ByColour().eval(), images, labels[:3], cells=2)


def test_a_perfect_explainer_scores_1():
    images, labels = labelled()
    mosaics = make_mosaics(ByColour().eval(), images, labels, cells=2, count=7)

    def explainer(batch, targets):
        # only the first column of a cell holds the number of its class in all rows
        found = batch[:, :1] == targets[:, None, None, None]
        columns = torch.zeros_like(found)
        columns[..., ::5] = True
        return (found & columns).float()

    maps = explain_mosaics(explainer, mosaics, batch_size=3)
    assert maps.shape == (7, 4, 6, 10)
    assert torch.equal(grid_pointing_game(maps, (6, 10)), torch.ones(7, 4))
    moved = grid_pointing_game(maps.roll(1, dims=1), (6, 10))
    assert torch.equal(moved, torch.zeros(7, 4))
