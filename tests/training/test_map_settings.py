"""Flags and recipes of faithful maps, as settings of the launcher."""

import argparse

import pytest

from timm_abn.training.errors import TrainingError
from timm_abn.training.map_settings import MapLossSettings, add_map_arguments, read_map_loss, take_hard_attention

KEYS = ('map_loss', 'map_loss_weights', 'map_background', 'hard_attention')


def settings(model='abn_resnet50', model_kwargs=None, **said):
    return argparse.Namespace(model=model, model_kwargs=model_kwargs or {}, **{**dict.fromkeys(KEYS), **said})


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
    assert vars(parser.parse_args([])) == dict.fromkeys(KEYS)
    flags = '--map-loss masked --map-loss-weights area=1 --map-background mean --hard-attention .3'
    assert list(vars(parser.parse_args(flags.split())).values()) == ['masked', ['area=1'], 'mean', 0.3]


def test_hard_attention_joins_the_arguments_of_the_model():
    found = settings(hard_attention=0.3, model_kwargs=dict(split='layer2', block_args=[1, 2]))
    take_hard_attention(found)
    assert found.model_kwargs == dict(split='layer2', block_args=[1, 2], mechanism='product', hard_attention=0.3)
    take_hard_attention(without := settings())
    assert without.model_kwargs == {}


def test_arguments_of_the_model_are_passed_once(shown):
    arguments, _ = shown('--model', 'abn_resnet18', '--hard-attention', '.3', '--model-kwargs', 'split=layer2')
    last = len(arguments) - arguments[::-1].index('--model-kwargs')
    assert arguments.count('--model-kwargs') == 2  # what was said, and, after it, what holds
    assert arguments[last:] == ["split='layer2'", "mechanism='product'", 'hard_attention=0.3']


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
        (
            dict(hard_attention=0.3, model_kwargs=dict(mechanism='residual')),
            "--hard-attention needs mechanism='product', got 'residual'",
        ),
    ],
)
def test_what_is_refused(said, message):
    with pytest.raises(TrainingError) as raised:
        found = settings(**said)
        take_hard_attention(found)
        read_map_loss(found)
    assert message in str(raised.value) and '\n' not in str(raised.value)


def test_what_weights_bring_along_is_recorded(shown):
    """A checkpoint then says it, whatever name it is loaded under."""
    name = 'abn_resnet20_cifar.fashion_mnist_faithful'
    for flags in (['--model', name, '--pretrained'], ['--model', name]):
        arguments, _ = shown(*flags)
        assert arguments[arguments.index('--model-kwargs') + 1 :] == ["mechanism='product'", 'hard_attention=0.3']
        arguments, _ = shown(*flags, '--model-kwargs', 'hard_attention=0.5')
        last = len(arguments) - arguments[::-1].index('--model-kwargs')
        assert sorted(arguments[last:]) == ['hard_attention=0.5', "mechanism='product'"]
    for flags in (['--model', 'abn_resnet20_cifar'], ['--model', 'abn_resnet20_cifar.fashion_mnist', '--pretrained']):
        assert '--model-kwargs' not in shown(*flags)[0]
