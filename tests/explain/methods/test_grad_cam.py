"""Grad-CAM: by hand, by gradients through the whole model, and as the package grad-cam has it."""

import pytest
import timm
import torch
import torch.nn as nn
from tiers import fast_and_slow
from tiny_models import TINY_SPLITS, tiny_abn, tiny_backbone, tiny_images

from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import usable_maps
from timm_abn.split import cut_backbone

TARGETS = torch.tensor([3, 0])


class Linear(nn.Module):
    """A backbone whose logits are a linear function of the mean of its features: two channels, three classes."""

    def __init__(self):
        super().__init__()
        self.num_classes = 3
        self.stem, self.pool, self.head = nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 3, 1, bias=False)
        self.flatten = nn.Flatten()
        self.feature_info = [dict(module='stem', num_chs=2, reduction=1), dict(module='head', num_chs=3, reduction=1)]

    def forward(self, x):
        return self.flatten(self.head(self.pool(self.stem(x))))


def test_by_hand():
    model = Linear().double()
    with torch.no_grad():
        model.stem.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]])[:, :, None, None])
        model.stem.bias.zero_()
        model.head.weight.copy_(torch.tensor([[1.0, 0], [1, -1], [-1, 2]])[:, :, None, None])
    images = torch.zeros(3, 3, 2, 2, dtype=torch.float64)
    images[:, 0] = torch.tensor([[1.0, 2], [3, 4]])
    images[:, 1] = torch.tensor([[0.0, 4], [1, 1]])
    maps = create_explainer('grad_cam', model)(images, torch.tensor([0, 1, 2]))
    # the mean gradient of channel c is its weight, a quarter of it at each of the four places
    expected = torch.tensor([[[1.0, 2], [3, 4]], [[1, 0], [2, 3]], [[0, 6], [0, 0]]]) / 4
    torch.testing.assert_close(maps, expected[:, None])


def as_maps(backbone, tensor):
    """Return tokens of a ViT with one prefix token, or NHWC features of Swin, as (B, C, h, w)."""
    if backbone == 'test_vit':
        return tensor[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    return tensor.permute(0, 3, 1, 2) if backbone.startswith('swin') else tensor


def through_the_whole_model(backbone, model, module, images, targets):
    features = []
    handle = module.register_forward_hook(lambda module, args, output: features.append(output))
    scores = model(images).gather(1, targets[:, None])
    handle.remove()
    gradients = torch.autograd.grad(scores.sum(), features[0])[0]
    weights = as_maps(backbone, gradients).mean(dim=(2, 3), keepdim=True)
    return (weights * as_maps(backbone, features[0])).sum(dim=1, keepdim=True).relu().float().detach()


LATER = {'test_resnet': 'layer4', 'test_convnext': 'stages.3', 'test_vit': 'blocks.4'} | {
    'swin_tiny_patch4_window7_224': 'layers.3'
}


class GateWithLeaf(torch.nn.Module):
    """A gate whose gated features pass a module of their own, where hooks and packages find them."""

    def __init__(self, gate):
        super().__init__()
        self.gate, self.gated = gate, torch.nn.Identity()

    def forward(self, features, attention_map):
        features = self.gate(features, attention_map)
        return features._replace(x=self.gated(features.x))


@pytest.mark.parametrize('attention', [False, True])
@pytest.mark.parametrize('backbone', fast_and_slow(LATER, ['test_resnet', 'test_vit']))
def test_equals_the_gradients_of_the_whole_model(backbone, attention):
    model = (tiny_abn(backbone) if attention else tiny_backbone(backbone).eval()).double()
    images = tiny_images(dtype=torch.float64)
    if attention:
        model.gate = GateWithLeaf(model.gate)
    at_the_cut = model.gate.gated if attention else model.get_submodule(cut_backbone(model).path)
    later = (model.perception_branch if attention else model).get_submodule(LATER[backbone])
    for layer, module in (('cut', at_the_cut), (None, later)):
        explainer = create_explainer('grad_cam', model, layer=layer)
        assert layer or explainer.layer == LATER[backbone]  # of ViT not the last block, whose tokens nothing reads
        maps = explainer(images, TARGETS)
        expected = through_the_whole_model(backbone, model, module, images, TARGETS)
        assert expected.std() > 0
        torch.testing.assert_close(maps, expected, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize('backbone', ['test_resnet', 'test_vit'])
def test_a_task_is_explained_under_its_own_map(backbone):
    model, images = tiny_abn(backbone, multi_task=True).double(), tiny_images(dtype=torch.float64)
    explainer = create_explainer('grad_cam', model, layer='cut')
    for task in range(5):
        targets = torch.tensor([task, task])
        attention = model.explain(images).attention_map[:, task : task + 1]
        features = model.gate(model.extract(images), attention)
        gated = features.x.detach().requires_grad_()
        outputs = model.forward_perception(features._replace(x=gated))
        answer = outputs[:, 2 * task + 1] - outputs[:, 2 * task]
        torch.testing.assert_close(answer, model(images)[:, task])
        gradients = torch.autograd.grad(answer.sum(), gated)[0]
        weights = as_maps(backbone, gradients).mean(dim=(2, 3), keepdim=True)
        expected = (weights * as_maps(backbone, gated)).sum(dim=1, keepdim=True).relu().float().detach()
        torch.testing.assert_close(explainer(images, targets), expected, rtol=1e-5, atol=1e-8)


def test_the_cut_of_the_network_may_be_named():
    model, images = tiny_abn('test_resnet'), tiny_images()
    expected = create_explainer('grad_cam', model, layer='cut')(images)
    for layer in ('layer3', '3'):
        explainer = create_explainer('grad_cam', model, layer=layer)
        assert torch.equal(explainer(images), expected) and explainer.layer == 'layer3'


# backbone -> its last stage whose places the classifier reads
LAST_STAGES = {
    **LATER,
    'test_efficientnet': 'blocks.4',  # before the last convolution
    'deit_tiny_distilled_patch16_224': 'blocks.10',  # two tokens are read
    'pit_ti_224': 'transformers.1',  # class tokens pass beside the maps
    'vit_base_patch16_gap_224': 'blocks.11',  # their mean is
    'nasnetalarge': 'cell_11',  # no exact cut behind the last stage
}

SMALLER = {
    'deit_tiny_distilled_patch16_224': dict(embed_dim=48),
    'vit_base_patch16_gap_224': dict(embed_dim=48, num_heads=3),
    'nasnetalarge': dict(stem_size=32, num_features=1056),
}


@pytest.mark.parametrize('backbone', fast_and_slow(LAST_STAGES, ['test_efficientnet', 'test_vit', 'test_convnext']))
def test_the_last_stage_is_the_default_and_has_gradients(backbone):
    torch.manual_seed(0)
    model = timm.create_model(backbone, num_classes=5, **SMALLER.get(backbone, {})).eval()
    with torch.no_grad():
        heads = model.get_classifier()
        for head in heads if isinstance(heads, tuple) else [heads]:
            head.weight.normal_()
    explainer = create_explainer('grad_cam', model)
    assert explainer.layer == LAST_STAGES[backbone]
    images = torch.randn(1, *((3, 96, 96) if backbone == 'nasnetalarge' else model.default_cfg['input_size']))
    features = explainer._halves.extract(images, None)
    gradients = explainer._halves.to_maps(explainer._gradients(features, torch.tensor([1])), images)
    assert gradients.abs().amax(dim=(1, 2, 3)) > 0
    maps = torch.cat([explainer(images, torch.tensor([target])) for target in range(5)])
    assert torch.isfinite(maps).all() and bool(usable_maps(maps).any())


@pytest.mark.slow
def test_a_network_without_an_exact_cut_behind_its_own_is_explained_there():
    torch.manual_seed(0)
    model = timm.create_model('abn', backbone='efficientvim_m1', num_classes=5).eval()
    assert create_explainer('grad_cam', model).layer == model.config.split == 'stages.1'


@pytest.mark.parametrize('layer', ['cut', 'last stage'])
@pytest.mark.parametrize('attention', [False, True])
@pytest.mark.parametrize('backbone', LATER)
def test_equals_the_package(backbone, attention, layer):
    package = pytest.importorskip('pytorch_grad_cam')
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images = tiny_abn(backbone) if attention else tiny_backbone(backbone).eval(), tiny_images()
    path = (
        LATER[backbone]
        if layer == 'last stage'
        else cut_backbone(tiny_backbone(backbone), TINY_SPLITS.get(backbone)).path
    )
    maps = create_explainer('grad_cam', model, layer='cut' if layer == 'cut' else None)(images, TARGETS)
    if not attention:
        maps = create_explainer('grad_cam', model, layer=path)(images, TARGETS)
    if attention:
        model.gate = GateWithLeaf(model.gate)
    half = model.perception_branch if attention else model
    module = model.gate.gated if attention and layer == 'cut' else half.get_submodule(path)
    with package.GradCAM(model, [module], reshape_transform=lambda x: as_maps(backbone, x)) as cam:
        expected = cam(images, [ClassifierOutputTarget(target) for target in TARGETS.tolist()])
    scaled = torch.as_tensor(scale_cam_image(scale_cam_image(maps[:, 0].numpy(), (64, 64))))
    assert scaled.std() > 0.1
    torch.testing.assert_close(scaled, torch.as_tensor(expected), rtol=0, atol=1e-5)
