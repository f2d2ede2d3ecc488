"""Padding: what convolutions see beyond the border, and that maps then do not know where it is."""

import pytest
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from tiny_models import tiny_abn

from timm_abn import TimmAbnError
from timm_abn.networks.padding import set_padding_mode


def deviation(model):
    """Return the greatest deviation over places of what is made of constant images."""
    images = torch.tensor([-1.0, 0.5]).double()[:, None, None, None].expand(2, 3, 48, 64).contiguous()
    explanation = model.double().eval().explain(images)
    return max(maps.std(dim=(2, 3)).max().item() for maps in (explanation.attention_map, explanation.class_maps))


@pytest.mark.parametrize('kwargs', [dict(map_scale=2), dict(multi_task=True)])
@pytest.mark.parametrize('backbone', ['test_resnet', 'resnet20_cifar'])
def test_maps_of_constant_images_are_constant(backbone, kwargs):
    assert deviation(tiny_abn(backbone, **kwargs)) > 1e-3
    model = tiny_abn(backbone, padding_mode='replicate', **kwargs)
    assert deviation(model) < 1e-12
    model.reset_classifier(3)  # builds the map's convolution anew
    assert deviation(model) < 1e-12


def test_the_branch_alone_is_not_enough():
    model = tiny_abn('test_resnet')
    set_padding_mode(model.attention_branch, 'replicate')
    assert deviation(model) > 1e-3


def test_borders_are_repeated():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 3, (3, 5), stride=2, padding=(1, 2)), torch.randn(1, 2, 8, 8)
    expected = F.conv2d(F.pad(x, (2, 2, 1, 1), mode='replicate'), conv.weight, conv.bias, stride=2)
    set_padding_mode(conv, 'replicate')
    torch.testing.assert_close(conv(x), expected)


def test_the_perception_branch_and_the_weights_stay_as_they_are():
    zeros, replicate = tiny_abn('test_resnet'), tiny_abn('test_resnet', padding_mode='replicate')
    modes = {m.padding_mode for m in replicate.perception_branch.modules() if isinstance(m, nn.Conv2d)}
    assert modes == {'zeros'}
    assert zeros.state_dict().keys() == replicate.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(zeros.state_dict().values(), replicate.state_dict().values()))


@pytest.mark.parametrize(
    ('backbone', 'layer'),
    [
        ('tf_efficientnet_lite0', 'Conv2dSame at'),
        ('resnetv2_50x1_bit', 'StdConv2d at'),
        ('efficientnet_cc_b0_4e', 'CondConv2d at'),
    ],
)
def test_convolutions_that_pad_by_themselves_are_refused(backbone, layer):
    with torch.device('meta'), pytest.raises(TimmAbnError, match=f"padding_mode='replicate' needs .* got {layer}"):
        timm.create_model('abn', backbone=backbone, padding_mode='replicate')


def test_pools_that_count_zeros_are_refused():
    with pytest.raises(TimmAbnError, match="got AvgPool2d at '1'; padding_mode='zeros' fits"):
        set_padding_mode(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.AvgPool2d(3, 1, 1)), 'replicate')
    pools = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.AvgPool2d(2))
    set_padding_mode(pools, 'replicate')
