"""Reliance: what changes when the map of an ABN is replaced, and what is said of maps that change nothing."""

import pytest
import timm
import torch
from tiny_models import NUM_CLASSES, tiny_abn, tiny_images

from timm_abn.errors import TimmAbnError
from timm_abn.explain.metrics import RelianceRow, reliance
from timm_abn.explain.metrics.reliance import NO_EFFECT

NAMES = ['mean', 'other', 'shuffled', 'inverse', 'uniform', 'half']


def pre_logits(model, images, maps):
    return model.forward_head(model.forward_features(images, attention=maps), pre_logits=True)


def test_rows_are_what_the_network_says_under_these_maps():
    model, images = tiny_abn('test_resnet'), tiny_images(3)
    labels = torch.tensor([0, 1, 2])
    result = reliance(model, images, labels, batch_size=2)
    assert [row.replacement for row in result.rows] == NAMES
    with torch.no_grad():
        own = model.explain(images)
        flat = torch.full_like(own.attention_map, 0.5)
        half = flat.clone()
        half[..., flat.shape[3] // 2 :] = 0
        pairs = {
            'mean': (own.attention_map, own.attention_map.mean(dim=(2, 3), keepdim=True).expand_as(flat)),
            'inverse': (own.attention_map, 1 - own.attention_map),
            'uniform': (flat, torch.zeros_like(flat)),
            'half': (flat, half),
        }
        for name, (reference, replacement) in pairs.items():
            before, after = (pre_logits(model, images, maps) for maps in (reference, replacement))
            effect = ((after - before).norm(dim=1) / before.norm(dim=1)).mean().item()
            assert result[name].effect == pytest.approx(effect, rel=1e-4)
            before, after = (model(images, attention=maps) for maps in (reference, replacement))
            change = (after.softmax(1) - before.softmax(1)).abs().mean().item()
            assert result[name].probability_change == pytest.approx(change, rel=1e-4)
            moved = (after.argmax(1) != before.argmax(1)).float().mean().item()
            assert result[name].changed_predictions == moved
            hits = [(logits.argmax(1) == labels).float().mean().item() for logits in (before, after)]
            assert result[name].accuracy_change == pytest.approx(hits[1] - hits[0])
    assert result.accuracy == (own.logits.argmax(1) == labels).float().mean().item()
    assert reliance(model, images).accuracy is None and reliance(model, images)['mean'].accuracy_change is None


def test_other_and_shuffled_maps(monkeypatch):
    model, images = tiny_abn('test_resnet'), tiny_images(5)
    own = model.explain(images).attention_map
    given = []
    forward_features = model.forward_features

    def recorded(batch, attention=None):
        given.append(attention)
        return forward_features(batch, attention=attention)

    monkeypatch.setattr(model, 'forward_features', recorded)
    first = reliance(model, images)
    maps = dict(zip(['own', 'flat', *NAMES], given))
    assert torch.equal(maps['own'], own)
    owners = [[torch.equal(other, mine) for mine in own].index(True) for other in maps['other']]
    assert sorted(owners) == [0, 1, 2, 3, 4] and all(owner != index for index, owner in enumerate(owners))
    assert torch.equal(maps['shuffled'].flatten(1).sort(1).values, own.flatten(1).sort(1).values)
    assert not any(torch.equal(shuffled, mine) for shuffled, mine in zip(maps['shuffled'], own))
    again = reliance(model, images, batch_size=2)
    for row in first.rows:
        assert row.effect == pytest.approx(again[row.replacement].effect, rel=1e-4)
    assert [row.replacement for row in reliance(model, images[:1]).rows] == [name for name in NAMES if name != 'other']


def test_a_network_that_reacts_says_nothing():
    result = reliance(tiny_abn('test_resnet'), tiny_images(4))
    assert result.findings == [] and not result.is_cancelled and not result.reacts_to_differences_only


def test_a_map_that_nothing_comes_of_is_named():
    model = tiny_abn('test_resnet')
    model.gate.factor = lambda attention, reference=None: torch.ones_like(attention)
    result = reliance(model, tiny_images(4))
    assert result.is_cancelled and all(row.effect == 0 and row.probability_change == 0 for row in result.rows)
    (finding,) = result.findings
    assert finding.startswith(
        'The prediction ignores the attention map: no replacement changes the pre-logits by 0.001'
    )


def test_a_network_that_reacts_to_differences_only_is_named():
    model = tiny_abn('test_resnet')
    model.gate.factor = lambda attention, reference=None: 1 + attention - attention.mean(dim=(2, 3), keepdim=True)
    result = reliance(model, tiny_images(4))
    assert result.reacts_to_differences_only and not result.is_cancelled
    assert result['uniform'].effect < NO_EFFECT <= result['half'].effect
    assert result.findings == [
        'The prediction depends only on differences within the attention map: a uniform change is undone.'
    ]


def test_a_layer_norm_undoes_the_map_where_it_follows_the_cut():
    # by default ConvNeXt is cut before a layer norm: a warning says so at construction, and the figures agree
    with pytest.warns(UserWarning, match='has no effect'):
        model = tiny_abn('test_convnext', split=None, gate='features')
    assert reliance(model, tiny_images(4)).is_cancelled
    assert reliance(tiny_abn('test_convnext', split=None), tiny_images(4)).findings == []


def test_nan_is_not_taken_for_no_effect():
    assert RelianceRow('mean', float('nan'), float('nan'), 0.0).has_effect
    assert [RelianceRow('mean', effect, 0.0, 0.0).has_effect for effect in (9e-4, 1e-3)] == [False, True]


def test_swin_reacts_to_differences_only():
    # two by two places are merged before a layer norm, which undoes the half of a 4 x 4 map as well
    result = reliance(tiny_abn('swin_tiny_patch4_window7_224', gate='features'), tiny_images(2))
    assert result.reacts_to_differences_only
    uniform, half = result.findings
    assert uniform == 'The prediction depends only on differences within the attention map: a uniform change is undone.'
    assert half.startswith('Replacing the attention map (half) has no effect: it changes the pre-logits by ')


def test_several_tasks():
    torch.manual_seed(0)
    model = timm.create_model('abn', backbone='test_resnet', multi_task=True, num_classes=3, attention_map='raw').eval()
    images, labels = tiny_images(4), torch.tensor([[0, 1, 1]] * 4)
    result = reliance(model, images, labels, batch_size=6)
    with torch.no_grad():
        own = model.explain(images)
        maps = own.attention_map
        inverse = maps.amax((2, 3), keepdim=True) + maps.amin((2, 3), keepdim=True) - maps
        answers = model(images, attention=inverse)
        before, after = (pre_logits(model, images, m).flatten(0, 1) for m in (maps, inverse))
    effect = ((after - before).norm(dim=1) / before.norm(dim=1)).mean().item()
    assert result['inverse'].effect == pytest.approx(effect, rel=1e-4)
    change = (answers.sigmoid() - own.logits.sigmoid()).abs().mean().item()
    assert result['inverse'].probability_change == pytest.approx(change, rel=1e-4)
    assert result.accuracy == ((own.logits > 0) == labels).float().mean().item()


def test_what_is_no_abn_is_refused():
    images = tiny_images(2)
    for model in (timm.create_model('test_resnet'), tiny_abn('test_resnet', num_classes=0)):
        with pytest.raises(
            TimmAbnError, match=r'^reliance\(\) needs an Attention Branch Network with its branch and a'
        ):
            reliance(model.eval(), images)
    with pytest.raises(TimmAbnError, match=r'^labels must have shape \(2,\), got \(2, 5\)\.$'):
        reliance(tiny_abn('test_resnet'), images, torch.zeros(2, NUM_CLASSES))
