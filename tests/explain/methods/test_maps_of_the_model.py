"""Maps that models make themselves (attention, class maps, CAM), and the two floors."""

import pytest
import timm
import torch
from tiny_models import tiny_abn, tiny_backbone, tiny_images

import timm_abn
from timm_abn.explain.methods import cam, create_explainer
from timm_abn.maps.operations import less_mean

TARGETS = torch.tensor([3, 0])


def test_attention_is_that_of_the_explanation():
    for backbone in ('test_resnet', 'test_vit', 'swin_tiny_patch4_window7_224'):
        model, images = tiny_abn(backbone), tiny_images()
        for targets in (None, TARGETS):
            maps = create_explainer('attention', model)(images, targets)
            torch.testing.assert_close(maps, model.explain(images).attention_map)


def test_attention_of_a_task():
    model, images = tiny_abn('test_resnet', multi_task=True), tiny_images()
    explanation, explainer = model.explain(images), create_explainer('attention', model)
    expected = explanation.attention_map[[0, 1], TARGETS].unsqueeze(1)
    torch.testing.assert_close(explainer(images, TARGETS), expected)
    predicted = explanation.logits.argmax(dim=1)
    torch.testing.assert_close(explainer(images), explanation.attention_map[[0, 1], predicted].unsqueeze(1))


@pytest.mark.parametrize('multi_task', [False, True])
def test_class_map_of_the_target(multi_task):
    model, images = tiny_abn('test_resnet', multi_task=multi_task), tiny_images()
    maps = create_explainer('class_map', model)(images, TARGETS)
    explanation = model.explain(images)
    logits = explanation.attention_logits[[0, 1], TARGETS]
    class_maps = explanation.class_maps[[0, 1], TARGETS].unsqueeze(1)
    torch.testing.assert_close(maps, class_maps - logits[:, None, None, None], rtol=1e-4, atol=1e-6)
    assert maps.min() < 0 < maps.max()


@pytest.mark.slow
def test_class_map_and_cam_of_a_cam_model_agree():
    torch.manual_seed(0)
    model = timm.create_model('cam_resnet110_cifar', num_classes=5).eval().double()
    images = tiny_images(dtype=torch.float64)
    class_maps = model.explain(images).class_maps[[0, 1], TARGETS].unsqueeze(1)
    expected = (class_maps - model(images)[[0, 1], TARGETS][:, None, None, None]).float()
    torch.testing.assert_close(create_explainer('class_map', model)(images, TARGETS), expected)
    torch.testing.assert_close(create_explainer('cam', model)(images, TARGETS), expected)


@pytest.mark.parametrize('multi_task', [None, False, True])
@pytest.mark.parametrize('backbone', ['test_resnet', 'swin_tiny_patch4_window7_224'])
def test_the_mean_that_cam_leaves_out_is_the_logit(backbone, multi_task, monkeypatch):
    images, whole = tiny_images(), []
    monkeypatch.setattr(cam, 'less_mean', lambda maps: less_mean(whole.append(maps) or maps))
    model = tiny_backbone(backbone).eval() if multi_task is None else tiny_abn(backbone, multi_task=multi_task)
    explainer = create_explainer('cam', model)
    logits, bias = model(images), (model if multi_task is None else model.perception_branch).get_classifier().bias
    bias = bias[1::2] - bias[::2] if multi_task else bias
    for targets in (TARGETS, logits.argmax(dim=1)):
        maps = explainer(images, targets)
        mean = whole[-1].mean(dim=(2, 3), keepdim=True)
        torch.testing.assert_close(mean.flatten(), logits[[0, 1], targets] - bias[targets], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(maps, whole[-1] - mean)


def test_rounding_is_not_blown_up_by_taking_the_mean_off():
    maps = torch.tensor([[3.1, 3.1000004], [1.0, 2.0]])[:, None, None]
    assert less_mean(maps).flatten().tolist() == [0, 0, -0.5, 0.5]


@pytest.mark.parametrize(
    'name, kwargs, family',
    [
        ('test_convnext', {}, 'ConvNeXt'),
        ('test_vit', {}, 'VisionTransformer'),
        ('test_resnet', dict(global_pool='max'), 'ResNet'),
    ],
)
def test_cam_refuses_other_classifiers(name, kwargs, family):
    with pytest.raises(timm_abn.TimmAbnError) as error:
        create_explainer('cam', timm.create_model(name, num_classes=5, **kwargs))
    assert str(error.value) == (
        f"'cam' needs a linear classifier on average-pooled features, {family} has none: the input of its "
        'classifier is not the mean of its last features.'
    )


@pytest.mark.parametrize('method', ['attention', 'class_map'])
def test_what_needs_an_attention_branch_says_so(method):
    with pytest.raises(timm_abn.TimmAbnError, match=f"^'{method}' needs .*, got ResNet[.;]"):
        create_explainer(method, tiny_backbone('test_resnet'))


def test_random_maps_are_of_an_image_not_of_its_place_in_the_batch():
    model, images = tiny_backbone('test_resnet'), tiny_images(4)
    explainer = create_explainer('random', model)
    maps = explainer(images)
    assert maps.shape == (4, 1, 14, 14) and maps.min() >= 0 and maps.max() < 1
    assert 0.4 < maps.mean() < 0.6 and len({float(one.sum()) for one in maps}) == 4
    assert torch.equal(explainer(images.flip(0)), maps.flip(0))
    assert torch.equal(explainer(images.to(memory_format=torch.channels_last)), maps)
    assert not torch.equal(create_explainer('random', model, seed=1)(images), maps)
    assert create_explainer('random', model, size=(3, 5))(images).shape == (4, 1, 3, 5)


def test_centre():
    maps = create_explainer('centre', tiny_backbone('test_resnet'), sigma=0.5)(tiny_images(size=(3, 5)))
    expected = torch.exp(-(torch.tensor([1 / 3, 0, 1 / 3]) ** 2) / 0.5)
    torch.testing.assert_close(maps[1, 0, :, 2], expected)
    assert maps.shape == (2, 1, 3, 5) and maps[0, 0, 1, 2] == 1
    assert torch.equal(maps, maps.flip(2)) and torch.equal(maps, maps.flip(3))
