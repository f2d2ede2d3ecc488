"""Position bias, similarity of maps and randomisation, against numbers computed by hand."""

import pytest
import torch
import torch.nn as nn
from tiny_models import tiny_abn, tiny_images

from timm_abn.errors import TimmAbnError
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import position_bias, random_head, rank_correlation, top_overlap


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


def test_a_random_head_is_for_a_while():
    model, images = tiny_abn('test_resnet'), tiny_images(3)
    explainers = [create_explainer(name, model) for name in ('attention', 'class_map', 'grad_cam')]
    targets = torch.tensor([0, 1, 2])
    state = torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    maps = [explainer(images, targets) for explainer in explainers]
    with pytest.raises(KeyboardInterrupt), random_head(model, seed=3):
        others = [explainer(images, targets) for explainer in explainers]
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
        raise KeyboardInterrupt
    heads = ('attention_branch', 'perception_branch.fc')
    assert changed and all(name.startswith(heads) for name in changed)
    assert {'perception_branch.fc.weight', 'attention_branch.class_conv.weight'} & changed
    assert not any(torch.equal(own, other) for own, other in zip(maps, others))
    assert rank_correlation(maps[1], others[1]).mean() < 0.9
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(own, explainer(images, targets)) for own, explainer in zip(maps, explainers))
    assert torch.equal(state, torch.get_rng_state())


def test_the_head_of_any_network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 50), nn.ReLU())
    first, last = model[0].weight.clone(), model[2].weight.clone()
    found = []
    for seed in (3, 3, 4):
        with random_head(model, seed):
            found.append(model[2].weight.clone())
            assert torch.equal(model[0].weight, first)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert found[0].std().item() == pytest.approx(last.std().item(), rel=0.05)
    assert rank_correlation(found[0][None, None], last[None, None]).abs().item() < 0.05
