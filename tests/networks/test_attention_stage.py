"""The stage of the attention branch: a copy at stride 1, or residual blocks."""

import copy

import pytest
import timm
import torch
import torch.nn as nn
from timm.utils import reparameterize_model

import timm_abn  # noqa: F401  registers the 32x32 backbones
from timm_abn.networks.attention_stage import build_attention_stage, residual_width
from timm_abn.split.cut import cut_backbone


def build(name, keep_weights=False):
    torch.manual_seed(0)
    backbone = timm.create_model(name)
    parts = cut_backbone(backbone)
    channels = parts.feature_shape[0]
    return backbone, parts, build_attention_stage(backbone, parts.next_stage, channels, 64, keep_weights)


@pytest.mark.parametrize(
    'name',
    'test_resnet resnet18 resnet20_cifar seresnet50 resnet50d densenet121 '
    'efficientnet_b0 tf_efficientnet_lite0 regnetx_002 legacy_seresnet18'.split(),
)
def test_copied_stages_keep_the_resolution(name):
    with torch.device('meta'):
        _, parts, stage = build(name)
    copied = [path for path in parts.next_stage if path != 'features.norm5']  # the final norm of DenseNet
    assert stage.source == f'copy of {", ".join(copied)} at stride 1' and f'source={stage.source!r}' in repr(stage)
    x = torch.empty(2, parts.feature_shape[0], 9, 7, device='meta')
    assert stage(x).shape == (2, stage.num_features, 9, 7)


@pytest.mark.parametrize(
    ('name', 'layers'), [('vgg11', [nn.Conv2d, nn.ReLU]), ('vgg11_bn', [nn.Conv2d, nn.BatchNorm2d, nn.ReLU])]
)
def test_a_convolution_takes_the_place_of_the_fully_connected_layers_of_vgg(name, layers):
    with torch.device('meta'):
        _, parts, stage = build(name)
    assert parts.next_stage and parts.path.startswith('features.')
    assert stage.source == '3x3 convolution of width 1024 instead of the fully connected layers'
    assert [type(layer) for layer in stage] == layers
    assert stage(torch.randn(2, 512, 9, 7, device='meta')).shape == (2, 1024, 9, 7)


def test_pools_between_the_cut_and_the_next_stage_are_left_out():
    with torch.device('meta'):
        backbone = timm.create_model('vgg11')
        parts = cut_backbone(backbone, 'features.14')  # before the last but one pool
        stage = build_attention_stage(backbone, parts.next_stage, 512, 64, keep_weights=False)
    assert stage.source == f'copy of {", ".join(parts.next_stage)} at stride 1'
    assert stage(torch.randn(2, 512, 9, 7, device='meta')).shape == (2, 512, 9, 7)


@pytest.mark.parametrize('name', ['test_convnext', 'convnext_atto', 'inception_next_atto'])
def test_stages_that_merge_patches_become_residual_blocks(name):
    _, parts, stage = build(name)
    assert stage.source == '2 residual blocks of width 64'
    x = torch.randn(2, parts.feature_shape[0], 9, 7)
    assert stage(x).shape == (2, 64, 9, 7)


def test_a_copy_with_its_strides_put_back_is_the_stage_itself():
    backbone, parts, stage = build('resnet18', keep_weights=True)
    backbone.eval()
    restored = copy.deepcopy(stage).eval()
    restored[0].conv1.stride = restored[0].downsample[0].stride = (2, 2)
    x = torch.randn(2, 256, 8, 8)
    assert torch.equal(restored(x), backbone.layer4(x))
    assert stage[0].conv1.stride == (1, 1) and backbone.layer4[0].conv1.stride == (2, 2)
    # and they share no parameters
    assert not {p.data_ptr() for p in stage.parameters()} & {p.data_ptr() for p in backbone.parameters()}


def test_without_pretrained_weights_the_copy_is_drawn_anew():
    backbone, _, stage = build('resnet18')
    for name, parameter in stage.named_parameters():
        theirs = backbone.layer4.get_parameter(name)
        assert parameter.ndim == 1 or not torch.equal(parameter, theirs)
    conv = stage[1].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02)
    assert all((m.weight == 1).all() for m in stage.modules() if isinstance(m, nn.BatchNorm2d))  # none starts at zero


@pytest.mark.parametrize('width, expected', [(64, 64), (65, 68), (1, 4)])
def test_residual_width(width, expected):
    assert residual_width(width) == expected


def test_reparameterized_stage_is_the_stage():
    torch.manual_seed(0)
    model = timm.create_model('abn', backbone='fastvit_t8', num_classes=3).eval()
    fused = reparameterize_model(model)
    assert len(list(fused.attention_branch.modules())) < len(list(model.attention_branch.modules()))
    images = torch.randn(2, 3, 64, 64)
    actual, expected = fused.explain(images), model.explain(images)
    torch.testing.assert_close(actual.class_maps, expected.class_maps, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-3, atol=1e-4)
