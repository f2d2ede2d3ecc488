"""timm-abn list, and the file that it reads in the place of building the models."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from own_scripts import load_script
from tiers import fast_and_slow

from timm_abn_cli import main
from timm_abn_cli.list_models import FACTS, summarize

ROOT = Path(__file__).parents[2]
LISTED = json.loads(FACTS.read_text(encoding='utf-8'))

# one of each family
QUICK = ('abn', 'abn_efficientnet_b0', 'abn_resnet18', 'abn_resnet20_cifar', 'abn_vgg16', 'abn_vit_small_patch16_224')
SLOW = ('abn_convnext_tiny', 'abn_densenet100_12_cifar', 'abn_seresnet18', 'abn_swin_tiny_patch4_window7_224')


def listed_facts(name):
    return load_script('scripts/docs/make_model_cards').listed_facts(name)


@pytest.mark.parametrize('name', fast_and_slow(timm.list_models('abn*'), QUICK, SLOW))
def test_what_is_listed_is_what_the_model_is(name):
    assert LISTED[name] == listed_facts(name), 'run python scripts/docs/make_model_cards.py'


def test_list(capsys):
    assert main(['list', 'abn_resnet[23]?_cifar']) == 0
    captured = capsys.readouterr()
    assert captured.err == ''
    lines = captured.out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ['abn_resnet20_cifar', 'abn_resnet32_cifar']
    starts = [match.start() for match in re.finditer(r'-+', lines[1])]
    for line in (lines[0], *lines[2:]):  # every column begins, after a gap of two, where its rule begins
        assert all(line[start - 2 : start] == '  ' for start in starts[1:])


def test_list_knows_every_model():
    assert list(LISTED) == timm.list_models('abn*')


def test_errors_that_the_paper_reports():
    reported = dict(abn_resnet110_cifar='CIFAR-100 22.82, CIFAR-10 4.91', abn_resnet152='ImageNet 21.37')
    for name, error in {**reported, 'abn_resnet18': '-'}.items():
        assert summarize(name, LISTED[name])['reported error (%)'] == error


@pytest.mark.parametrize('name', ['abn_resnet20_cifar', 'abn_resnet18'])
def test_parameters_and_macs_are_those_of_a_real_forward(name):
    model = timm.create_model(name).eval()
    macs = []

    def count(module, inputs, output):
        weight = module.weight
        macs.append(output.numel() * weight[0].numel())  # each output takes one multiplication per weight

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, *model.pretrained_cfg['input_size']))
    cells = summarize(name, LISTED[name])
    assert cells['params (M)'] == f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f}'
    assert cells['GMACs'] == f'{sum(macs) / 1e9:.2f}'
    assert tuple(cells.values())[1:5] == (name[4:], model.config.split, 'copy', 'features')
