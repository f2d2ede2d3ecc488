"""Several explainers of a model: those that apply, and what is said of the others."""

import pytest
import torch
from tiny_models import tiny_abn, tiny_backbone, tiny_images

from timm_abn import TimmAbnError
from timm_abn.explain.methods import applicable_explainers, create_explainers
from timm_abn.explain.methods.package import PackageExplainer


def test_those_of_a_plain_backbone():
    model = tiny_backbone('test_resnet').eval()
    explainers = create_explainers(['grad_cam', 'cam', 'grad_cam'], model)
    assert list(explainers) == ['grad_cam', 'cam']
    assert explainers['cam'](tiny_images()).shape[:2] == (2, 1)
    assert list(applicable_explainers(['attention', 'random', 'class_map', 'grad_cam', 'rollout'], model)) == [
        'random',
        'grad_cam',
    ]


def test_what_does_not_apply_is_said_with_what_does():
    with pytest.raises(TimmAbnError) as error:
        create_explainers(['grad_cam', 'attention', 'rollout'], tiny_backbone('test_resnet').eval())
    assert str(error.value).startswith(
        "'attention' needs an Attention Branch Network, or a refined network (timm-abn attach), got ResNet; "
        "'rollout' needs tokens that attend to all others "
        'in each block, ResNet has none; methods that apply: cam, grad_cam, recipro_cam, random, centre'
    )


def test_all_of_an_abn_of_tokens():
    model = tiny_abn('test_vit').eval()
    names = ['attention', 'class_map', 'grad_cam', 'recipro_cam', 'rollout', 'random', 'centre']
    assert list(applicable_explainers(names, model)) == names


def test_a_layer_is_for_those_that_take_one():
    model = tiny_backbone('test_resnet').eval()
    for create in (create_explainers, applicable_explainers):
        explainers = create(['grad_cam', 'cam', 'recipro_cam', 'random'], model, 'layer2')
        assert [explainer.layer for explainer in explainers.values()] == ['layer2', 'last features', 'layer2', '']
        with pytest.raises(TimmAbnError, match="^ResNet has no module 'layr4'; did you mean layer4"):
            create(['grad_cam'], model, 'layr4')
    with pytest.raises(TimmAbnError) as error:
        create_explainers(['centre', 'cam'], model, 'layer4')
    takers = 'grad_cam, recipro_cam, pytorch_grad_cam, torchcam'
    assert str(error.value) == f"layer 'layer4' works for methods that take one ({takers}), got centre, cam."


@pytest.mark.parametrize(
    'backbone, layers',
    [
        ('test_resnet', dict(attention='layer3', class_map='layer3', grad_cam='layer4', recipro_cam='layer3')),
        ('test_vit', dict(attention='blocks.3', grad_cam='blocks.4', rollout='all blocks', random='', centre='')),
    ],
)
def test_each_says_its_layer(backbone, layers):
    explainers = create_explainers(layers, tiny_abn(backbone).eval())
    assert {name: explainer.layer for name, explainer in explainers.items()} == layers


def test_unknown_name():
    with pytest.raises(TimmAbnError, match="^Unknown explainer 'gradcam': did you mean grad_cam"):
        create_explainers(['gradcam'], tiny_backbone('test_resnet').eval())


def test_another_package_that_fails_is_one_line(monkeypatch):
    class Failing(PackageExplainer):
        name = 'captum'

        def __init__(self, model):
            self.num_classes = model.num_classes

        def _maps(self, images, targets):
            raise IndexError('a\nb')

    monkeypatch.setitem(__import__('timm_abn.explain.methods.create', fromlist=['x']).EXPLAINERS, 'captum', Failing)
    with pytest.raises(TimmAbnError, match="^'captum' fails on ResNet: IndexError: a b; methods that apply: "):
        create_explainers(['captum'], tiny_backbone('test_resnet').eval())


def test_the_model_is_left_alone():
    model = tiny_abn('test_resnet').eval()
    images = tiny_images()
    with torch.no_grad():
        before = model(images)
        create_explainers(['attention', 'grad_cam', 'recipro_cam'], model)
        assert torch.equal(before, model(images))
