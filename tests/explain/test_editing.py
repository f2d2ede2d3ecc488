"""Editing maps: what a painting makes of a map, and what a network makes of that."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_models import tiny_abn, tiny_attached, tiny_backbone, tiny_images

from timm_abn import TimmAbnError
from timm_abn.explain.editing import check_editable, edit_prediction, edited_map


def painting(light, opacity=255):
    light = np.asarray(light, dtype=np.uint8)
    opacity = np.broadcast_to(np.asarray(opacity, dtype=np.uint8), light.shape)
    return Image.merge('LA', (Image.fromarray(light), Image.fromarray(np.ascontiguousarray(opacity))))


def random_levels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def test_a_place_is_the_mean_of_its_pixels():
    levels = random_levels(40, 60)
    box = (10, 4, 50, 36)
    seen = torch.from_numpy(levels[4:36, 10:50]).float()[None, None] / 255
    expected = F.adaptive_avg_pool2d(seen, (4, 5))
    found = edited_map(torch.full((1, 1, 4, 5), 0.3), painting(levels), box)
    torch.testing.assert_close(found, expected, atol=1 / 255, rtol=0)


def test_what_is_not_painted_stays():
    predicted = torch.rand(1, 1, 4, 4)
    opacity = np.zeros((8, 8))
    opacity[:2, :2] = 255  # one place
    opacity[2:4, :1] = 255  # half of another
    opacity[7, 7] = 128  # an eighth of a third
    found = edited_map(predicted, painting(np.full((8, 8), 255), opacity), (0, 0, 8, 8))
    expected = predicted.clone()
    expected[0, 0, 0, 0] = 1
    expected[0, 0, 1, 0] = (predicted[0, 0, 1, 0] + 1) / 2
    expected[0, 0, 3, 3] += (1 - predicted[0, 0, 3, 3]) / 8
    torch.testing.assert_close(found, expected, atol=2 / 255, rtol=0)
    untouched = (opacity.reshape(4, 2, 4, 2).sum(axis=(1, 3)) == 0)[None, None]
    assert torch.equal(found[untouched], predicted[untouched])


def test_a_border_of_the_preprocessing_stays():
    predicted = torch.full((1, 1, 2, 2), 0.25)
    found = edited_map(predicted, painting(np.full((4, 4), 255)), (0, 0, 4, 8))
    assert found[0, 0].tolist() == [[1, 1], [0.25, 0.25]]


@pytest.mark.parametrize('backbone', ['test_resnet', 'test_vit'])
def test_the_network_predicts_with_the_edited_map(backbone):
    model, x = tiny_abn(backbone), tiny_images(1)
    half = np.full((64, 64), 255)
    half[:, 32:] = 0
    edit = edit_prediction(model, model.explain(x), x, painting(half), (0, 0, 64, 64))
    maps = torch.ones_like(edit.predicted_map)
    maps[..., maps.shape[3] // 2 :] = 0
    assert torch.equal(edit.edited_map, maps)
    with torch.no_grad():
        torch.testing.assert_close(edit.probabilities, model(x, attention=maps).softmax(dim=1)[0])
        torch.testing.assert_close(edit.before.probabilities, model(x).softmax(dim=1))
    assert not torch.allclose(edit.probabilities, edit.before.probabilities[0])
    nothing = edit_prediction(model, edit.before, x, painting(half, 0), (0, 0, 64, 64))
    torch.testing.assert_close(nothing.probabilities, edit.before.probabilities[0])


def test_one_task_is_edited():
    model, x = tiny_abn('test_resnet', multi_task=True), tiny_images(1)
    edit = edit_prediction(model, model.explain(x), x, painting(np.zeros((64, 64))), (0, 0, 64, 64), task=2)
    before = edit.before.probabilities[0]
    assert edit.predicted_map.equal(edit.before.attention_map[:, 2:3]) and not edit.edited_map.any()
    changed = (edit.probabilities - before).abs() > 1e-6
    assert changed.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize('kind', ['random', 'neutral'])
def test_what_networks_make_of_the_same_map(kind):
    model, x = tiny_abn('test_resnet', init=kind), tiny_images(1)
    torch.nn.init.normal_(model.attention_branch.map_norm.weight)  # not flat
    edit = edit_prediction(model, model.explain(x), x, painting(np.full((64, 64), 127)), (0, 0, 64, 64))
    backbone = model.perception_branch(model.feature_extractor(x)).softmax(dim=1)[0]
    close = torch.allclose(edit.probabilities, backbone, atol=1e-3)
    assert close == (kind == 'neutral')
    own = edit_prediction(model, model.explain(x), x, painting(np.zeros((64, 64)), 0), (0, 0, 64, 64))
    torch.testing.assert_close(own.probabilities, own.before.probabilities[0])


def test_hard_attention_takes_the_map_as_it_is():
    model, x = tiny_abn('test_resnet', mechanism='product', hard_attention=0.3), tiny_images(1)
    edit = edit_prediction(model, model.explain(x), x, painting(np.full((64, 64), 255)), (0, 0, 64, 64))
    assert (edit.predicted_map == 0).any() and (edit.edited_map == 1).all()
    with torch.no_grad():
        backbone = model.perception_branch(model.feature_extractor(x)).softmax(dim=1)[0]
    torch.testing.assert_close(edit.probabilities, backbone)


def test_what_cannot_be_edited():
    for make, name in ((tiny_backbone, 'ResNet'), (tiny_attached, 'AttachedNet')):
        with pytest.raises(TimmAbnError, match=f'{name} has no attention map that gates its prediction'):
            check_editable(make('test_resnet'))
    with pytest.raises(TimmAbnError, match="of kind 'sum_log' have other bounds"):
        check_editable(tiny_abn('test_resnet', attention_map='sum_log'))
