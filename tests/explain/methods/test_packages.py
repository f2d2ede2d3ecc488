"""Methods of other packages under our protocol; where a package is not installed, one line says how to get it."""

import importlib
import types

import pytest
import torch
from tiny_models import tiny_abn, tiny_backbone, tiny_images

import timm_abn
from timm_abn.explain.methods import create_explainer
from timm_abn.maps.operations import normalize_maps, upsample_maps

TARGETS = torch.tensor([3, 0])
BACKBONES = ['test_resnet', 'test_vit', 'swin_tiny_patch4_window7_224']
PACKAGES = {'pytorch_grad_cam': 'pytorch_grad_cam', 'torchcam': 'torchcam.methods', 'captum': 'captum.attr'}


@pytest.mark.parametrize('name, module', PACKAGES.items())
def test_a_package_that_is_missing_is_named(name, module, monkeypatch):
    import_module = importlib.import_module

    def without(wanted, *args):
        if wanted == module:
            raise ModuleNotFoundError(f'No module named {wanted!r}')
        return import_module(wanted, *args)

    monkeypatch.setattr(importlib, 'import_module', without)
    with pytest.raises(timm_abn.TimmAbnError) as error:
        create_explainer(name, tiny_backbone('test_resnet'))
    package = 'grad-cam' if name == 'pytorch_grad_cam' else name
    assert str(error.value) == f"{name!r} needs the package {package}: pip install 'timm-abn[compare]'."


@pytest.mark.parametrize('attention', [False, True])
@pytest.mark.parametrize('backbone', BACKBONES)
def test_their_grad_cam_is_ours(backbone, attention):
    for module in PACKAGES.values():
        pytest.importorskip(module)
    model = tiny_abn(backbone) if attention else tiny_backbone(backbone).eval()
    images = tiny_images()
    ours = create_explainer('grad_cam', model)(images, TARGETS)  # at the last stage, as theirs
    captum = create_explainer('captum', model, method='LayerGradCam')(images, TARGETS)
    torch.testing.assert_close(captum, ours, rtol=1e-4, atol=1e-7)
    torchcam = create_explainer('torchcam', model)(images, TARGETS)
    torch.testing.assert_close(torchcam, normalize_maps(ours), rtol=0, atol=1e-4)
    package = create_explainer('pytorch_grad_cam', model)(images, TARGETS)
    expected = normalize_maps(upsample_maps(normalize_maps(ours), (64, 64)))
    torch.testing.assert_close(package, expected, rtol=0, atol=2e-3)  # OpenCV's interpolation has 11 bits


@pytest.mark.parametrize(
    'name, options',
    [
        ('pytorch_grad_cam', {}),
        ('pytorch_grad_cam', {'method': 'LayerCAM', 'layer': 'layer4'}),
        ('torchcam', {'method': 'GradCAMpp'}),
        ('torchcam:LayerCAM', {}),
        ('captum', {'n_steps': 4}),
        ('captum', {'method': 'Saliency'}),
        ('captum', {'method': 'GuidedBackprop'}),
        ('captum', {'method': 'Occlusion', 'sliding_window_shapes': (3, 32, 32), 'strides': (3, 16, 16)}),
    ],
)
def test_protocol(name, options):
    pytest.importorskip(PACKAGES[name.partition(':')[0]])
    model, images = tiny_abn('test_resnet').train(), tiny_images()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    explainer = create_explainer(name, model, **options)
    with torch.no_grad():
        maps = explainer(images)
    assert maps.shape[:2] == (2, 1) and maps.dtype == torch.float32 and not maps.requires_grad
    assert torch.isfinite(maps).all() and maps.std() > 0
    torch.testing.assert_close(explainer(images, model.eval()(images).argmax(dim=1)), maps)
    for row in range(2):
        torch.testing.assert_close(explainer(images[row : row + 1]), maps[row : row + 1], rtol=1e-3, atol=1e-4)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in explainer._model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_wrong_methods_and_models_are_refused_in_one_line():
    pytest.importorskip('captum')
    with pytest.raises(timm_abn.TimmAbnError) as error:
        create_explainer('captum:Salience', tiny_backbone('test_resnet'))
    assert str(error.value) == "captum has no method 'Salience'; did you mean Saliency?"
    with pytest.raises(timm_abn.TimmAbnError) as error:
        create_explainer('captum', tiny_abn('test_resnet', multi_task=True))
    assert str(error.value) == "'captum' explains one map, but the network has one for each task."


class FakeMethod:
    def __init__(self, *args):
        pass


class LayerFake(FakeMethod):
    pass


@pytest.mark.parametrize(
    'name, layer, expected',
    [
        ('captum:FakeMethod', None, 'input'),
        ('captum:LayerFake', 'layer2', 'layer2'),
        ('torchcam:FakeMethod', None, 'layer4'),
        ('pytorch_grad_cam:FakeMethod', 'cut', 'layer3'),
    ],
)
def test_the_layer_of_a_method_of_a_package(name, layer, expected, monkeypatch):
    fakes = types.SimpleNamespace(FakeMethod=FakeMethod, LayerFake=LayerFake)
    monkeypatch.setattr(importlib, 'import_module', lambda name: fakes)
    explainer = create_explainer(name, tiny_backbone('test_resnet').eval(), **({'layer': layer} if layer else {}))
    assert explainer.layer == expected
    with pytest.raises(timm_abn.TimmAbnError, match='^captum takes no layer for FakeMethod, which maps the input; '):
        create_explainer('captum:FakeMethod', tiny_backbone('test_resnet'), layer='layer4')
