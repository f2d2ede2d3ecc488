"""The backbones for 32x32 images, without ABN."""

import pytest
import timm
import torch
import torch.nn as nn

from timm_abn import split_backbone

META = torch.device('meta')


@pytest.mark.parametrize(
    ('name', 'millions'),
    [
        ('resnet20_cifar', 0.27),  # He et al., Table 6
        ('resnet32_cifar', 0.46),
        ('wrn28_4_cifar', 5.8),
        ('wrn28_10_cifar', 36.5),  # Zagoruyko and Komodakis, Table 5
        ('densenet100_12_cifar', 0.77),  # Huang et al., Table 2, rounds it to 0.8
        ('resnext29_8x64d_cifar', 34.4),  # Xie et al., Table 7
    ],
)
def test_sizes_are_those_of_the_papers(name, millions):
    model = timm.create_model(name, num_classes=10, device=META)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


def test_depths_count_the_layers():
    depths = dict(resnet20_cifar=20, resnet32_cifar=32, densenet100_12_cifar=100, resnext29_8x64d_cifar=29)
    for name, depth in depths.items():
        modules = timm.create_model(name, device=META).named_modules()
        layers = [path for path, layer in modules if isinstance(layer, (nn.Conv2d, nn.Linear))]
        assert sum('downsample' not in path for path in layers) == depth, name


@pytest.mark.parametrize(
    ('name', 'channels'),
    [
        ('resnet20_cifar', [16, 32, 64]),
        ('resnet110_cifar', [64, 128, 256]),
        ('wrn28_4_cifar', [64, 128, 256]),
        ('densenet100_12_cifar', [216, 300, 342]),
        ('resnext29_8x64d_cifar', [256, 512, 1024]),
    ],
)
def test_stages(name, channels):
    model = timm.create_model(name, features_only=True, device=META)
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == [1, 2, 4]
    shapes = [features.shape for features in model(torch.empty(2, 3, 64, 32, device=META))]
    assert shapes == [(2, width, 64 // step, 32 // step) for width, step in zip(channels, (1, 2, 4), strict=True)]


def wide_resnet(**kwargs):
    torch.manual_seed(0)
    return timm.create_model('wrn28_4_cifar', num_blocks=1, width=1, num_classes=5, **kwargs)


def test_wide_resnet_hands_over_raw_sums_and_normalises_the_last():
    model = wide_resnet().eval()
    x = torch.randn(2, 3, 16, 16)
    final, features = model.forward_intermediates(x)
    assert all((stage < 0).any() for stage in features)
    assert torch.equal(final, model.norm(features[-1]))
    assert torch.equal(final, model.forward_features(x))
    _, normalised = model.forward_intermediates(x, norm=True)
    assert torch.equal(normalised[-1], final) and torch.equal(normalised[0], features[0])
    early, _ = model.forward_intermediates(x, indices=[1], stop_early=True)
    assert torch.equal(early, features[1])


def test_wide_resnet_drops_out_between_the_convolutions_of_a_block():
    x = torch.randn(2, 3, 16, 16)
    for rate, equal in ((0.3, False), (0.0, True)):
        model = wide_resnet(proj_drop_rate=rate).train()
        assert torch.equal(model.forward_features(x), model.forward_features(x)) is equal
        assert torch.equal(model.eval().forward_features(x), model.forward_features(x))


def test_densenet_begins_with_a_bare_convolution():
    model = timm.create_model('densenet100_12_cifar')
    assert list(dict(model.features.named_children()))[:2] == ['conv0', 'denseblock1']
    conv = model.features.conv0
    assert (conv.out_channels, conv.kernel_size, conv.stride) == (24, (3, 3), (1, 1))
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 24)) ** 0.5, rel=0.1)


def test_gradient_checkpointing_changes_nothing():
    model = wide_resnet().train()
    x = torch.randn(2, 3, 16, 16)
    gradients = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        gradients.append(model.conv1.weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ('name', 'split', 'kwargs'),
    [
        ('wrn28_4_cifar', None, dict(num_blocks=2, width=1)),
        ('densenet100_12_cifar', 'features.transition2', dict(block_config=(2, 2, 2))),
        ('resnext29_8x64d_cifar', None, dict(num_blocks=1, planes=(8, 16, 32))),
        ('resnet44_cifar', None, dict(num_blocks=2)),
    ],
)
def test_cut_is_exact(name, split, kwargs):
    torch.manual_seed(0)
    backbone = timm.create_model(name, **kwargs).double().eval()
    x = torch.randn(2, 3, 32, 24, dtype=torch.float64)
    expected = backbone(x)
    feature_extractor, perception_branch = split_backbone(backbone, split)
    assert torch.equal(perception_branch(feature_extractor(x)), expected)
