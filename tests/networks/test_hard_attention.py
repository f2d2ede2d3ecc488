"""Hard attention: what is kept, what gradients pass, and that nothing else reaches the prediction."""

import pytest
import torch
from tiny_models import tiny_abn, tiny_images

from timm_abn import Features
from timm_abn.networks.hard_attention import hard_sigmoid_maps, keep_greatest


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
    # of finer maps, whole places of the features: the one of mean 0.35, not the one of maximum 0.9
    maps = torch.tensor([[[[0.9, 0.1, 0.2, 0.3], [0.1, 0.1, 0.4, 0.5], [0.2] * 4, [0.2] * 4]]], requires_grad=True)
    kept = keep_greatest(maps, 0.25, map_scale=2)
    expected = torch.zeros(1, 1, 4, 4)
    expected[0, 0, :2, 2:] = maps[0, 0, :2, 2:]
    assert torch.equal(kept, expected)
    kept.mul(torch.arange(16.0).view(1, 1, 4, 4)).sum().backward()
    assert maps.grad.flatten().tolist() == list(range(16))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ('share', 'size', 'count'),
    [
        (1e-9, (3, 3), 1),
        (1 / 3, (3, 3), 3),
        (0.34, (3, 3), 4),
        (1.0, (3, 3), 9),
        (0.3, (7, 7), 15),
        (0.07, (10, 10), 7),  # of whole places nothing is rounded up
        (0.28, (5, 5), 7),
        (0.55, (10, 10), 55),
        (0.14, (5, 10), 7),
    ],
)
def test_share_is_rounded_up_and_zeros_are_exact(share, size, count, dtype):
    maps = (torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) + 0.1).to(dtype).requires_grad_()
    kept = keep_greatest(maps, share)
    assert ((kept != 0).sum(dim=(2, 3)) == count).all()
    assert kept[kept != 0].min() > 0 and torch.equal(kept[kept != 0], maps[kept != 0])


def means_of_places(maps, scale=2):
    """Return the mean over the places that lie in one of the features, in another way than the network."""
    return maps.unflatten(3, (-1, scale)).unflatten(2, (-1, scale)).mean(dim=(3, 5))


@pytest.mark.parametrize('map_scale', [1, 2])
@pytest.mark.parametrize('backbone', ['test_resnet', 'test_vit'])
@pytest.mark.parametrize('kwargs', [{}, dict(multi_task=True)])
def test_features_elsewhere_do_not_reach_the_prediction(backbone, kwargs, map_scale):
    model = tiny_abn(backbone, mechanism='product', hard_attention=0.3, map_scale=map_scale, **kwargs)
    images = tiny_images()
    with torch.no_grad():
        features = model.extract(images)
        maps = model.explain(images).attention_map
        expected = model.predict(features, maps)
        zeros = means_of_places((maps == 0).float(), map_scale)
        assert (zeros.mean(dim=(2, 3)) >= (0.68 if map_scale == 1 else 0.6)).all()
        assert set(zeros.unique().tolist()) == {0, 1}  # the places of a feature agree
        unseen = zeros.amin(dim=1, keepdim=True)
        noise = torch.randn(unseen.shape, generator=torch.Generator().manual_seed(0))
        changed = with_noise(model, features.x, noise * unseen)
        assert not torch.equal(changed.x, features.x)
        assert torch.equal(model.predict(changed, maps), expected)
        assert not torch.equal(model.predict(changed, maps + 0.1), model.predict(features, maps + 0.1))
        image, place = (1 - unseen).flatten(1).nonzero()[0]  # that some map keeps
        at_one_place = torch.zeros_like(unseen)
        at_one_place[image].flatten()[place] = 1
        assert not torch.equal(model.predict(with_noise(model, features.x, at_one_place), maps), expected)


def with_noise(model, features, noise):
    """Return features and noise of places, shape (B, 1, h, w); of tokens that have no place nothing changes."""
    if model.layout.layout == 'NLC':
        noise = torch.nn.functional.pad(noise.flatten(2).mT, (0, 0, model.layout.num_prefix_tokens, 0))
    return Features(features + noise, [])


def test_by_default_nothing_is_cut():
    images = tiny_images()
    maps = tiny_abn('test_resnet').explain(images).attention_map
    assert torch.equal(maps, tiny_abn('test_resnet', hard_attention=1.0).explain(images).attention_map)
    assert (maps > 0).all()
