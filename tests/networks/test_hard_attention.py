"""Hard attention: what is kept, what gradients pass, and that nothing else reaches the prediction."""

import math

import pytest
import torch
from tiny_models import tiny_abn, tiny_images

from timm_abn import Features, TimmAbnError
from timm_abn.networks.hard_attention import hard_sigmoid_maps, keep_greatest


def test_a_share_of_whole_places_is_not_rounded_up():
    for share, size in ((0.07, (10, 10)), (0.28, (5, 5)), (0.55, (10, 10)), (0.14, (5, 10))):
        kept = keep_greatest(torch.rand(1, 1, *size) + 0.1, share)
        assert int(kept.count_nonzero()) == round(share * size[0] * size[1])
    assert int(keep_greatest(torch.rand(1, 1, 3, 3) + 0.1, 1e-9).count_nonzero()) == 1


def test_tokens_are_hidden_in_half_precision():
    model = tiny_abn('test_vit', hard_attention=0.3, mechanism='product').eval()
    expected = model(tiny_images())
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast('cpu', dtype):
            found = model(tiny_images())
        assert found.isfinite().all() and (found - expected).abs().max() < 0.2 * expected.abs().max()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_what_is_greatest_does_not_get_lost_in_half_precision(dtype):
    logits = torch.linspace(7, 9.625, 22, dtype=dtype).view(1, 1, 2, 11)  # all sigmoids are 1, or nearly, in this type
    assert len(logits.unique()) == 22 and len(torch.sigmoid(logits).unique()) < 6
    kept = hard_sigmoid_maps(logits, 0.5)
    assert kept.dtype == dtype and (kept[..., 0, :] == 0).all() and (kept[..., 1, :] > 0.99).all()
    exact = logits.double()
    torch.testing.assert_close(hard_sigmoid_maps(exact, 0.5), keep_greatest(torch.sigmoid(exact), 0.5))


def test_mixed_precision_keeps_what_float32_keeps():
    model = tiny_abn('test_resnet', hard_attention=0.25, mechanism='product').eval()
    with torch.no_grad():
        model.attention_branch.map_norm.bias.fill_(8.0)  # where sigmoids of bfloat16 are 1
        exact = model.explain(tiny_images(8)).attention_map != 0
        with torch.autocast('cpu', torch.bfloat16):
            found = model.explain(tiny_images(8)).attention_map != 0
    assert (exact & found).sum() / (exact | found).sum() > 0.6


def test_by_hand():
    maps = torch.tensor(
        [[[[0.1, 0.9, 0.3], [0.9, 0.2, 0.8]]], [[[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]]], requires_grad=True
    )
    kept = keep_greatest(maps, 0.5)
    assert kept[0].tolist() == maps.new_tensor([[[0, 0.9, 0], [0.9, 0, 0.8]]]).tolist()
    assert (kept[1] != 0).sum() == 3  # of equal values as many as are needed
    kept.mul(torch.arange(12.0).view(2, 1, 2, 3)).sum().backward()
    assert maps.grad.flatten().tolist() == list(range(12))  # as if nothing had been cut


@pytest.mark.parametrize(('share', 'count'), [(1e-9, 1), (1 / 3, 3), (0.34, 4), (1.0, 9)])
def test_share_is_rounded_up(share, count):
    maps = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    kept = keep_greatest(maps, share)
    assert ((kept != 0).sum(dim=(2, 3)) == count).all()
    assert kept[kept != 0].min() > 0 and torch.equal(kept[kept != 0], maps[kept != 0])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zeros_are_exact(dtype):
    maps = torch.rand(4, 1, 7, 7, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    assert (keep_greatest(maps, 0.3) == 0).sum() == 4 * (49 - math.ceil(0.3 * 49))


@pytest.mark.parametrize('backbone', ['test_resnet', 'test_vit'])
@pytest.mark.parametrize('kwargs', [{}, dict(multi_task=True)])
def test_features_elsewhere_do_not_reach_the_prediction(backbone, kwargs):
    model = tiny_abn(backbone, mechanism='product', hard_attention=0.3, **kwargs)
    images = tiny_images()
    with torch.no_grad():
        features = model.extract(images)
        maps = model.explain(images).attention_map
        assert ((maps == 0).float().mean(dim=(2, 3)) >= 0.68).all()
        unseen = (maps == 0).all(dim=1, keepdim=True)
        noise = torch.randn(unseen.shape, generator=torch.Generator().manual_seed(0)) * unseen
        changed = Features(features.x + _as_features(model, noise, features.x), [])
        assert not torch.equal(changed.x, features.x)
        assert torch.equal(model.predict(changed, maps), model.predict(features, maps))
        given = maps + 0.1
        assert not torch.equal(model.predict(changed, given), model.predict(features, given))


def _as_features(model, noise, features):
    """Return noise of places, shape (B, 1, h, w), in the layout of the features; 0 for tokens that have no place."""
    if model.layout.layout == 'NCHW':
        return noise.expand_as(features)
    tokens = noise.flatten(2).mT
    padded = torch.zeros(features.shape)
    padded[:, features.shape[1] - tokens.shape[1] :] = tokens.expand(-1, -1, features.shape[2])
    return padded


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(hard_attention=0), r'hard_attention must be the share of the map that is kept, in \(0, 1\], got 0'),
        (dict(hard_attention=0.3, mechanism='residual'), "hard_attention needs mechanism='product', got 'residual'"),
        (dict(hard_attention=1.5), 'got 1.5'),
        (dict(hard_attention=True), 'got True'),
        (dict(hard_attention='x'), "got 'x'"),
        (
            dict(hard_attention=0.5, attention_map='sum_log'),
            "hard_attention needs attention_map='sigmoid', got 'sum_log'",
        ),
        (dict(hard_attention=0.5, attention_map='raw', multi_task=True), "got 'raw'"),
    ],
)
def test_what_is_refused(kwargs, message):
    with pytest.raises(TimmAbnError, match=message):
        tiny_abn('test_resnet', **kwargs)


def test_by_default_nothing_is_cut():
    images = tiny_images()
    maps = tiny_abn('test_resnet').explain(images).attention_map
    assert torch.equal(maps, tiny_abn('test_resnet', hard_attention=1.0).explain(images).attention_map)
    assert (maps > 0).all()
