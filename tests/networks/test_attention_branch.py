"""The attention branch and the mechanism, against the paper's equations written out in float64."""

from collections import OrderedDict

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from timm_abn import AbnConfig, Features
from timm_abn.networks.attention_branch import AttentionBranch
from timm_abn.networks.attention_stage import AttentionStage
from timm_abn.networks.feature_layout import FeatureLayout
from timm_abn.networks.gate import Gate


def make_branch(num_classes=5, channels=6, **kwargs):
    torch.manual_seed(0)
    stage = AttentionStage(OrderedDict(conv=nn.Conv2d(4, channels, 3, padding=1, bias=False)), 'test', channels)
    branch = AttentionBranch(stage, AbnConfig(**kwargs), num_classes).double().eval()
    for module in branch.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return branch


def batch_norm(x, norm):
    shape = (1, -1, 1, 1)
    x = (x - norm.running_mean.view(shape)) / torch.sqrt(norm.running_var.view(shape) + 1e-5)
    return x * norm.weight.view(shape) + norm.bias.view(shape)


def expected_class_features(branch, maps):
    x = F.conv2d(maps, branch.stage.conv.weight, padding=1)
    x = batch_norm(x, branch.norm)  # no ReLU follows
    x = torch.einsum('kc,bchw->bkhw', branch.class_conv.weight[:, :, 0, 0], x)
    return batch_norm(x, branch.class_norm).clamp(min=0)


def test_branch_is_what_the_paper_describes():
    branch, maps = make_branch(), torch.randn(2, 4, 7, 5, dtype=torch.float64)
    class_features = expected_class_features(branch, maps)
    class_maps = torch.einsum('kc,bchw->bkhw', branch.classifier.weight[:, :, 0, 0], class_features)
    raw_map = F.conv2d(class_features, branch.map_conv.weight, padding=1)
    with torch.no_grad():
        attention_map, attention_logits = branch(maps)
        torch.testing.assert_close(branch.class_maps(branch.forward_features(maps)), class_maps, rtol=0, atol=1e-12)
    torch.testing.assert_close(attention_map, 1 / (1 + torch.exp(-batch_norm(raw_map, branch.map_norm))))
    torch.testing.assert_close(attention_logits, class_maps.mean(dim=(2, 3)), rtol=0, atol=1e-12)
    assert attention_map.shape == (2, 1, 7, 5) and attention_logits.shape == (2, 5)


def test_sum_log_map():
    branch, maps = make_branch(attention_map='sum_log'), torch.randn(2, 4, 7, 5, dtype=torch.float64)
    with torch.no_grad():
        attention_map, _ = branch(maps)
    expected = torch.log(1 + expected_class_features(branch, maps)).sum(1, keepdim=True)
    torch.testing.assert_close(attention_map, expected)
    assert branch.head_names() == ('class_conv', 'class_norm', 'classifier')


def test_no_convolution_has_a_bias_and_weights_follow_the_authors_rule():
    torch.manual_seed(0)
    stage = AttentionStage(OrderedDict(conv=nn.Conv2d(4, 64, 1, bias=False)), 'test', 64)
    branch = AttentionBranch(stage, AbnConfig(), 500)
    assert all(m.bias is None for m in branch.modules() if isinstance(m, nn.Conv2d))
    for conv, fan_out in ((branch.class_conv, 500), (branch.classifier, 500), (branch.map_conv, 9)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in branch.modules() if isinstance(m, nn.BatchNorm2d))


def test_both_outputs_send_gradients_to_the_features():
    branch = make_branch().train()
    for output in (0, 1):
        maps = torch.randn(3, 4, 7, 5, dtype=torch.float64, requires_grad=True)
        branch(maps)[output].square().sum().backward()
        assert maps.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'mechanism, expected', [('residual', lambda x, m: x * (1 + m)), ('product', lambda x, m: x * m)]
)
@pytest.mark.parametrize('layout', ['NCHW', 'NHWC', 'NLC'])
def test_maps_and_gates_of_every_layout(mechanism, expected, layout):
    maps, attention_map = torch.randn(2, 4, 3, 5, dtype=torch.float64), torch.rand(2, 1, 3, 5, dtype=torch.float64)
    prefix, images = torch.randn(2, 2, 4, dtype=torch.float64), torch.empty(2, 3, 24, 40)

    def arranged(maps):
        tokens = torch.cat([prefix, maps.flatten(2).transpose(1, 2)], dim=1)
        return {'NCHW': maps, 'NHWC': maps.permute(0, 2, 3, 1), 'NLC': tokens}[layout]

    features = Features(arranged(maps), [])
    gate = Gate(AbnConfig(mechanism=mechanism), FeatureLayout(layout, num_prefix_tokens=2, reduction=8))
    torch.testing.assert_close(gate(features, attention_map).x, arranged(expected(maps, attention_map)))
    assert layout != 'NLC' or torch.equal(gate(features, attention_map).x[:, :2], prefix)
    assert torch.equal(gate.layout.to_maps(features.x, images), maps)


def test_gate_makes_one_new_tensor_of_the_size_of_the_features():
    features, attention_map = torch.randn(2, 64, 32, 32), torch.rand(2, 1, 32, 32)
    gate = Gate(AbnConfig(), FeatureLayout())
    with torch.profiler.profile(profile_memory=True) as profile:
        gate(Features(features, []), attention_map)
    allocated = sum(event.self_cpu_memory_usage for event in profile.key_averages() if event.self_cpu_memory_usage > 0)
    assert allocated < 1.2 * features.numel() * features.element_size()
