"""Attention maps from people and files: of any floating type, and with values that a map can have."""

import pytest
import torch
from tiny_models import attention_for, tiny_abn, tiny_images

import timm_abn


@pytest.mark.parametrize('backbone', ['test_resnet', 'test_vit'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
@torch.no_grad()
def test_a_map_of_another_type_is_cast(backbone, dtype):
    model, images = tiny_abn(backbone), tiny_images()
    given = attention_for(model, images).to(dtype)
    expected = model(images, attention=given.float())
    assert torch.equal(model(images, attention=given), expected)
    explanation = model.explain(images, given)
    assert torch.equal(explanation.logits, expected) and explanation.attention_map.dtype == torch.float32
    features = model.forward_features(images, attention=given)
    assert torch.equal(features, model.forward_features(images, attention=given.float()))


@pytest.mark.parametrize(
    ('kwargs', 'value', 'message'),
    [
        ({}, float('nan'), r'must be in \[0, 1\], got nan to nan'),
        ({}, -0.1, r'must be in \[0, 1\], got -0.1 to'),
        ({}, 1.5, r'must be in \[0, 1\], got .* to 1.5'),
        (dict(attention_map='sum_log'), -1.0, 'must be finite and not negative, got -1 to'),
        (dict(multi_task=True, attention_map='raw'), float('inf'), 'must be finite, got .* to inf'),
    ],
)
def test_values_that_no_map_has(kwargs, value, message):
    model, images = tiny_abn('test_resnet', **kwargs), tiny_images()
    given = model.explain(images).attention_map.clone()
    model.explain(images, given)
    given[0, 0, 0, 0] = value
    with pytest.raises(timm_abn.TimmAbnError, match=message):
        model.explain(images, given)
