"""Flags and recipes of faithful maps, as settings of the launcher."""

import argparse

import pytest

from timm_abn.training.errors import TrainingError
from timm_abn.training.map_settings import (
    MAP_KEYS,
    MapLossSettings,
    add_map_arguments,
    freeze_backbone_arguments,
    hard_attention_arguments,
    read_map_loss,
)


def settings(model='abn_resnet50', model_kwargs=None, **said):
    return argparse.Namespace(model=model, model_kwargs=model_kwargs or {}, **{**MAP_KEYS, **said})


def weights(**changed):
    return {**dict(masked=1.0, area=0.5, smoothness=0.0, consistency=0.0, complement=0.0), **changed}


@pytest.mark.parametrize(
    ('found', 'expected'),
    [
        (settings(), None),
        (settings(map_loss='masked'), MapLossSettings(weights(), 'mixed')),
        (settings(map_loss='masked', map_background='blur'), MapLossSettings(weights(), 'blur')),
        (
            settings(map_loss='masked', map_loss_weights=['area=2', 'consistency=.5']),
            MapLossSettings(weights(area=2.0, consistency=0.5), 'mixed'),
        ),
        (  # of a recipe
            settings(map_loss='masked', map_loss_weights=dict(masked=0.5), model_kwargs=dict(hard_attention=0.3)),
            MapLossSettings(weights(masked=0.5, area=0.0), 'mixed'),
        ),
    ],
)
def test_map_loss(found, expected):
    assert read_map_loss(found) == expected


def test_a_model_at_an_address_is_known_once_it_is_built():
    assert read_map_loss(settings('hf-hub:me/birds', map_loss='masked')) == MapLossSettings(weights(), 'mixed')


def test_flags_are_the_keys_of_recipes():
    parser = argparse.ArgumentParser()
    add_map_arguments(parser)
    assert vars(parser.parse_args([])) == MAP_KEYS
    args = [
        '--map-loss',
        'masked',
        '--map-loss-weights',
        'area=1',
        '--map-background',
        'mean',
        '--hard-attention',
        '.3',
        '--freeze-backbone',
    ]
    said = vars(parser.parse_args(args))
    expected = dict(map_loss='masked', map_loss_weights=['area=1'], map_background='mean', hard_attention=0.3)
    assert said == dict(expected, freeze_backbone=True)


def test_a_frozen_backbone_is_explained():
    found = settings(freeze_backbone=True, model_kwargs=dict(pretrained_backbone=True), **NO_WEIGHTS)
    flags = freeze_backbone_arguments(found)
    assert flags == ['--model-kwargs', 'pretrained_backbone=True', "insertion='explaining'"]
    assert read_map_loss(found) == MapLossSettings(weights(area=0.0, complement=0.3), 'mixed', explains=True)
    assert freeze_backbone_arguments(settings()) == []
    assert freeze_backbone_arguments(settings(freeze_backbone=True, **{**NO_WEIGHTS, 'resume': 'last.pth.tar'}))


NO_WEIGHTS = dict(pretrained=False, pretrained_path=None, initial_checkpoint='', resume='')


def test_hard_attention_joins_the_arguments_of_the_model():
    found = settings(hard_attention=0.3, model_kwargs=dict(split='layer2', block_args=[1, 2]))
    expected = ["split='layer2'", 'block_args=[1, 2]', "mechanism='product'", 'hard_attention=0.3']
    assert hard_attention_arguments(found) == ['--model-kwargs', *expected]
    assert hard_attention_arguments(settings()) == []


@pytest.mark.parametrize(
    ('said', 'message'),
    [
        (dict(map_loss='other'), "map_loss must be one of masked, got 'other'"),
        (dict(map_loss_weights=['area=1']), '--map-loss-weights says how --map-loss works: pass --map-loss masked'),
        (dict(map_background='mean'), '--map-background says how --map-loss works'),
        (
            dict(map_loss='masked', map_background='white'),
            "map_background must be one of blur, mean, mixed, got 'white'",
        ),
        (dict(map_loss='masked', map_loss_weights=['size=1']), "has no 'size'; its terms: masked, area, smoothness"),
        (dict(map_loss='masked', map_loss_weights=['area']), 'must be followed by TERM=WEIGHT, such as area=0.5'),
        (dict(map_loss='masked', map_loss_weights=['area=x']), 'must be followed by TERM=WEIGHT'),
        (
            dict(map_loss='masked', model='resnet50'),
            '--map-loss is for Attention Branch Networks, got --model resnet50',
        ),
        (dict(hard_attention=0.3, model='resnet50'), '--hard-attention is for Attention Branch Networks'),
        (dict(freeze_backbone=True, model='resnet50'), '--freeze-backbone is for Attention Branch Networks'),
        (dict(freeze_backbone=True), '--freeze-backbone explains a trained backbone: pass --model-kwargs'),
        (
            dict(freeze_backbone=True, model_kwargs=dict(init='neutral')),
            "--freeze-backbone needs insertion='explaining', got 'neutral'",
        ),
        (
            dict(hard_attention=0.3, model_kwargs=dict(mechanism='residual')),
            "--hard-attention needs mechanism='product', got 'residual'",
        ),
    ],
)
def test_what_is_refused(said, message):
    with pytest.raises(TrainingError) as raised:
        found = settings(**NO_WEIGHTS, **said)
        freeze_backbone_arguments(found)
        hard_attention_arguments(found)
        read_map_loss(found)
    assert message in str(raised.value) and '\n' not in str(raised.value)


def test_what_weights_bring_along_is_recorded(shown):
    """A checkpoint then says it, whatever name it is loaded under."""
    name = 'abn_resnet20_cifar.fashion_mnist_faithful'
    for flags in (['--model', name, '--pretrained'], ['--model', name]):
        arguments, _, _ = shown(*flags)
        assert arguments[arguments.index('--model-kwargs') + 1 :] == ["mechanism='product'", 'hard_attention=0.3']
        arguments, _, _ = shown(*flags, '--model-kwargs', 'hard_attention=0.5')
        last = len(arguments) - arguments[::-1].index('--model-kwargs')
        assert sorted(arguments[last:]) == ['hard_attention=0.5', "mechanism='product'"]
    for flags in (['--model', 'abn_resnet20_cifar'], ['--model', 'abn_resnet20_cifar.fashion_mnist', '--pretrained']):
        assert '--model-kwargs' not in shown(*flags)[0]
