"""Which models have weights on the Hub, and how to get weights for those that have none."""

import os
import re
from collections.abc import Mapping
from typing import Any

import timm
from timm.models import PretrainedCfg

from ..records import Record

__all__ = [
    'ARGUMENTS_OF_WEIGHTS',
    'ORGANISATION_VARIABLE',
    'RECORDS_OF_WEIGHTS',
    'is_own_repository',
    'no_weights',
    'with_hub_ids',
]

# the organisation on the Hub whose repository NAME holds the weights of the model NAME
HUB_ORGANISATION = 'timm-abn'

# names whose weights are there: only these are promised
PUBLISHED: frozenset[str] = frozenset()

# names with the tag of weights -> arguments that they were trained with, where those of the name are others
ARGUMENTS_OF_WEIGHTS: dict[str, dict[str, Any]] = {
    'abn_resnet20_cifar.fashion_mnist_faithful': dict(mechanism='product', hard_attention=0.3),
}

# names with the tag of weights -> what is known of these; the map with the highest symmetric relevance gain explains
RECORDS_OF_WEIGHTS = {
    'abn_resnet20_cifar.fashion_mnist_faithful': Record(explained_by='class_map'),
    'abn_resnet20_cifar.fashion_mnist': Record(explained_by='product'),
}

# environment variable that names another organisation, which is then asked for the weights of every model
ORGANISATION_VARIABLE = 'TIMM_ABN_HUB_ORGANISATION'

# names of models -> the recipe that trains them
RECIPES = {
    'cifar100': re.compile(r'(abn_)?(resnet(20|32|44|56|110)|densenet100_12|wrn28_4|wrn28_10|resnext29_8x64d)_cifar'),
    'cifar10': re.compile(r'cam_resnet110_cifar'),
    'imagenet': re.compile(
        r'abn_(resnet(50|101|152)|seresnet152|resnext50_32x4d|vgg16(_bn)?)|cam_(resnet50|resnet152|vgg16_bn)'
    ),
}

# architectures that the authors published code for, so that there are checkpoints to convert
_OFFICIAL = re.compile(r'abn_((se)?resnet(18|34|50|101|152)|resnext50_32x4d|\w+_cifar)')


def with_hub_ids(cfgs: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any] | PretrainedCfg]:
    """Return configurations, by name of the model and tag, that name the repositories of weights on the Hub."""
    named = {key: key.partition('.untrained')[0] for key, cfg in cfgs.items() if not cfg.get('file')}
    asked_for = {key: name for key, name in named.items() if name in PUBLISHED or os.environ.get(ORGANISATION_VARIABLE)}
    return {
        key: dict(cfg, hf_hub_id=f'{_organisation()}/{asked_for[key]}') if key in asked_for else cfg
        for key, cfg in cfgs.items()
    }


def is_own_repository(hub_id: str | None) -> bool:
    """Return whether a repository is one that ``with_hub_ids`` names."""
    return bool(hub_id) and str(hub_id).startswith(f'{_organisation()}/')


def _organisation() -> str:
    return os.environ.get(ORGANISATION_VARIABLE) or HUB_ORGANISATION


def no_weights(name: str, reason: str = '') -> str:
    """Return the sentence that there are no weights for a model, without a tag, why, and how to get some."""
    recipe = next((f' --recipe {recipe}' for recipe, names in RECIPES.items() if names.fullmatch(name)), '')
    ways = [f'take {" or ".join(shipped)}'] if (shipped := timm.list_pretrained(f'{name}.*')) else []
    if _OFFICIAL.fullmatch(name):
        ways.append(f"convert a checkpoint of the authors' code with timm-abn convert --model {name}")
    attaches = 'name a classifier directly, or refine one with timm-abn attach'
    ways.append(attaches if name == 'attached' else f'train it with timm-abn-train{recipe} --model {name}')
    return f'no weights are published for {name}: {reason}{", or ".join(ways)}.'
