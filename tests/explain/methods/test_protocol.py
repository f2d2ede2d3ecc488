"""What holds for every explainer: shapes, batches, targets, threads, and that it leaves the model alone."""

import functools
import gc
import threading

import pytest
import timm
import torch
from tiers import fast_and_slow
from timm_families import SMALLER, SMALLEST, small_images
from tiny_models import NUM_CLASSES, TINY_BACKBONES, tiny_abn, tiny_attached, tiny_backbone, tiny_images

import timm_abn
from timm_abn.explain.methods import EXPLAINERS, create_explainer

OWN = ['attention', 'class_map', 'cam', 'grad_cam', 'recipro_cam', 'rollout', 'random', 'centre']
TARGETS = torch.tensor([3, 0, 4])


def models():
    for backbone in TINY_BACKBONES:
        yield f'{backbone}', lambda backbone=backbone: tiny_backbone(backbone).eval()
        yield f'abn-{backbone}', lambda backbone=backbone: tiny_abn(backbone)
    yield 'attached-test_vit', lambda: tiny_attached('test_vit')
    yield 'attached-test_resnet', lambda: tiny_attached('test_resnet', refined=True)
    yield 'multi-task', lambda: tiny_abn('test_resnet', multi_task=True)
    yield 'multi-task-tokens', lambda: tiny_abn('test_vit', multi_task=True)


MODELS = dict(models())
BATCHED = ['attached-test_resnet', 'abn-test_resnet', 'abn-test_vit', 'abn-swin_tiny_patch4_window7_224', 'multi-task']


def explainers_of(model):
    """Yield the explainers of ours that apply to a model, by name; the others must refuse it in one line."""
    for name in OWN:
        try:
            yield name, create_explainer(name, model)
        except timm_abn.TimmAbnError as error:
            assert name in ('attention', 'class_map', 'cam', 'rollout')
            assert '\n' not in str(error) and f"'{name}' needs" in str(error)


@functools.cache
def explained(name, dtype=torch.float32):
    """Return a model, which stays as it is, and its explainers by name."""
    model = MODELS[name]().to(dtype)
    return model, dict(explainers_of(model))


def assert_maps(maps, images):
    assert maps.shape[:2] == (len(images), 1) and maps.ndim == 4 and min(maps.shape[2:]) > 0
    assert maps.dtype == torch.float32 and maps.device == images.device
    assert not maps.requires_grad and not maps.is_inference()
    assert torch.isfinite(maps).all()


def test_names():
    assert list(EXPLAINERS) == [*OWN, 'pytorch_grad_cam', 'torchcam', 'captum']
    assert all(explainer.name == name for name, explainer in EXPLAINERS.items())


APPLY = {
    'resnet20_cifar': {'cam'},
    'test_resnet': {'cam'},
    'test_convnext': set(),
    'test_vit': {'rollout'},
    'swin_tiny_patch4_window7_224': {'cam'},
}
ALWAYS = {'grad_cam', 'recipro_cam', 'random', 'centre'}


@pytest.mark.parametrize('name', fast_and_slow(MODELS, set(MODELS) - {'abn-test_convnext', 'abn-resnet20_cifar'}))
def test_maps_of_every_method_that_applies(name):
    explainers, images = explained(name)[1], tiny_images(3, size=(16, 16) if 'cifar' in name else (64, 64))
    applied = set()
    for method, explainer in explainers.items():
        applied.add(method)
        for targets in (None, TARGETS):
            assert_maps(explainer(images, targets), images)
    backbone = {'multi-task': 'test_resnet', 'multi-task-tokens': 'test_vit'}.get(
        name, name.removeprefix('abn-').removeprefix('attached-')
    )
    branch = {'attention', 'class_map'} - ({'attention'} if name == 'attached-test_vit' else set())
    branch = set() if name == backbone else branch
    assert applied == ALWAYS | APPLY[backbone] | branch


@pytest.mark.parametrize('name', BATCHED)
def test_rows_of_a_batch_equal_rows_alone(name):
    images = tiny_images(3, dtype=torch.float64)
    for method, explainer in explained(name, torch.float64)[1].items():
        together = explainer(images, TARGETS)
        for row in range(3):
            alone = explainer(images[row : row + 1], TARGETS[row : row + 1])
            torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-5, atol=1e-6, msg=method)


@pytest.mark.parametrize('name', ['multi-task', 'abn-test_vit'])
def test_default_targets_are_the_predicted_classes(name):
    (model, explainers), images = explained(name, torch.float64), tiny_images(3, dtype=torch.float64)
    predicted = model(images).argmax(dim=1)
    for method, explainer in explainers.items():
        torch.testing.assert_close(explainer(images), explainer(images, predicted), rtol=1e-5, atol=1e-6, msg=method)


@pytest.mark.parametrize('name', ['test_resnet', 'multi-task'])
def test_targets_matter(name):
    images, same = tiny_images(3), {'random', 'centre'}
    for method, explainer in explained(name)[1].items():
        maps = [explainer(images, torch.full((3,), target)) for target in range(NUM_CLASSES)]
        assert all(torch.equal(one, maps[0]) for one in maps) == (method in same), method


def state_of(model):
    """Return all that an explainer must not touch."""
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    others = []
    for name, module in model.named_modules():
        hooks = [len(vars(module)[hooks]) for hooks in sorted(vars(module)) if 'hooks' in hooks]
        parameters = [(id(p), p.requires_grad, p.grad) for p in module._parameters.values() if p is not None]
        others.append((name, module.training, sorted(vars(module)), hooks, parameters))
    return tensors, others


def test_the_model_is_left_alone():
    for name in ('abn-test_vit', 'test_resnet', 'multi-task', 'attached-test_resnet'):
        model, images = MODELS[name](), tiny_images(3)
        model.train()
        next(model.children()).eval()  # a mixture, as in transfer learning
        next(model.parameters()).requires_grad_(False)
        for parameter in list(model.parameters())[:3]:
            parameter.grad = torch.ones_like(parameter)
        tensors, others = state_of(model)
        for _, explainer in explainers_of(model):
            explainer(images)
        tensors_after, others_after = state_of(model)
        assert others_after == others
        assert all(torch.equal(tensors_after[key], tensor) for key, tensor in tensors.items())


def test_a_model_in_training_mode_is_explained_as_in_evaluation_mode():
    images = tiny_images(3)
    expected = {name: explainer(images) for name, explainer in explained('abn-test_resnet')[1].items()}
    for name, explainer in explainers_of(MODELS['abn-test_resnet']().train()):
        assert torch.equal(explainer(images), expected[name])


@pytest.mark.parametrize('name', fast_and_slow(['abn-test_resnet', 'abn-test_vit', 'test_vit'], ['abn-test_vit']))
def test_modes_of_the_caller_change_nothing(name):
    (model, explainers), images = explained(name), tiny_images(3)
    for method, explainer in explainers.items():
        expected = explainer(images)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                maps = explainer(images.clone())
                inside = create_explainer(method, model)(images.clone())
            assert_maps(maps, images)
            assert torch.equal(maps, expected) and torch.equal(inside, expected)


def test_new_weights_are_seen():
    model, images = MODELS['abn-test_resnet'](), tiny_images(3)
    explainers = dict(explainers_of(model))
    before = {name: explainer(images) for name, explainer in explainers.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    for name, explainer in explainers.items():
        assert torch.equal(explainer(images), create_explainer(name, model)(images))
        assert torch.equal(explainer(images), before[name]) == (name in ('random', 'centre'))


@pytest.mark.parametrize('name', ['multi-task', 'abn-test_vit'])
def test_threads(name):
    batches = [tiny_images(2) + 0.1 * index for index in range(4)]
    for method, explainer in explained(name)[1].items():
        expected, found = [explainer(images) for images in batches], [None] * len(batches)

        def work(index, explainer=explainer, found=found):
            for _ in range(3):
                found[index] = explainer(batches[index])

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(batches))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for actual, one in zip(found, expected, strict=True):
            torch.testing.assert_close(actual, one, rtol=1e-4, atol=1e-5, msg=method)


def count_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize('name', fast_and_slow(['abn-test_resnet', 'abn-test_vit', 'multi-task'], ['abn-test_vit']))
def test_calls_leave_no_tensors_behind(name):
    images, explainers = tiny_images(2), explained(name)[1]
    counts = []
    for _ in range(2):
        for explainer in explainers.values():
            explainer(images)
        counts.append(count_tensors())
    assert counts[1] == counts[0]


def test_half_precision():
    model, images = MODELS['abn-test_resnet']().bfloat16(), tiny_images(3).bfloat16()
    for _, explainer in explainers_of(model):
        assert_maps(explainer(images), images)


def test_flat_features_give_flat_maps():
    model = MODELS['abn-test_resnet']()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for method, explainer in explainers_of(model):
        maps = explainer(tiny_images(3))
        assert torch.isfinite(maps).all()
        assert method in ('random', 'centre') or maps.std(dim=(2, 3)).max() == 0


def test_no_images_give_no_maps():
    images = tiny_images(1)[:0]
    for explainer in explained('abn-test_resnet')[1].values():
        assert_maps(explainer(images), images)


AFTER_THE_CUT = "layer must come after the cut at 'layer3',"


@pytest.mark.parametrize(
    'name, options, message',
    [
        ('grad_camm', {}, "Unknown explainer 'grad_camm': did you mean grad_cam, pytorch_grad_cam?"),
        ('x', {}, f"Unknown explainer 'x': there are {', '.join(OWN)}, pytorch_grad_cam, torchcam, captum."),
        ('captm:Saliency', {}, "Unknown explainer 'captm:Saliency': did you mean captum, cam?"),
        (
            'grad_cam:LayerCAM',
            {},
            "Unknown explainer 'grad_cam:LayerCAM': PACKAGE:METHOD works for pytorch_grad_cam, torchcam, captum.",
        ),
        ('grad_cam', {'layr': 'x'}, "Explainer 'grad_cam' has no option 'layr'; did you mean layer?"),
        ('centre', {'z': 1}, "Explainer 'centre' has no option 'z'; its options are sigma."),
        ('attention', {'layer': 'x'}, "Explainer 'attention' has no option 'layer'; it has none."),
        ('centre', {'sigma': 0}, 'sigma must be more than 0, got 0.'),
        ('recipro_cam', {'batch_size': 0}, 'batch_size must be a whole number of 1 or more, got 0.'),
        ('grad_cam', {'layer': 'layer1'}, f"{AFTER_THE_CUT} where the attention map is applied, got 'layer1'."),
    ],
)
def test_wrong_names_and_options_are_refused_in_one_line(name, options, message):
    with pytest.raises(timm_abn.TimmAbnError) as error:
        create_explainer(name, tiny_abn('test_resnet'), **options)
    assert str(error.value) == message


IMAGES = 'images must be floats of shape (B, C, H, W), got '
ONE_CLASS = 'targets must be integers of shape (2,), one class per image, got '


@pytest.mark.parametrize(
    'arguments, message',
    [
        (lambda x: (x[0],), f'{IMAGES}torch.float32 of shape (3, 64, 64).'),
        (lambda x: (x.byte(),), f'{IMAGES}torch.uint8 of shape (2, 3, 64, 64).'),
        (lambda x: (x, torch.tensor([1])), f'{ONE_CLASS}torch.int64 of shape (1,).'),
        (lambda x: (x, torch.zeros(2)), f'{ONE_CLASS}torch.float32 of shape (2,).'),
        (lambda x: (x, [1, 2]), f'{ONE_CLASS}[1, 2].'),
        (lambda x: (x, torch.tensor([1, 5])), 'targets must be classes from 0 to 4, got 5.'),
        (lambda x: (x, torch.tensor([-1, 2])), 'targets must be classes from 0 to 4, got -1.'),
    ],
)
def test_wrong_images_and_targets_are_refused_in_one_line(arguments, message):
    explainer = create_explainer('centre', MODELS['test_resnet']())
    with pytest.raises(timm_abn.TimmAbnError) as error:
        explainer(*arguments(tiny_images(2)))
    assert str(error.value) == message


def test_models_without_classes_are_refused():
    with pytest.raises(timm_abn.TimmAbnError) as error:
        create_explainer('grad_cam', timm.create_model('test_resnet', num_classes=0))
    assert str(error.value) == 'An explanation needs classes: ResNet has num_classes=0.'


FAST_FAMILIES = {'byobnet', 'efficientnet', 'nfnet'}
# streams, windows, tokens without a class, and maps that are not where features are
SLOW_FAMILIES = {'coat', 'efficientvim', 'levit', 'maxxvit', 'pit', 'vision_transformer_relpos', 'xcit'}


@pytest.mark.parametrize('family', fast_and_slow(SMALLEST, FAST_FAMILIES, SLOW_FAMILIES))
def test_family_is_explained_without_options(family):
    torch.manual_seed(0)
    model = timm.create_model(SMALLEST[family], num_classes=NUM_CLASSES, **SMALLER.get(family, {})).eval()
    images = small_images(family, model, 1)
    for method, explainer in explainers_of(model):
        if method != 'recipro_cam' or max(images.shape[2:]) <= 160:  # whose cost is that of hundreds of images
            assert_maps(explainer(images), images)
