"""The form of a refinement against a plain count, and that it begins as the evidence."""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_backbone, tiny_images

from timm_abn.attached.network import AttachedNet
from timm_abn.attached.refinement import Refinement


def standardized(maps):
    values = maps.flatten(2)
    return ((values - values.mean(2, keepdim=True)) / values.std(2, keepdim=True, correction=0)).view_as(maps)


def up(maps, size):
    return F.interpolate(maps, size, mode='bilinear', align_corners=False)


def normed(x, norm):
    values = x.flatten(1)
    values = (values - values.mean(1, keepdim=True)) / (values.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    return F.gelu(values.view_as(x) * norm.weight[:, None, None] + norm.bias[:, None, None])


def test_the_form_by_hand():
    torch.manual_seed(0)
    cut, last, evidence = (torch.randn(3, *shape, dtype=torch.float64) for shape in ((4, 6, 8), (5, 3, 4), (1, 3, 4)))
    net = Refinement(4, 5, dtype=torch.float64)
    net.set_statistics([(cut[:2], last[:2]), (cut[2:], last[2:])])  # batches of any size
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    whole = [
        (x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), keepdim=True, correction=0) + 1e-3)
        for x in (cut, last)
    ]
    start = standardized(up(evidence, (6, 8)))
    p1, p2 = (
        torch.einsum('bchw,oc->bohw', x, conv.weight[..., 0, 0]) + conv.bias[:, None, None]
        for x, conv in zip(whole, (net.from_cut, net.from_last))
    )
    x = torch.cat([p1, up(p2, (6, 8)), start], dim=1)
    for conv, norm in ((net.conv1, net.norm1), (net.conv2, net.norm2)):
        x = normed(F.conv2d(x, conv.weight, conv.bias, padding=1), norm)
    expected = net.scale * start + (x * net.out.weight[0]).sum(1, keepdim=True) + net.out.bias
    torch.testing.assert_close(net(cut, last, evidence), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('name', ['test_resnet', 'test_convnext', 'test_vit'])
def test_it_begins_as_the_evidence(name):
    network = AttachedNet(tiny_backbone(name), refined=True).eval()
    images = tiny_images()
    seen = network.look(images, with_cut=True)
    network.refinement.set_statistics([(seen.cut, seen.last)])
    found = network.explain(images)
    evidence = found.class_maps[[0, 1], found.classes][:, None]
    expected = standardized(up(evidence, seen.cut.shape[2:]))
    torch.testing.assert_close(found.attention_map, expected, rtol=1e-4, atol=1e-4)
    assert network.cut_stage < len(network.feature_info) - 1
