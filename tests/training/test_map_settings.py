"""Flags and recipes of maps, faithful or like human masks, as settings of the launcher."""

import argparse
from pathlib import Path

import pytest

from timm_abn.training.errors import TrainingError
from timm_abn.training.map_settings import (
    MapLossSettings,
    MaskSettings,
    add_map_arguments,
    check_choices,
    read_map_loss,
    read_masks,
    take_hard_attention,
)

MAPS = ('map_loss', 'map_loss_weights', 'map_background', 'hard_attention')
MASKS = tuple(f'attention_mask_{name}' for name in ('dir', 'loss', 'weight', 'share'))
OTHERS = dict(aa=None, mixup=0.0, cutmix=0.0, cutmix_minmax=None, aug_splits=0, train_img_sizes=None, dataset='')


def settings(model='abn_resnet50', model_kwargs=None, **said):
    values = {**dict.fromkeys((*MAPS, *MASKS)), **OTHERS, **said}
    return argparse.Namespace(model=model, model_kwargs=model_kwargs or {}, **values)


def weights(**changed):
    return {**dict(masked=1.0, area=0.5, smoothness=0.0, consistency=0.0, complement=0.0), **changed}


@pytest.mark.parametrize(
    ('said', 'expected'),
    [
        ({}, None),
        (dict(map_loss='masked'), MapLossSettings(weights(), 'mixed')),
        (dict(map_loss='masked', map_background='blur'), MapLossSettings(weights(), 'blur')),
        (
            dict(map_loss='masked', map_loss_weights=['area=2', 'consistency=.5']),
            MapLossSettings(weights(area=2.0, consistency=0.5), 'mixed'),
        ),
        (  # of a recipe
            dict(map_loss='masked', map_loss_weights=dict(masked=0.5), model_kwargs=dict(hard_attention=0.3)),
            MapLossSettings(weights(masked=0.5, area=0.0), 'mixed'),
        ),
        # what is at an address is known once it is built
        (dict(map_loss='masked', model='hf-hub:me/birds'), MapLossSettings(weights(), 'mixed')),
    ],
)
def test_map_loss(said, expected):
    assert read_map_loss(settings(**said)) == expected


@pytest.mark.parametrize(
    ('said', 'expected'),
    [
        (dict(attention_mask_dir=None), None),
        ({}, MaskSettings(Path('.'), 'bce', 1.0, 1.0, False)),
        (
            dict(attention_mask_loss='l1', attention_mask_weight=2, attention_mask_share=0.1, mixup=0, aa=''),
            MaskSettings(Path('.'), 'l1', 2, 0.1, False),
        ),
        (dict(model_kwargs=dict(multi_task=True), dataset='CelebA'), MaskSettings(Path('.'), multi_task=True)),
    ],
)
def test_masks(said, expected):
    assert read_masks(settings(**{'attention_mask_dir': '.', **said})) == expected


def test_flags_are_the_keys_of_recipes():
    parser = argparse.ArgumentParser()
    add_map_arguments(parser)
    assert vars(parser.parse_args([])) == dict.fromkeys((*MAPS, *MASKS, 'crop_mode'))
    flags = '--map-loss masked --map-loss-weights area=1 --map-background mean --hard-attention .3 --crop-mode squash '
    flags += '--attention-mask-dir x --attention-mask-loss energy --attention-mask-weight 3 --attention-mask-share .5'
    expected = ['masked', ['area=1'], 'mean', 0.3, 'x', 'energy', 3.0, 0.5, 'squash']
    assert list(vars(parser.parse_args(flags.split())).values()) == expected


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


MASKED, OF_MASKS, RESIDUAL = dict(map_loss='masked'), dict(attention_mask_dir='.'), dict(mechanism='residual')


@pytest.mark.parametrize(
    ('said', 'message'),
    [
        (dict(map_loss='other'), "map_loss must be one of masked, got 'other'"),
        (dict(map_loss_weights=['area=1']), '--map-loss-weights belongs to --map-loss: pass --map-loss masked'),
        (dict(map_background='mean'), '--map-background belongs to --map-loss'),
        (dict(MASKED, map_background='white'), "map_background must be one of blur, mean, mixed, got 'white'"),
        (dict(MASKED, map_loss_weights=['size=1']), "has no 'size'; its terms: masked, area, smoothness"),
        (dict(MASKED, map_loss_weights=['area']), 'must be followed by TERM=WEIGHT, such as area=0.5'),
        (dict(MASKED, map_loss_weights=['area=x']), 'must be followed by TERM=WEIGHT'),
        (dict(MASKED, model='resnet50'), '--map-loss needs an Attention Branch Network, got --model resnet50'),
        (dict(hard_attention=0.3, model='resnet50'), '--hard-attention needs an Attention Branch Network'),
        (dict(hard_attention=0.3, model_kwargs=RESIDUAL), "--hard-attention needs mechanism='product', got 'residual'"),
        (dict(attention_mask_loss='l1'), '--attention-mask-loss belongs to --attention-mask-dir'),
        (dict(attention_mask_share=1), '--attention-mask-share belongs to --attention-mask-dir'),
        (dict(attention_mask_dir='nowhere'), '--attention-mask-dir nowhere does not exist: expected a folder of PNG'),
        (dict(OF_MASKS, attention_mask_loss='mse'), "attention_mask_loss must be one of bce, energy, l1, got 'mse'"),
        (dict(OF_MASKS, attention_mask_weight=-1), '--attention-mask-weight must be a finite number of 0 or'),
        (dict(OF_MASKS, attention_mask_weight='much'), '--attention-mask-weight must be a finite number'),
        (dict(OF_MASKS, attention_mask_share=0), '--attention-mask-share must be in (0, 1], got 0'),
        (dict(OF_MASKS, attention_mask_share=10), '--attention-mask-share must be in (0, 1], got 10'),
        (dict(OF_MASKS, attention_mask_share='all'), "--attention-mask-share must be in (0, 1], got 'all'"),
        (
            dict(OF_MASKS, model='resnet50'),
            '--attention-mask-dir needs an Attention Branch Network, got --model resnet',
        ),
        (dict(OF_MASKS, model_kwargs=dict(attention_map='raw')), "needs attention_map='sigmoid', got 'raw'"),
        (dict(OF_MASKS, aa='rand-m9'), '--aa rotates and shears images'),
        (dict(OF_MASKS, mixup=0.2), '--mixup mixes images'),
        (dict(OF_MASKS, cutmix=1.0), '--cutmix mixes images'),
        (dict(OF_MASKS, cutmix_minmax=[0.2, 0.8]), '--cutmix-minmax mixes images'),
        (dict(OF_MASKS, aug_splits=3), '--aug-splits makes several images from one'),
        (dict(OF_MASKS, train_img_sizes=[24, 32]), '--train-img-sizes transforms images after'),
        (dict(OF_MASKS, dataset='compcars'), '--dataset compcars crops images to the car'),
        (dict(OF_MASKS, dataset='torch/cifar10'), 'names of image files, which --dataset torch/cifar10 does not have'),
        (dict(OF_MASKS, dataset='wds/x'), 'files, which --dataset wds/x does not have: pass a folder of images'),
    ],
)
def test_what_is_refused(said, message):
    with pytest.raises(TrainingError) as raised:
        check_choices(said)
        found = settings(**said)
        take_hard_attention(found)
        read_map_loss(found)
        read_masks(found)
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
