"""The network: what it computes, what it refuses, and how its parts are replaced and taken away."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_models import (
    NUM_CLASSES,
    TINY_BACKBONES,
    Calls,
    attention_for,
    tiny_abn,
    tiny_backbone,
    tiny_images,
    without_half,
)

from timm_abn import AttentionBranchNet, MultiTaskAttentionBranchNet

all_backbones = pytest.mark.parametrize('backbone', TINY_BACKBONES)
all_gates = pytest.mark.parametrize(
    ('backbone', 'gate'),
    [(backbone, gate) for backbone in TINY_BACKBONES for gate in ('features', 'centred')] + [('test_vit', 'tokens')],
)
K_DEPENDENT = [
    f'attention_branch.{name}.' for name in ('class_conv', 'class_norm', 'classifier', 'map_conv', 'map_norm')
]


def uncut_backbone(model, name, **kwargs):
    """Return the backbone in one piece, with the weights of both halves."""
    backbone = tiny_backbone(name, **kwargs)
    others = ('attention_branch.', 'gate.')
    weights = {without_half(k): v for k, v in model.state_dict().items() if not k.startswith(others)}
    backbone.load_state_dict(weights)
    return backbone.train(model.training)


def run_with_gate(backbone, model, images, attention_map):
    """Return the logits of the uncut backbone when hooks gate it as ``model`` says it does."""
    config, prefix = model.config, model.layout.num_prefix_tokens
    factor = attention_map + (config.mechanism == 'residual')

    def gated(x, places, factor):
        mean = 0 if config.gate == 'features' else x.mean(dim=places, keepdim=True)
        return mean + (x - mean) * factor

    def gate(module, args, output):
        if output.ndim == 3:
            tokens = gated(output[:, prefix:], 1, factor.reshape(len(factor), -1, 1))
            return torch.cat([output[:, :prefix], tokens], dim=1)
        if output.shape[2:] == factor.shape[2:]:
            return gated(output, (2, 3), factor)
        return gated(output, (1, 2), factor.permute(0, 2, 3, 1))

    def add_bias(module, args, kwargs):
        bias = torch.zeros(len(images), 1, 1, prefix + attention_map[0].numel(), dtype=images.dtype)
        bias[:, 0, 0, prefix:] = (attention_map.clamp(min=0) + 0.001).log().flatten(1)
        return args, dict(kwargs, attn_mask=bias)

    handles = [backbone.get_submodule(model.config.split).register_forward_hook(gate)]
    if config.gate == 'tokens':
        later = backbone.blocks[int(model.config.split.split('.')[1]) + 1 :]
        handles += [block.attn.register_forward_pre_hook(add_bias, with_kwargs=True) for block in later]
    try:
        return backbone(images)
    finally:
        for handle in handles:
            handle.remove()


@all_gates
@pytest.mark.parametrize('mechanism', ['residual', 'product'])
def test_logits_are_those_of_the_backbone_with_attended_features(backbone, gate, mechanism):
    model = tiny_abn(backbone, mechanism=mechanism, gate=gate)
    images = tiny_images()
    explanation = model.explain(images)
    with torch.no_grad():
        expected = run_with_gate(uncut_backbone(model, backbone), model, images, explanation.attention_map)
        actual = model(images)
        assert torch.equal(model.forward_head(model.forward_features(images)), actual)
    assert isinstance(actual, torch.Tensor) and actual.shape == (2, NUM_CLASSES)
    torch.testing.assert_close(actual, expected)
    assert torch.equal(explanation.logits, actual)


@all_gates
def test_training_mode_returns_both_predictions(backbone, gate):
    model = tiny_abn(backbone, gate=gate).train()
    images = tiny_images()
    with torch.no_grad():
        logits, attention_logits = model(images)
        features = model.feature_extractor(images)
        attention_map, expected_attention_logits = model.attention_branch(model.layout.to_maps(features, images))
        expected = run_with_gate(uncut_backbone(model, backbone), model, images, attention_map)
    assert logits.shape == attention_logits.shape == (2, NUM_CLASSES)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(attention_logits, expected_attention_logits)


def test_no_loss_is_detached():
    """The gradient of both losses together is that of finite differences, in all three components."""
    torch.manual_seed(0)
    model = tiny_abn('resnet20_cifar').double().train()
    images, targets = tiny_images(4, size=(32, 32), dtype=torch.float64), torch.tensor([0, 1, 2, 3])

    def loss():
        logits, attention_logits = model(images)
        return F.cross_entropy(logits, targets) + F.cross_entropy(attention_logits, targets)

    loss().backward()
    for component in ('feature_extractor', 'attention_branch', 'perception_branch'):
        parameters = list(getattr(model, component).parameters())
        directions = [torch.randn_like(p) for p in parameters]
        slope = sum((p.grad * d).sum() for p, d in zip(parameters, directions, strict=True))
        ends = []
        for step in (1e-8, -2e-8):
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter += step * direction
                ends.append(loss())
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += 1e-8 * direction
        torch.testing.assert_close((ends[0] - ends[1]) / 2e-8, slope, rtol=1e-3, atol=1e-5)


def test_each_loss_reaches_what_made_it():
    model = tiny_abn('resnet20_cifar').train()
    logits, attention_logits = model(tiny_images(4))
    logits.logsumexp(1).sum().backward(retain_graph=True)
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {'attention_branch.classifier.weight'}
    model.zero_grad()
    attention_logits.logsumexp(1).sum().backward()
    without = {name.split('.')[0] for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {'perception_branch', 'attention_branch'}
    assert model.attention_branch.map_conv.weight.grad is None
    assert model.feature_extractor.conv1.weight.grad.abs().sum() > 0


def test_evaluation_computes_only_what_is_returned():
    model = tiny_abn('test_resnet')
    images = tiny_images()
    attention = attention_for(model, images)
    class_maps = Calls(model.attention_branch.classifier)
    map_conv = Calls(model.attention_branch.map_conv)
    stem = Calls(model.feature_extractor.conv1)
    with torch.no_grad():
        model(images)
        assert (class_maps.count, map_conv.count, stem.count) == (0, 1, 1)
        model(images, attention)
        assert (class_maps.count, map_conv.count, stem.count) == (0, 1, 2)
        model.explain(images)
        assert (class_maps.count, map_conv.count, stem.count) == (1, 2, 3)


@all_gates
@pytest.mark.parametrize('training', [False, True])
def test_given_attention_replaces_the_predicted(backbone, gate, training):
    model = tiny_abn(backbone, gate=gate).train(training)
    images = tiny_images()
    attention = attention_for(model, images)
    with torch.no_grad():
        gated = model.gate(model.extract(images), attention)
        assert len(gated.side_inputs) == (gate == 'tokens')
        expected = model.perception_branch(gated if gated.side_inputs else gated.x)
        output = model(images, attention=attention)
    assert torch.equal(output[0] if training else output, expected)
    if not training:
        assert torch.equal(model.forward_head(model.forward_features(images, attention)), expected)
        assert torch.equal(model.explain(images, attention).logits, expected)
        final, _ = model.forward_intermediates(images, attention=attention)
        torch.testing.assert_close(model.forward_head(final), expected)


@pytest.mark.parametrize('backbone', ['test_resnet', 'test_vit', 'swin_tiny_patch4_window7_224'])
@pytest.mark.parametrize('shape', [(2, 1, 3, 4), (2, 2, 4, 4), (1, 1, 4, 4), (2, 4, 4)])
def test_attention_of_wrong_shape(backbone, shape):
    model = tiny_abn(backbone)
    images = tiny_images()
    expected = list(attention_for(model, images).shape)
    message = f'attention must have shape {expected}, got {list(shape)}.'
    for mode in (model.eval(), model.train()):
        with pytest.raises(ValueError) as error:
            mode(images, attention=torch.rand(shape))
        assert str(error.value) == message
    with pytest.raises(ValueError) as error:
        model.eval().explain(images, torch.rand(shape))
    assert str(error.value) == message


def test_backbone_of_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r'num_classes=7 needs a backbone with 7 outputs, got one with 5'):
        AttentionBranchNet(tiny_backbone('resnet20_cifar'), num_classes=7)
    with pytest.raises(ValueError, match=r'num_classes=5 needs a backbone with 10 outputs, got one with 5'):
        MultiTaskAttentionBranchNet(tiny_backbone('resnet20_cifar'), num_classes=5)
    backbone = tiny_backbone('resnet20_cifar', num_classes=10)
    assert MultiTaskAttentionBranchNet(backbone, num_classes=5).eval()(tiny_images()).shape == (2, 5)


def test_explain_refuses():
    model = tiny_abn('test_resnet')
    with pytest.raises(ValueError, match=r'images must have shape \(B, 3, H, W\), got \(2, 1, 64, 64\)'):
        model.explain(tiny_images(channels=1))
    with pytest.raises(ValueError, match='evaluation mode'):
        model.train().explain(tiny_images())
    model.eval().prune_intermediate_layers([0])
    with pytest.raises(ValueError, match=r'prune_intermediate_layers\(\) has removed'):
        model.explain(tiny_images())


@pytest.mark.parametrize(
    'backbone, arguments, size, map_size',
    [
        ('resnet20_cifar', {}, (33, 47), (17, 24)),
        ('test_resnet', {}, (64, 96), (4, 6)),
        ('test_resnet', {}, (65, 97), (5, 7)),
        ('test_convnext', {}, (65, 97), (4, 6)),
        ('test_vit', dict(dynamic_img_size=True), (64, 96), (4, 6)),
        ('swin_tiny_patch4_window7_224', dict(strict_img_size=False), (64, 96), (4, 6)),
    ],
)
def test_any_input_size(backbone, arguments, size, map_size):
    model = tiny_abn(backbone, **arguments)
    explanation = model.explain(tiny_images(size=size))
    assert explanation.attention_map.shape == (2, 1, *map_size)
    assert explanation.class_maps.shape == (2, NUM_CLASSES, *map_size)
    assert torch.isfinite(explanation.logits).all()


@all_backbones
def test_without_classes_pooled_features_and_the_map_remain(backbone):
    model = tiny_abn(backbone)
    images = tiny_images()
    expected_map = model.explain(images).attention_map
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(images), pre_logits=True)
        model.reset_classifier(0)
        assert torch.equal(model(images), pooled)
    assert model.num_classes == 0
    assert pooled.shape == (2, model.head_hidden_size)
    explanation = model.explain(images)
    assert torch.equal(explanation.attention_map, expected_map)
    assert explanation.attention_logits.shape == (2, NUM_CLASSES)

    model = tiny_abn(backbone, num_classes=0, attention_classes=7)
    assert model(images).shape == pooled.shape
    assert model.explain(images).class_maps.shape[1] == 7


def test_reset_classifier_rebuilds_both_heads_and_nothing_else():
    model = tiny_abn('test_resnet').double()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor += 1
    before = copy.deepcopy(model.state_dict())
    model.reset_classifier(7)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed == {name for name in before if name.startswith(('perception_branch.fc.', *K_DEPENDENT))}
    assert all(p.dtype == torch.float64 for p in model.parameters()) and not any(m.training for m in model.modules())
    assert model.attention_branch.class_conv.weight.shape[0] == model.attention_branch.class_norm.num_features == 7
    assert model.attention_branch.map_conv.weight.shape == (1, 7, 3, 3)
    assert model.num_classes == model.attention_branch.num_classes == 7
    assert [logits.shape[1] for logits in model.train()(tiny_images(dtype=torch.float64))] == [7, 7]
    with pytest.raises(ValueError, match='num_classes must be 0'):
        model.reset_classifier(-1)


@pytest.mark.parametrize('in_chans', [1, 4])
@all_backbones
def test_channels_of_images_and_the_classifier_which_is_registered_last(backbone, in_chans):
    model = tiny_abn(backbone, in_chans=in_chans)
    classifier = list(model.get_classifier().parameters())
    assert classifier[0].shape[0] == NUM_CLASSES
    assert all(a is b for a, b in zip(list(model.parameters())[-len(classifier) :], classifier, strict=True))
    assert model.in_chans == in_chans
    assert model(tiny_images(channels=in_chans)).shape == (2, NUM_CLASSES)


def test_same_seed_gives_the_same_weights():
    first, second = tiny_abn('test_convnext').state_dict(), tiny_abn('test_convnext').state_dict()
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_device_and_dtype_reach_every_tensor():
    model = tiny_abn('test_convnext', device='meta', dtype=torch.bfloat16)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    assert {tensor.device.type for tensor in tensors.values()} == {'meta'}
    integers = ('num_batches_tracked', 'gate.centred_gate')
    assert {tensor.dtype for name, tensor in tensors.items() if not name.endswith(integers)} == {torch.bfloat16}
