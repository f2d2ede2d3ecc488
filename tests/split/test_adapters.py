"""What families say of themselves, so that they can be cut: of timm, and of somebody else."""

import copy
import functools
import pickle

import pytest
import timm
import torch
import torch.nn as nn
from tiers import fast_and_slow
from timm_families import SMALLER, SMALLEST, small_images

import timm_abn
from timm_abn.split import cut_backbone, family_of, split_backbone
from timm_abn.split.adapters import _ADAPTERS

# of each way in which something passes beside the features, or halves compute otherwise
ADAPTED = {
    **dict.fromkeys('beit coat crossvit efficientvim eva hiera hrnet levit mvitv2 pit'.split()),
    'selecsls': 'features.4',
    **dict.fromkeys('vision_transformer_relpos volo'.split()),
}
QUICK = ('efficientvim', 'hrnet', 'levit', 'pit')
STREAMS = ('coat', 'crossvit', 'hrnet')


def backbone_of(family):
    torch.manual_seed(0)
    name, smaller = SMALLEST[family], SMALLER.get(family, {})
    if family == 'vision_transformer_relpos':
        name, smaller = 'vit_srelpos_small_patch16_224', dict(depth=4)
    model = timm.create_model(name, num_classes=4, **smaller).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # heads that begin at zero hide what goes through them
            parameter += 0.02 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize('family', fast_and_slow(ADAPTED, QUICK))
@torch.no_grad()
def test_network_of_an_adapted_family(family):
    backbone = backbone_of(family)
    images = small_images(family, backbone)
    expected, name = backbone(images), backbone.pretrained_cfg['architecture']
    arguments = dict(split=ADAPTED[family], num_classes=4, init='random')
    network = timm_abn.AttentionBranchNet(copy.deepcopy(backbone), **arguments).eval()
    explanation = network.explain(images)
    nothing = torch.zeros_like(explanation.attention_map)
    # a factor of 1 everywhere leaves the backbone's own prediction
    torch.testing.assert_close(network(images, attention=nothing), expected, rtol=1e-3, atol=1e-4)
    assert not torch.equal(explanation.logits, expected)
    for duplicate in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(duplicate(images), explanation.logits)
    assert torch.equal(network.forward_head(network.forward_features(images)), explanation.logits)
    assert family_of(network.perception_branch) is type(backbone) and network.config.backbone == name
    if family in STREAMS:
        with pytest.raises(timm_abn.TimmAbnError, match='Its features cannot be returned by stage.') as raised:
            network.forward_intermediates(images)
        assert '\n' not in str(raised.value)
    else:
        assert_intermediates_are_those_of_the_backbone(network, backbone, images, nothing)
    other = timm_abn.AttentionBranchNet(backbone, **arguments).eval()
    for parameter in other.parameters():
        parameter.zero_()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(images), explanation.logits)


def assert_intermediates_are_those_of_the_backbone(network, backbone, images, nothing):
    expected = backbone.forward_intermediates(images, intermediates_only=True)
    actual = network.forward_intermediates(images, intermediates_only=True, attention=nothing)
    assert [tuple(maps.shape) for maps in actual] == [tuple(maps.shape) for maps in expected]
    for found, wanted in zip(actual, expected):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    with pytest.raises(timm_abn.TimmAbnError, match='norm=True is not possible'):
        network.forward_intermediates(images, norm=True)


@pytest.mark.parametrize('family', fast_and_slow(ADAPTED, ('efficientvim', 'pit')))
@torch.no_grad()
def test_several_tasks_are_each_as_if_alone(family):
    backbone = backbone_of(family)
    backbone.reset_classifier(6)
    network = timm_abn.MultiTaskAttentionBranchNet(backbone, split=ADAPTED[family], num_classes=3, init='random').eval()
    images = small_images(family, backbone)
    together = network.explain(images)
    network.task_chunk_size = 1
    torch.testing.assert_close(network(images), together.logits, rtol=1e-3, atol=1e-4)
    one_by_one = torch.cat([network(images[index : index + 1]) for index in range(len(images))])
    torch.testing.assert_close(one_by_one, together.logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    'name, size, kwargs',
    [
        ('vit_tiny_patch16_dinov3_qkvb', (96, 64), {}),
        ('efficientvim_m1', (128, 64), {}),
        pytest.param('hrnet_w18_small', (96, 64), {}, marks=pytest.mark.slow),
        pytest.param('xcit_nano_12_p16_224', (96, 64), {'depth': 4}, marks=pytest.mark.slow),
        ('beit_base_patch16_224', (64, 96), {'img_size': (64, 96), 'depth': 3, 'embed_dim': 48, 'num_heads': 3}),
        pytest.param('twins_svt_small', (96, 64), {'img_size': (96, 64)}, marks=pytest.mark.slow),
        pytest.param('hiera_tiny_224', (128, 64), {'img_size': (128, 64)}, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_images_that_are_not_square(name, size, kwargs):
    backbone = timm.create_model(name, num_classes=4, **kwargs).double().eval()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = backbone(images)
    network = timm_abn.AttentionBranchNet(copy.deepcopy(backbone), num_classes=4, dtype=torch.float64).eval()
    assert torch.equal(network.perception_branch(network.feature_extractor(images)), expected)
    maps = network.explain(images).attention_map
    assert abs(maps.shape[2] / maps.shape[3] - size[0] / size[1]) < 0.5


def test_default_cut_of_a_family_that_feature_info_does_not_name():
    for name, path in (('legacy_xception', 'block11'), ('xception41p', 'blocks.10'), ('twins_svt_small', 'blocks.2.9')):
        assert cut_backbone(timm.create_model(name, device='meta')).path == path


@pytest.mark.parametrize(
    'name, split, message',
    [
        ('test_resnet', 'layer3.0.conv1', "the nearest cut that works is 'layer2'"),
        ('test_vit', 'patch_embed', "the nearest cut that works is 'pos_drop'"),
        pytest.param(
            'mobilenetv5_base',
            'blocks.3',
            "more than one tensor crosses .* the nearest cut that works is 'blocks.2'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_refusal_names_the_nearest_cut_that_works(name, split, message):
    with pytest.raises(timm_abn.SplitError, match=message) as error:
        split_backbone(timm.create_model(name, device='meta'), split)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', fast_and_slow(['qwen3_vit_88m_enc', 'mobilenetv5_300m_enc'], ['qwen3_vit_88m_enc']))
def test_backbone_without_a_classifier(name):
    with pytest.raises(timm_abn.TimmAbnError, match=f"pass num_classes=0, or use backbone='{name[:-4]}'"):
        timm.create_model('abn', backbone=name, num_classes=3, device='meta')
    assert timm.create_model('abn', backbone=name, num_classes=0, device='meta').config.split


def test_backbone_that_needs_a_package(monkeypatch):
    def missing(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'wavelets.haar'", name='wavelets.haar')

    monkeypatch.setattr(timm, 'create_model', missing)
    message = "'test_resnet' needs the package 'wavelets', which is not installed"
    with pytest.raises(timm_abn.TimmAbnError, match=message):
        timm_abn.AttentionBranchNet('test_resnet')


class ThirdParty(nn.Module):
    """A family that no timm knows: two streams between its blocks, joined by a scale that belongs to no module."""

    def __init__(self, num_classes=4):
        super().__init__()
        self.stem, self.edges = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))
        self.body, self.tail = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, num_classes)
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, 8, 8
        self.pretrained_cfg = {'input_size': (3, 16, 16)}
        self.feature_info = [dict(module=name, num_chs=8, reduction=2) for name in ('stem', 'body', 'tail')]

    def forward_features(self, x):
        edges = self.edges(x)
        x = self.body(self.stem(x) * self.scale)
        return self.tail(x + edges)

    def forward_head(self, x, pre_logits=False):
        x = x.mean(dim=(2, 3))
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class ThirdPartyExtractor(timm_abn.BackboneHalf, ThirdParty):
    def forward_features(self, x):
        return timm_abn.Features(self.body(self.stem(x) * self.scale), [self.edges(x)])


class ThirdPartyPerception(timm_abn.BackboneHalf, ThirdParty):
    def forward_features(self, x):
        features, (edges,) = x
        return self.tail(features + edges)


class ForgetfulPerception(timm_abn.BackboneHalf, ThirdParty):
    def forward_features(self, x):
        features, (edges,) = x
        return self.tail(features)


class MeddlingExtractor(timm_abn.BackboneHalf, ThirdParty):
    def forward_features(self, x):
        return timm_abn.Features(self.body(self.stem(x) * self.scale * self.scale), [self.edges(x)])


class SwappingExtractor(timm_abn.BackboneHalf, ThirdParty):
    def forward_features(self, x):
        return timm_abn.Features(self.body(self.stem(x) * self.scale), [self.stem(x)])


@pytest.fixture
def registered():
    """Register an adapter for the test."""
    yield functools.partial(timm_abn.register_adapter, ThirdParty)
    _ADAPTERS.pop(ThirdParty, None)


def test_third_party_family(registered):
    torch.manual_seed(0)
    model, images = ThirdParty().double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(timm_abn.SplitError, match="ThirdParty cannot be split exactly at 'body'"):
        timm_abn.split_backbone(copy.deepcopy(model))
    registered(timm_abn.Adapter(ThirdPartyExtractor, ThirdPartyPerception))
    network = timm_abn.AttentionBranchNet(copy.deepcopy(model), num_classes=4, dtype=torch.float64)
    assert torch.equal(network.perception_branch(network.feature_extractor(images)), model(images))
    assert isinstance(network.perception_branch, ThirdParty) and network.perception_branch.scale is None
    logits, attention_logits = network(images)
    (logits.square().sum() + attention_logits.square().sum()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    assert torch.equal(pickle.loads(pickle.dumps(network.eval()))(images), network(images))


@pytest.mark.parametrize(
    'classes',
    [
        (ThirdPartyExtractor, ForgetfulPerception),
        (MeddlingExtractor, ThirdPartyPerception),
        (SwappingExtractor, ThirdPartyPerception),
        (ThirdPartyExtractor, None),
        (None, ThirdPartyPerception),
    ],
)
def test_adapter_that_lies_is_caught(registered, classes):
    registered(timm_abn.Adapter(*classes))
    with pytest.raises(timm_abn.SplitError, match="ThirdParty cannot be split exactly at 'body'") as error:
        split_backbone(ThirdParty())
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'adapter, message',
    [
        (ThirdPartyExtractor, 'needs an instance of Adapter, got'),
        (timm_abn.Adapter(nn.Conv2d), 'Conv2d must be a subclass of timm_abn.BackboneHalf and of ThirdParty'),
        (timm_abn.Adapter(None, type(split_backbone)), 'must be a subclass'),
    ],
)
def test_adapter_that_cannot_be(adapter, message):
    with pytest.raises(timm_abn.TimmAbnError, match=message):
        timm_abn.register_adapter(ThirdParty, adapter)
