"""The CAM baselines: a linear classifier on a last stage of stride 1, whose class maps explain the prediction."""

import pytest
import timm
import torch
import torch.nn as nn
from timm.models.resnet import BasicBlock

from timm_abn import Explanation
from timm_abn.models.cam_models import CamResNet, CamVGG


def tiny_resnet(**kwargs):
    torch.manual_seed(0)
    return CamResNet(BasicBlock, (1, 1, 1, 1), channels=(8, 8, 16, 16), num_classes=5, **kwargs).eval()


def tiny_vgg(**kwargs):
    torch.manual_seed(0)
    return CamVGG([8, 'M', 16, 'M'], num_classes=5, **kwargs).eval()


def tiny_cifar(**kwargs):
    torch.manual_seed(0)
    return timm.create_model('cam_resnet110_cifar', num_blocks=1, num_classes=5, **kwargs).eval()


@pytest.mark.parametrize(('build', 'resolution'), [(tiny_resnet, 16), (tiny_vgg, 2), (tiny_cifar, 2)])
def test_explanation(build, resolution):
    model = build()
    images = torch.randn(3, 3, 64, 48)
    explanation = model.explain(images)
    assert isinstance(explanation, Explanation)
    features, classifier = model.forward_features(images), model.get_classifier()
    assert features.shape[2:] == (64 // resolution, 48 // resolution)
    # Zhou et al., Eq. 2: the sum over channels of weight times feature; the bias is the same everywhere
    expected = torch.einsum('kc,bchw->bkhw', classifier.weight, features) + classifier.bias[:, None, None]
    torch.testing.assert_close(explanation.class_maps, expected)
    torch.testing.assert_close(explanation.logits, expected.mean(dim=(2, 3)))
    assert torch.equal(explanation.logits, model(images))
    assert explanation.attention_logits is None
    assert explanation.attention_map.shape == (3, 1, *features.shape[2:])
    for attention, maps, logits in zip(explanation.attention_map, expected, explanation.logits, strict=True):
        predicted = maps[logits.argmax()]
        stretched = (predicted - predicted.min()) / (predicted.max() - predicted.min())
        torch.testing.assert_close(attention[0], stretched)


@pytest.mark.parametrize(
    ('build', 'change', 'message'),
    [
        (tiny_resnet, lambda model: model.train(), 'evaluation mode'),
        (tiny_resnet, lambda model: model.reset_classifier(0), 'num_classes=0'),
        (tiny_vgg, lambda model: model.reset_classifier(0), 'num_classes=0'),
        (tiny_resnet, lambda model: model.reset_classifier(5, 'max'), "global_pool='max'"),
        (tiny_vgg, lambda model: model.reset_classifier(5, 'max'), "global_pool='max'"),
        (tiny_cifar, lambda model: model.reset_classifier(5, 'catavgmax'), "global_pool='catavgmax'"),
    ],
)
def test_what_cannot_be_explained(build, change, message):
    model = build()
    change(model)
    with pytest.raises(ValueError, match=message):
        model.explain(torch.randn(1, 3, 32, 32))


def test_wrong_images():
    with pytest.raises(ValueError, match=r'\(B, 3, H, W\), got \(1, 1, 32, 32\)'):
        tiny_resnet().explain(torch.randn(1, 1, 32, 32))


@pytest.mark.parametrize(
    ('name', 'backbone', 'channels', 'reduction', 'size'),
    [
        ('cam_resnet50', 'resnet50', 2048, 16, 224),
        ('cam_resnet152', 'resnet152', 2048, 16, 224),
        ('cam_resnet110_cifar', 'resnet110_cifar', 256, 2, 32),
    ],
)
def test_only_the_stride_differs_from_the_backbone(name, backbone, channels, reduction, size):
    model = timm.create_model(name, device=torch.device('meta'))
    model.load_state_dict(timm.create_model(backbone, device=torch.device('meta')).state_dict())
    features = model.forward_features(torch.empty(1, 3, size, size, device='meta'))
    assert features.shape == (1, channels, size // reduction, size // reduction)
    assert model.feature_info[-1]['reduction'] == reduction


def test_vgg_has_a_convolution_instead_of_fully_connected_layers():
    model = timm.create_model('cam_vgg16_bn', device=torch.device('meta'))
    vgg = timm.create_model('vgg16_bn', device=torch.device('meta'))
    instead = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert [type(layer) for layer in model.features] == [type(layer) for layer in vgg.features[:-1]] + instead
    assert model.features[-3].weight.shape == (1024, 512, 3, 3)
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert [layer.weight.shape for layer in linear] == [(1000, 1024)]
    assert model.forward_features(torch.empty(1, 3, 224, 224, device='meta')).shape == (1, 1024, 14, 14)


def test_vgg_drops_out_before_the_classifier():
    assert tiny_vgg(drop_rate=0.25).head.drop.p == 0.25
