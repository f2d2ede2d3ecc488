"""Maps finer than the features: their resolution, what they gate, and that what is 0 in them lets nothing pass."""

import pytest
import timm
import torch
from tiny_models import tiny_abn, tiny_images

LAYOUTS = ('test_resnet', 'test_vit', 'swin_tiny_patch4_window7_224')


def means_of_places(maps):
    """Return the mean over each 2x2 places, in another way than the network."""
    return maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(3, 5))


@pytest.mark.parametrize('kwargs', [{}, dict(multi_task=True)])
@pytest.mark.parametrize('backbone', LAYOUTS)
def test_maps_are_finer_and_gate_by_their_means(backbone, kwargs):
    fine, coarse = (tiny_abn(backbone, map_scale=scale, **kwargs).double() for scale in (2, 1))
    images = tiny_images(dtype=torch.float64)
    explanation, other = fine.explain(images), coarse.explain(images)
    height, width = other.attention_map.shape[2:]
    assert explanation.attention_map.shape[2:] == explanation.class_maps.shape[2:] == (2 * height, 2 * width)
    assert explanation.attention_logits.shape == other.attention_logits.shape
    columns = means_of_places(explanation.attention_map)[..., :2].unbind(-1)
    assert not torch.equal(*columns)  # or there is nothing to see
    assert fine.state_dict().keys() == coarse.state_dict().keys()
    expected = coarse.explain(images, means_of_places(explanation.attention_map)).logits
    torch.testing.assert_close(explanation.logits, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fine(images), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fine(images, explanation.attention_map), expected, rtol=1e-9, atol=1e-9)


def test_the_stage_sees_upsampled_features():
    model = tiny_abn('test_resnet', map_scale=2)
    images = tiny_images()
    with torch.no_grad():
        features = model.feature_extractor(images)
        upsampled = torch.nn.functional.interpolate(features, scale_factor=2, mode='bilinear')
        expected = tiny_abn('test_resnet').attention_branch(upsampled)[0]
    torch.testing.assert_close(model.explain(images).attention_map, expected)


def test_a_map_as_fine_as_the_features_is_refused():
    model, images = tiny_abn('test_resnet', map_scale=2), tiny_images()
    with pytest.raises(ValueError, match=r'attention must have shape \[2, 1, 8, 8\], got \[2, 1, 4, 4\]'):
        model(images, torch.rand(2, 1, 4, 4))
    assert model.forward_features(images, torch.rand(2, 1, 8, 8)).shape[0] == 2


@pytest.mark.parametrize(
    'kwargs', [dict(multi_task=True, task_chunk_size=2), dict(mechanism='product', hard_attention=0.3)]
)
def test_scripts_exports_and_traces(kwargs):
    model, images = tiny_abn('test_resnet', map_scale=2, padding_mode='replicate', **kwargs), tiny_images()
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(torch.jit.script(model)(images), expected)
        torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), expected)
        if 'multi_task' not in kwargs:  # fx does not unroll its chunks of tasks
            given = torch.rand(2, 1, 8, 8)
            torch.testing.assert_close(torch.fx.symbolic_trace(model)(images, given), model(images, given))


@pytest.mark.parametrize('kwargs', [dict(map_scale=2), dict(padding_mode='replicate')])
def test_what_was_chosen_is_recorded(kwargs):
    model = tiny_abn('test_resnet', **kwargs)
    (name, value), *_ = kwargs.items()
    assert getattr(model.config, name) == model._model_args[name] == value
    assert f'{name}={value!r}' in repr(model)
    again = timm.create_model('abn', **model._model_args)
    again.load_state_dict(model.state_dict())
    images = tiny_images()
    assert torch.equal(again.eval()(images), model(images))
