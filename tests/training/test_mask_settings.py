"""Flags and recipes of human masks, as settings of the launcher."""

import argparse
from pathlib import Path

import pytest

from timm_abn.training.errors import TrainingError
from timm_abn.training.mask_settings import MaskSettings, add_mask_arguments, read_mask_settings

KEYS = tuple(f'attention_mask_{name}' for name in ('dir', 'loss', 'weight', 'share'))
OTHERS = dict(aa=None, mixup=0.0, cutmix=0.0, cutmix_minmax=None, aug_splits=0, train_img_sizes=None, dataset='')


def settings(model='abn_resnet50', model_kwargs=None, **said):
    return argparse.Namespace(model=model, model_kwargs=model_kwargs or {}, **{**dict.fromkeys(KEYS), **OTHERS, **said})


def test_none_by_default():
    assert read_mask_settings(settings()) is None


@pytest.mark.parametrize(
    ('said', 'expected'),
    [
        ({}, MaskSettings(Path('.'), 'bce', 1.0, 1.0, False)),
        (
            dict(attention_mask_loss='l1', attention_mask_weight=2, attention_mask_share=0.1, mixup=0, aa=''),
            MaskSettings(Path('.'), 'l1', 2, 0.1, False),
        ),
        (dict(model_kwargs=dict(multi_task=True), dataset='CelebA'), MaskSettings(Path('.'), multi_task=True)),
    ],
)
def test_settings(said, expected):
    assert read_mask_settings(settings(attention_mask_dir='.', **said)) == expected


def test_flags_are_the_keys_of_recipes():
    parser = argparse.ArgumentParser()
    add_mask_arguments(parser)
    assert vars(parser.parse_args([])) == dict.fromkeys(KEYS)
    flags = '--attention-mask-dir x --attention-mask-loss energy --attention-mask-weight 3 --attention-mask-share .5'
    assert list(vars(parser.parse_args(flags.split())).values()) == ['x', 'energy', 3.0, 0.5]


@pytest.mark.parametrize(
    ('said', 'message'),
    [
        (
            dict(attention_mask_dir=None, attention_mask_loss='l1'),
            '--attention-mask-loss says how --attention-mask-dir works',
        ),
        (
            dict(attention_mask_dir=None, attention_mask_share=1),
            '--attention-mask-share says how --attention-mask-dir works',
        ),
        (dict(attention_mask_dir='nowhere'), '--attention-mask-dir nowhere does not exist: expected a folder of PNG'),
        (dict(attention_mask_loss='mse'), "attention_mask_loss must be one of bce, energy, l1, got 'mse'"),
        (dict(attention_mask_weight=-1), '--attention-mask-weight must be a finite number that is not negative'),
        (dict(attention_mask_weight='much'), '--attention-mask-weight must be a finite number'),
        (dict(attention_mask_share=0), '--attention-mask-share must be in (0, 1], got 0'),
        (dict(attention_mask_share=10), '--attention-mask-share must be in (0, 1], got 10'),
        (dict(attention_mask_share='all'), "--attention-mask-share must be in (0, 1], got 'all'"),
        (dict(model='resnet50'), '--attention-mask-dir is for Attention Branch Networks, got --model resnet50'),
        (dict(model_kwargs=dict(attention_map='raw')), "needs attention_map='sigmoid', got 'raw'"),
        (dict(aa='rand-m9'), '--aa turns and shears images'),
        (dict(mixup=0.2), '--mixup mixes images'),
        (dict(cutmix=1.0), '--cutmix mixes images'),
        (dict(cutmix_minmax=[0.2, 0.8]), '--cutmix-minmax mixes images'),
        (dict(aug_splits=3), '--aug-splits makes several images of one'),
        (dict(train_img_sizes=[24, 32]), '--train-img-sizes transforms images after'),
        (dict(dataset='compcars'), '--dataset compcars cuts images to the car'),
        (dict(dataset='torch/cifar10'), 'names of image files, which --dataset torch/cifar10 does not have'),
        (dict(dataset='wds/x'), 'names of image files, which --dataset wds/x does not have: pass a folder of images'),
    ],
)
def test_what_is_refused(said, message):
    with pytest.raises(TrainingError) as raised:
        read_mask_settings(settings(**{'attention_mask_dir': '.', **said}))
    assert message in str(raised.value) and '\n' not in str(raised.value)
