"""Noisy linear imputation against a sparse direct solution of the same equations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from timm_abn.explain.metrics import imputation
from timm_abn.explain.metrics.imputation import impute_linearly

WEIGHTS = {(y, x): 1 / 12 if y and x else 1 / 6 for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)}


def solved(image, removed):
    """Return an image (C, H, W) whose removed pixels are what the equations say, one by one."""
    sparse, linalg = pytest.importorskip('scipy.sparse'), pytest.importorskip('scipy.sparse.linalg')
    places = {tuple(place): row for row, place in enumerate(np.argwhere(removed))}
    matrix, right = sparse.lil_matrix((len(places), len(places))), np.zeros((len(places), len(image)))
    for (y, x), row in places.items():
        for (down, along), weight in WEIGHTS.items():
            other = y + down, x + along
            if 0 <= other[0] < removed.shape[0] and 0 <= other[1] < removed.shape[1]:
                matrix[row, row] += weight
                if other in places:
                    matrix[row, places[other]] = -weight
                else:
                    right[row] += weight * image[:, other[0], other[1]]
    filled = image.copy()
    filled[:, removed] = np.atleast_2d(linalg.spsolve(matrix.tocsc(), right)).T.reshape(len(image), -1)
    return filled


@pytest.mark.parametrize('height, width', [(28, 21), (9, 5)])
def test_equal_to_a_direct_solution(height, width, monkeypatch):
    monkeypatch.setattr(imputation, 'NOISE', 0.0)
    generator = torch.Generator().manual_seed(0)
    images = 2 * torch.randn(6, 3, height, width, generator=generator)
    smooth = F.interpolate(torch.rand(6, 1, 3, 3, generator=generator), (height, width), mode='bilinear')
    values = torch.cat([smooth[:3], torch.rand(3, 1, height, width, generator=generator)])
    places = values.flatten(1).argsort(dim=1).argsort(dim=1).view_as(values)
    counts = torch.tensor([0.2, 0.7, 0.98] * 2).mul(height * width).int().view(-1, 1, 1, 1)
    removed = places < counts
    filled = impute_linearly(images, removed)
    extent = images.max() - images.min()
    for index in range(6):
        expected = solved(images[index].double().numpy(), removed[index, 0].numpy())
        assert np.abs(filled[index].numpy() - expected).max() < 1e-3 * extent
    alone = torch.cat([impute_linearly(images[index : index + 1], removed[index : index + 1]) for index in range(6)])
    torch.testing.assert_close(alone, filled, atol=1e-5, rtol=0)


def test_nothing_left_nothing_removed_and_noise():
    images = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    everything = torch.ones(2, 1, 20, 20, dtype=torch.bool)
    assert torch.equal(impute_linearly(images, ~everything), images)
    noise = impute_linearly(images, everything)
    assert noise.std().item() == pytest.approx(0.01, rel=0.1) and torch.equal(noise[0], noise[1])
    one_left = everything.clone()
    one_left[:, :, 3, 4] = False
    expected = images[:, :, 3:4, 4:5] + noise
    torch.testing.assert_close(impute_linearly(images, one_left)[:, :, 10:], expected[:, :, 10:], atol=1e-3, rtol=0)
    half = impute_linearly(images.half(), one_left)
    assert half.dtype == torch.float16 and bool(half.isfinite().all())
