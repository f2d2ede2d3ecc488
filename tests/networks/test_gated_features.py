"""Gated features give what the features times the maps give, whatever is computed from them."""

import pytest
import torch
import torch.nn as nn
from timm.layers import BatchNormAct2d, StdConv2d, create_conv2d

from timm_abn.networks.gated_features import GatedFeatures, gate_each

BATCH, TASKS, CHANNELS = 2, 3, 8


def features_and_factors(dtype=torch.float64, channels_last=False):
    torch.manual_seed(0)
    features = torch.randn(BATCH, CHANNELS, 6, 5, dtype=dtype)
    factors = torch.randn(BATCH, TASKS, 6, 5, dtype=dtype)
    return features.to(memory_format=torch.channels_last) if channels_last else features, factors


def by_hand(features, factors):
    """Return the products, made one by one."""
    return torch.stack([row * factor for row, several in zip(features, factors) for factor in several])


def batch_norm(**kwargs):
    norm = nn.BatchNorm2d(CHANNELS, **kwargs).double().eval()
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        if tensor is not None:
            nn.init.normal_(tensor)
    if norm.running_var is not None:
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return norm


class Bottleneck(nn.Module):
    """Two chains of layers read the features, and a shortcut."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(CHANNELS, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.other = nn.Sequential(nn.Conv2d(CHANNELS, 4, 1, bias=False), nn.BatchNorm2d(4))

    def forward(self, x):
        return torch.cat([self.body(x) + self.other(x), x], dim=1)


class ActivationInPlace(nn.Module):
    """The features are changed in place before they are read again."""

    def __init__(self):
        super().__init__()
        self.pointwise = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)

    def forward(self, x):
        return torch.relu_(x) + self.pointwise(x)


def layers():
    torch.manual_seed(1)
    return {
        'pointwise': nn.Conv2d(CHANNELS, 4, 1, bias=False),
        'pointwise with bias': nn.Conv2d(CHANNELS, 4, 1),
        'pointwise with stride': nn.Conv2d(CHANNELS, 4, 1, stride=(2, 3), bias=False),
        'pointwise in groups': nn.Conv2d(CHANNELS, 4, 1, groups=4, bias=False),
        'pointwise with padding': nn.Conv2d(CHANNELS, 4, 1, padding=1, bias=False),
        'same padding': create_conv2d(CHANNELS, 4, 1, padding='same'),
        '3x3': nn.Conv2d(CHANNELS, 4, 3, bias=False),
        'two pointwise': nn.Sequential(nn.Conv2d(CHANNELS, 4, 1, bias=False), nn.Conv2d(4, 6, 1, bias=False)),
        'standardised weights': nn.Sequential(StdConv2d(CHANNELS, CHANNELS, 1), StdConv2d(CHANNELS, 4, 1)),
        'batch norm': batch_norm(),
        'batch norm without scale': batch_norm(affine=False),
        'batch norm of the batch': batch_norm(track_running_stats=False),
        'batch norm and activation': BatchNormAct2d(CHANNELS),
        'activation': nn.ReLU(inplace=True),
        'bottleneck': Bottleneck(),
        'activation in place': ActivationInPlace(),
        'pool': nn.AdaptiveAvgPool2d(1),
        'shape': nn.Flatten(),
    }


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('name', layers())
def test_layer_gives_the_same(name, channels_last, training):
    layer = layers()[name].double().train(training)
    twin = layers()[name].double().train(training)
    features, factors = features_and_factors(channels_last=channels_last)
    inputs = [features.requires_grad_(), factors.requires_grad_()]
    gated = GatedFeatures.create(features, factors, {})
    assert gated.shape == (BATCH * TASKS, CHANNELS, 6, 5)
    actual = layer(gated) + 0
    expected = twin(by_hand(features, factors))
    assert type(actual) is torch.Tensor
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(expected)
    actual_grads = torch.autograd.grad((actual * weights).sum(), [*inputs, *layer.parameters()])
    expected_grads = torch.autograd.grad((expected * weights).sum(), [*inputs, *twin.parameters()])
    for actual_grad, expected_grad in zip(actual_grads, expected_grads, strict=True):
        torch.testing.assert_close(actual_grad, expected_grad, rtol=1e-10, atol=1e-10)


def test_convolution_runs_once_for_all_chunks():
    features, factors = features_and_factors()
    layer = nn.Conv2d(CHANNELS, 4, 1, bias=False).double()
    convolved = {}
    chunks = [layer(GatedFeatures.create(features, chunk, convolved)) + 0 for chunk in factors.split(1, dim=1)]
    assert len(convolved) == 1
    expected = layer(by_hand(features, factors)).unflatten(0, (BATCH, TASKS))
    torch.testing.assert_close(torch.stack(chunks, dim=1), expected)


def test_looking_at_a_property_keeps_the_convolution_shared():
    features, factors = features_and_factors()
    layer, convolved = nn.Conv2d(CHANNELS, 4, 1, bias=False).double(), {}
    gated = GatedFeatures.create(features.requires_grad_(), factors, convolved)
    assert gated.requires_grad and gated.grad_fn is not None and gated.shape[0] == BATCH * TASKS
    layer(gated)
    assert len(convolved) == 1


def test_weights_made_for_one_call_are_not_remembered():
    features, factors = features_and_factors()
    convolved = {}
    for scale in (1.0, 2.0, 3.0):
        weight = torch.full((4, CHANNELS, 1, 1), scale, dtype=features.dtype)
        actual = nn.functional.conv2d(GatedFeatures.create(features, factors, convolved), weight) + 0
        torch.testing.assert_close(actual, nn.functional.conv2d(by_hand(features, factors), weight))
        del weight


def test_memory_format_is_kept():
    features, factors = features_and_factors(channels_last=True)
    gated = gate_each(features, factors)
    assert gated.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(gated, by_hand(features, factors))


def test_autocast_keeps_the_low_precision():
    features, factors = features_and_factors(dtype=torch.float32)
    layer = nn.Sequential(nn.Conv2d(CHANNELS, 4, 1, bias=False), nn.BatchNorm2d(4)).eval()
    with torch.autocast('cpu', torch.bfloat16):
        actual = layer(GatedFeatures.create(features, factors, {}))
        expected = layer(by_hand(features, factors))
    assert actual.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected.float(), rtol=0.05, atol=0.05)
