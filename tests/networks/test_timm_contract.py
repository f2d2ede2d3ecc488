"""What timm asks of every model: groups of parameters, intermediate features, and models that return these alone."""

import itertools

import pytest
import timm
import torch
from tiers import fast_and_slow
from timm.models._manipulate import group_parameters
from timm.optim import create_optimizer_v2
from tiny_models import TINY_BACKBONES, TINY_SPLITS, Calls, tiny_abn, tiny_backbone, tiny_images, without_half

all_backbones = pytest.mark.parametrize('backbone', TINY_BACKBONES)


@pytest.mark.parametrize('backbone', [*TINY_BACKBONES, 'inception_v3'])  # the last gives a function
@pytest.mark.parametrize('coarse', [False, True])
def test_parameter_groups_are_those_of_the_backbone(backbone, coarse):
    arguments = TINY_BACKBONES.get(backbone, {})
    uncut = timm.create_model(backbone, device='meta', **arguments)
    split = TINY_SPLITS.get(backbone)
    model = timm.create_model('abn', backbone=backbone, split=split, device='meta', **arguments)
    groups = group_parameters(model, model.group_matcher(coarse), reverse=True)
    expected = group_parameters(uncut, uncut.group_matcher(coarse), reverse=True)
    of_branch = {group for name, group in groups.items() if name.startswith('attention_branch.')}
    of_halves = {without_half(name): group for name, group in groups.items() if not name.startswith('attention_')}
    assert of_halves == expected
    assert of_branch == {max(expected.values())}


def test_parameter_groups_of_a_backbone_that_has_none():
    model = timm.create_model('abn', backbone='poolformerv2_s12', device='meta')
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert {(name.split('.')[0], group) for name, group in groups.items()} == {
        ('feature_extractor', 0),
        ('attention_branch', 1),
        ('perception_branch', 1),
    }


@all_backbones
def test_no_weight_decay_names_the_parameters_of_the_backbone(backbone):
    model, uncut = tiny_abn(backbone), tiny_backbone(backbone)
    names = {name for name, _ in model.named_parameters()} & model.no_weight_decay()
    expected = uncut.no_weight_decay() if hasattr(uncut, 'no_weight_decay') else set()
    assert {without_half(name) for name in names} == expected & {name for name, _ in uncut.named_parameters()}


@all_backbones
def test_layer_decay_reaches_every_parameter(backbone):
    model = tiny_abn(backbone)
    optimizer = create_optimizer_v2(model, opt='adamw', lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    scales = {id(p): group['lr_scale'] for group in optimizer.param_groups for p in group['params']}
    by_name = {name: scales.pop(id(parameter)) for name, parameter in model.named_parameters()}
    assert not scales
    first = max(scale for name, scale in by_name.items() if name.startswith('feature_extractor.'))
    last = max(scale for name, scale in by_name.items() if name.startswith('perception_branch.'))
    assert first < last == 1
    assert {scale for name, scale in by_name.items() if name.startswith('attention_branch.')} == {1}


@all_backbones
def test_intermediates_are_what_the_stages_return(backbone):
    model = tiny_abn(backbone)
    images = tiny_images()
    outputs = {}
    for info in model.feature_info:
        model.get_submodule(info['module']).register_forward_hook(
            lambda module, args, output, name=info['module']: outputs.setdefault(name, output)
        )
    with torch.no_grad():
        final, intermediates = model.forward_intermediates(images)
        torch.testing.assert_close(final, model.forward_features(images))
    assert [tuple(x.shape[1:2]) for x in intermediates] == [(info['num_chs'],) for info in model.feature_info]
    for info, actual in zip(model.feature_info, intermediates, strict=True):
        expected = outputs[info['module']]
        if backbone == 'test_vit':
            expected = expected[:, 1:].transpose(1, 2).reshape(actual.shape)
        elif backbone.startswith('swin'):
            expected = expected.permute(0, 3, 1, 2)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('backbone', ['test_convnext', 'test_vit'])
def test_stop_early_runs_nothing_that_was_not_asked_for(backbone):
    model = tiny_abn(backbone)
    images = tiny_images()
    with torch.no_grad():
        expected = model.forward_intermediates(images, intermediates_only=True)
        for index in range(len(expected)):
            later = [Calls(model.get_submodule(info['module'])) for info in model.feature_info[index + 1 :]]
            (actual,) = model.forward_intermediates(images, indices=[index], stop_early=True, intermediates_only=True)
            assert torch.equal(actual, expected[index])
            assert not any(calls.count for calls in later)


def test_intermediates_refuse():
    model = tiny_abn('test_vit')
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NLC'"):
        model.forward_intermediates(tiny_images(), output_fmt='NLC')
    with pytest.raises(ValueError, match='norm=True'):
        model.forward_intermediates(tiny_images(), indices=[0], norm=True)


@pytest.mark.parametrize(
    ('feature_cls', 'backbone'),
    fast_and_slow(
        itertools.product((None, 'hook', 'fx'), TINY_BACKBONES),
        itertools.product((None, 'hook', 'fx'), ('test_resnet', 'test_vit')),
    ),
)
def test_features_only_returns_the_stages_of_the_backbone(backbone, feature_cls):
    images = tiny_images()
    expected = tiny_backbone(backbone, features_only=True, feature_cls='getter')
    actual = tiny_abn(backbone, features_only=True, feature_cls=feature_cls)
    reference = tiny_abn(backbone)
    for key in ('channels', 'reduction'):
        assert getattr(actual.feature_info, key)() == getattr(expected.feature_info, key)()
    with torch.no_grad():
        features = actual(images)
        intermediates = reference.forward_intermediates(
            images, indices=list(actual.feature_info.out_indices), intermediates_only=True
        )
    for x, y in zip(features, intermediates, strict=True):
        if feature_cls is not None:  # these two return what the modules return
            x = reference.layout.to_maps(x, images)
        torch.testing.assert_close(x, y)


def test_features_before_the_cut_need_no_attention_branch():
    model = tiny_abn('test_resnet')
    expected = model.forward_intermediates(tiny_images(), indices=[2], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([2]) == [2]
    names = {name.split('.')[1] for name, _ in model.named_parameters()}
    assert names == {'conv1', 'bn1', 'layer1', 'layer2'}
    assert torch.equal(model.forward_features(tiny_images()), expected)
    assert model.train()(tiny_images()).shape == expected.shape
    assert model.num_features == model.head_hidden_size == expected.shape[1]
    model.reset_classifier(3, 'avg')
    assert model.eval()(tiny_images()).shape == (2, 3)


def test_features_after_the_cut_leave_no_parameter_unused():
    model = tiny_abn('test_convnext', features_only=True).train()
    sum(x.pow(2).mean() for x in model(tiny_images())).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
