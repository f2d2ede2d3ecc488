"""Both halves of a cut must compute exactly what the backbone computes, in every family of timm."""

import copy
import functools
import pickle

import pytest
import timm
import torch
import torch.nn as nn
from proofs import counted_proofs
from tiers import fast_and_slow
from timm_families import SMALLEST, small_image_size
from tiny_models import TINY_BACKBONES

import timm_abn
from timm_abn.split import Adapter, register_adapter
from timm_abn.split.cut import SplitError, cut_backbone, split_backbone
from timm_abn.split.halves import join_halves

OUR_MODULES = {'abn_models', 'attached_models', 'cam_models', 'cifar_backbones', 'cifar_densenet', 'cifar_wide_resnet'}


def make_backbone(name, **kwargs):
    """Return a seeded float64 model in which no weight is zero, so that no layer hides what goes through it."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **kwargs).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def images_for(model, family=''):
    return torch.randn(2, *small_image_size(family, model), dtype=torch.float64)


def assert_exact(model, split=None, family=''):
    images = images_for(model, family)
    with torch.no_grad():
        expected = model(images)
        feature_extractor, perception_branch = split_backbone(model, split)
        actual = perception_branch(feature_extractor(images))
    assert torch.isfinite(expected).all()
    assert expected.std() > 0
    assert torch.equal(actual, expected)


# of each layout and each way to be cut the quickest, in float64; tests/networks/test_families.py is for all, in float32
FAST_FAMILIES = 'convnext efficientvim levit resnet vision_transformer'.split()
SLOW_FAMILIES = 'byobnet maxxvit pit vision_transformer_relpos'.split()


@pytest.mark.parametrize('family', fast_and_slow(SMALLEST, FAST_FAMILIES, SLOW_FAMILIES))
@torch.no_grad()
def test_family_cuts_exactly(family):
    assert_exact(make_backbone(SMALLEST[family]), family=family)


def test_every_family_is_accounted_for(record_property):
    unlisted = set(timm.list_modules()) - OUR_MODULES - set(SMALLEST)
    assert not unlisted, f'families of timm that no list names: {sorted(unlisted)}'
    record_property('families_cut', len(SMALLEST))


@pytest.mark.parametrize(
    'split, path',
    [
        (0, 'act1'),
        (3, 'layer3'),
        (-2, 'layer3'),
        ('2', 'layer2'),
        ('layer1', 'layer1'),
        ('layer2.0', 'layer2.0'),
        (None, 'layer3'),
    ],
)
def test_split_by_index_and_path(split, path):
    model = make_backbone('test_resnet')
    assert cut_backbone(model, split).path == path
    assert_exact(model, split)


def test_default_split_of_isotropic_backbones_is_after_three_quarters():
    assert cut_backbone(make_backbone('test_vit')).path == 'blocks.3'  # of six blocks: round(4.5) - 1


@pytest.mark.parametrize(
    'split, message',
    [
        (7, r'ResNet has no stage 7; valid splits: 0 \(act1\), .*4 \(layer4\), or any module path'),
        (-6, 'no stage -6'),
        ('layer9', r"no module 'layer9'; did you mean layer4, layer3, layer2\?"),
        ('', "no module ''"),
        (True, 'stage index or a module path, got True'),
        (1.5, 'stage index or a module path, got 1.5'),
        ('layer3.0.conv1', "split exactly at 'layer3.0.conv1': more than one tensor crosses the cut"),
        ('layer3.0.downsample', "split exactly at 'layer3.0.downsample': more than one tensor crosses the cut"),
        ('layer3.0.act3', "split exactly at 'layer3.0.act3': it does work between its modules"),
    ],
)
def test_wrong_splits_are_refused_in_one_line(split, message):
    with pytest.raises(SplitError, match=message) as error:
        split_backbone(make_backbone('test_resnet'), split)
    assert '\n' not in str(error.value)


def test_zero_initialised_blocks_do_not_hide_a_wrong_cut():
    # the last batch norm of a fresh residual block is zero: by its numbers, a cut inside the block would look exact
    with pytest.raises(SplitError):
        split_backbone(timm.create_model('resnet18'), 'layer3.1.conv2')


class TwoWay(nn.Module):
    """Runs one module before and after the cut."""

    def __init__(self):
        super().__init__()
        self.shared, self.middle, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.feature_info = [dict(module='middle', num_chs=3, reduction=1)]

    def forward(self, x):
        return self.head(self.shared(self.middle(self.shared(x))))


def test_module_on_both_sides_is_refused():
    with pytest.raises(SplitError, match="'shared' runs on both sides of the cut"):
        split_backbone(TwoWay(), 'middle')


class Scaled(nn.Module):
    """Works between its modules before the cut, like families with position embeddings."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 2.0))

    def _scaled(self, x):
        return x * self.scale

    def forward(self, x):
        return self.head(self.body(self._scaled(self.stem(x))))


class WithBody(Scaled):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(4, 4, 1)


def test_work_between_modules_needs_an_adapter():
    with pytest.raises(SplitError, match='does work between its modules'):
        split_backbone(WithBody(), 'body')

    class SkipScale(Adapter):
        def prepare_perception(self, perception_branch):
            perception_branch._scaled = lambda x: x

    register_adapter(WithBody, SkipScale())
    model, images = WithBody().eval(), torch.randn(2, 3, 8, 8)
    feature_extractor, perception_branch = split_backbone(model, 'body')
    assert torch.equal(perception_branch(feature_extractor(images)), model(images))
    assert perception_branch.scale is None


@pytest.mark.parametrize('name', ['test_resnet', 'test_convnext', 'test_vit', 'resnet20_cifar'])
def test_halves_share_parameters_and_keep_their_names(name):
    model = make_backbone(name)
    parameters = dict(model.named_parameters())
    halves = split_backbone(model)
    names = [[n for n, _ in half.named_parameters()] for half in halves]
    assert not set(names[0]) & set(names[1])
    assert sorted(names[0] + names[1]) == sorted(parameters)
    for half in halves:
        assert isinstance(half, type(model))
        for parameter_name, parameter in half.named_parameters():
            assert parameter is parameters[parameter_name]


@pytest.mark.parametrize('name', ['test_resnet', 'test_vit'])
def test_halves_survive_deepcopy_and_pickle(name):
    model = make_backbone(name)
    images = images_for(model)
    feature_extractor, perception_branch = split_backbone(model)
    expected = model(images)
    for duplicate in (copy.deepcopy, lambda half: pickle.loads(pickle.dumps(half))):
        actual = duplicate(perception_branch)(duplicate(feature_extractor)(images))
        assert torch.equal(actual, expected)


def test_no_hooks_stay_and_the_mode_is_kept():
    model = timm.create_model('test_resnet').train()
    for half in (model, *split_backbone(model)):
        assert half.training
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in half.modules())


def test_training_mode_gives_the_same_gradients():
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    whole, cut = make_backbone('test_resnet').train(), make_backbone('test_resnet').train()
    feature_extractor, perception_branch = split_backbone(cut)
    whole(images).square().sum().backward()
    perception_branch(feature_extractor(images)).square().sum().backward()
    gradients = {
        **{n: p.grad for n, p in feature_extractor.named_parameters()},
        **{n: p.grad for n, p in perception_branch.named_parameters()},
    }
    for name, parameter in whole.named_parameters():
        assert torch.equal(gradients[name], parameter.grad), name


def test_backbone_on_the_meta_device():
    with torch.device('meta'):
        model = timm.create_model('test_convnext', device='meta')
    feature_extractor, perception_branch = split_backbone(model)
    output = perception_branch(feature_extractor(torch.empty(2, 3, 160, 160, device='meta')))
    assert output.shape == (2, 1000)


@pytest.mark.parametrize(
    'name, expected',
    [
        ('resnet18', ['layer4']),
        ('densenet121', ['features.transition3', 'features.denseblock4', 'features.norm5']),
        ('efficientnet_b0', ['blocks.5', 'blocks.6']),
        ('resnet20_cifar', ['layer3']),
    ],
)
def test_next_stage_is_the_chain_of_modules_after_the_cut(name, expected):
    with torch.device('meta'):
        model = timm.create_model(name, device='meta')
    assert cut_backbone(model).next_stage == expected


@pytest.mark.parametrize(
    'name, split, expected',
    [
        ('test_convnext', 'stages.2', True),
        ('test_convnext', 'stages.2.blocks.0', False),
        ('test_resnet', None, False),
        ('test_vit', None, False),
        ('swin_tiny_patch4_window7_224', None, False),  # its norm sees four places at once
    ],
)
def test_norm_that_would_undo_the_attention_map_is_noticed(name, split, expected):
    model = make_backbone(name, **TINY_BACKBONES[name])
    parts = cut_backbone(model, split)
    assert parts.normalised is expected
    if expected:
        features = parts.feature_extractor(images_for(model))
        factor = 1 + torch.rand(2, 1, *features.shape[2:], dtype=torch.float64)
        # all that remains is the norm's epsilon
        expected_logits = parts.perception_branch(features)
        torch.testing.assert_close(parts.perception_branch(features * factor), expected_logits, rtol=1e-2, atol=1e-4)


def test_an_architecture_is_proven_once(monkeypatch):
    proofs = counted_proofs(monkeypatch)
    images = torch.randn(2, 3, 64, 64)
    for expected, kwargs in (
        (1, {}),
        (1, {}),
        (1, {'device': 'cpu'}),
        (2, {'num_classes': 3}),
        (3, {'channels': (8, 8, 8, 16)}),
        (4, {'split': 'layer2'}),
        (4, {'split': 2}),
        (5, {'dtype': torch.float64}),
        (6, {'act_layer': torch.nn.LeakyReLU}),
        (6, {'act_layer': torch.nn.LeakyReLU}),
        (7, {'act_layer': functools.partial(torch.nn.LeakyReLU, 0.1)}),
        (7, {'act_layer': functools.partial(torch.nn.LeakyReLU, 0.1)}),
        (8, {'act_layer': functools.partial(torch.nn.LeakyReLU, 0.2)}),
        (9, {'act_layer': lambda inplace: torch.nn.LeakyReLU()}),  # nobody knows whether two of them do the same
        (10, {'act_layer': lambda inplace: torch.nn.LeakyReLU()}),
    ):
        model = timm.create_model('abn', backbone='test_resnet', **kwargs).eval()
        assert len(proofs) == expected, kwargs
        assert model(images.to(kwargs.get('dtype', torch.float32))).shape[1] == kwargs.get('num_classes', 1000)
    timm.create_model('abn_resnet18', device='meta')
    assert len(proofs) == 11


def test_a_backbone_that_was_built_elsewhere_is_proven_each_time(monkeypatch):
    proofs = counted_proofs(monkeypatch)
    for _ in range(2):
        timm_abn.AttentionBranchNet(timm.create_model('test_resnet'))
        split_backbone(timm.create_model('test_resnet'))
    assert len(proofs) == 4


def test_halves_of_a_remembered_cut_are_exact(monkeypatch):
    counted_proofs(monkeypatch)
    for seed in range(2):
        torch.manual_seed(seed)
        backbone = timm.create_model('test_vit', num_classes=5).double().eval()
        images = torch.randn(2, 3, 160, 160, dtype=torch.float64)
        expected = backbone(images)
        halves = cut_backbone(backbone, architecture='test')
        assert torch.equal(halves.perception_branch(halves.feature_extractor(images)), expected)


JOINED = (
    'test_resnet test_vit vgg11 pit_ti_224 swin_tiny_patch4_window7_224 densenet121 beit_base_patch16_224 '
    'hiera_tiny_224 qwen3_vit_88m'
).split()


@pytest.mark.parametrize('name', fast_and_slow(JOINED, JOINED[:4]))
def test_joined_halves_are_the_backbone(name):
    backbone = timm.create_model(name, num_classes=5, device='meta')
    names, representation, family = list(backbone.state_dict()), repr(backbone), type(backbone)
    parts = cut_backbone(backbone)
    joined = join_halves(parts.feature_extractor, parts.perception_branch, parts.plan)
    assert type(joined) is family and repr(joined) == representation
    assert sorted(joined.state_dict()) == sorted(names)
    assert split_backbone(joined)
