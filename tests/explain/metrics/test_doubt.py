"""Position bias, similarity of maps and randomisation, against numbers computed by hand."""

import pytest
import torch
import torch.nn as nn
from tiny_models import tiny_abn, tiny_images

from timm_abn.errors import TimmAbnError
from timm_abn.explain.metrics import (
    cascading_randomisation,
    position_bias,
    randomised_models,
    rank_correlation,
    top_overlap,
)


def row(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_position_bias_by_hand():
    # mean (2, 1, 0): variance 2/3; of the maps (4, 2, 0) 8/3 and (0, 0, 0) 0
    assert position_bias(torch.cat([row(4, 2, 0), row(0, 0, 0)])) == pytest.approx((2 / 3) / (4 / 3), abs=1e-15)
    assert position_bias(row(4, 2, 0)) == 1
    assert position_bias(torch.cat([row(4, 2, 0), row(5, 3, 1)])) == pytest.approx(1, abs=1e-15)
    # less their means (2, -1, -1) and (-1, -1, 2), whose mean is (1/2, -1, 1/2)
    assert position_bias(torch.cat([row(3, 0, 0), row(0, 0, 3)])) == pytest.approx((1.5 / 3) / (6 / 3), abs=1e-15)
    assert position_bias(torch.cat([row(1, 0), row(0, 1)])) == 0


def test_position_bias_is_a_share():
    generator = torch.Generator().manual_seed(0)
    noise, common = torch.rand(400, 1, 20, 20, generator=generator), torch.rand(1, 1, 20, 20, generator=generator)
    assert position_bias(noise) == pytest.approx(1 / 400, rel=0.3)
    assert position_bias(noise + common) == pytest.approx(0.5, abs=0.05)
    assert position_bias(torch.ones(3, 1, 2, 2)) != position_bias(torch.ones(3, 1, 2, 2))  # NaN
    noise[3, 0, 0, 0] = float('nan')
    assert position_bias(noise) != position_bias(noise)


def test_rank_correlation_by_hand():
    assert rank_correlation(row(1, 2, 3, 4), row(10, 20, 30, 41)).item() == pytest.approx(1)
    assert rank_correlation(row(1, 2, 3, 4), row(4, 3, 2, 1)).item() == pytest.approx(-1)
    # ranks 1 2.5 2.5 4 and 1 2 4 3: sums of products 3, of squares 4.5 and 5
    assert rank_correlation(row(1, 2, 2, 3), row(1, 2, 9, 3)).item() == pytest.approx(3 / (4.5 * 5) ** 0.5)
    assert rank_correlation(row(1, 1, 1, 1), row(1, 2, 9, 3)).isnan().all()
    with pytest.raises(TimmAbnError, match=r'^maps that are compared must have the same shape \(B, 1, h, w\), got'):
        rank_correlation(row(1, 2), row(1, 2, 3))


def test_top_overlap_by_hand():
    first, second = row(9, 8, 1, 1, 1, 1, 1, 1, 1, 1), row(8, 1, 9, 1, 1, 1, 1, 1, 1, 1)
    assert top_overlap(first, second).item() == 1 / 3
    assert top_overlap(first, first).item() == 1
    assert top_overlap(first, second, share=0.1).item() == 0
    assert top_overlap(first, second, share=0.3).item() == 1
    with pytest.raises(TimmAbnError, match=r'^share must be in \(0, 1\], got 0\.$'):
        top_overlap(first, second, share=0)


def test_randomisation_goes_from_the_output_to_the_input():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    changed = []
    for name, randomised in randomised_models(model, seed=3):
        now = randomised.state_dict()
        changed.append((name, {key for key in before if not torch.equal(before[key], now[key])}))
    linear, conv = {'3.weight', '3.bias'}, {'0.weight', '0.bias'}
    assert changed == [('3', linear), ('1', linear), ('0', linear | conv)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    weights = [list(randomised_models(model, seed=seed))[-1][1].state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in before)
    assert not torch.equal(weights[0]['0.weight'], weights[2]['0.weight'])


def test_randomisation_of_an_abn():
    model, images = tiny_abn('test_resnet'), tiny_images(3)
    with torch.no_grad():
        predicted = model(images).argmax(dim=1)
    asked = []

    def factory(explained):
        def explainer(batch, targets):
            asked.append(targets)
            return explained.explain(batch).attention_map

        return explainer

    rows = dict(cascading_randomisation(model, images, factory, batch_size=2))
    names = list(rows)
    assert names[0].startswith('perception_branch') and names[-1].startswith('feature_extractor')
    assert all(torch.equal(torch.cat(asked[i : i + 2]), predicted) for i in range(0, len(asked), 2))
    # nothing after the cut has a say in the map; the branch and what comes before it has
    after = [scores for name, scores in rows.items() if name.startswith('perception_branch')]
    assert all(torch.allclose(scores, torch.ones(3, dtype=torch.float64)) for scores in after)
    assert rows[names[-1]].abs().max() < 0.9
