"""What cards say, on the Hub and in MODEL_CARDS.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

import timm_abn  # noqa: F401  registers the models
from timm_abn.publish.markdown import markdown_table
from timm_abn.publish.model_card import CITATION, LIMITS, fact_rows, model_card, readdress, result_table, usage
from timm_abn.publish.model_facts import facts_of, model_facts
from timm_abn.publish.results import REPORTED_RESULTS

ROOT = Path(__file__).parents[2]


def card(name='abn_resnet20_cifar', license='mit', **kwargs):
    return model_card(model_facts(name), 'tiny', 'For tests.', license, 'hf-hub:me/tiny', **kwargs)


@pytest.mark.parametrize('license', ['mit', 'apache-2.0', 'cc-by-nc-4.0', 'unknown', 'no', 'a: b'])
@pytest.mark.parametrize('datasets', [[], ['uoft-cs/cifar10', 'zalando-datasets/fashion_mnist']])
def test_front_matter(license, datasets):
    data = ModelCard(card(license=license, datasets=datasets), ignore_metadata_errors=False).data.to_dict()
    assert data.pop('datasets', []) == datasets
    assert data == {
        'library_name': 'timm',
        'pipeline_tag': 'image-classification',
        'license': license,
        'metrics': ['accuracy'],
        'tags': ['image-classification', 'timm', 'timm-abn', 'attention-branch-network', 'visual-explanation'],
    }


def test_both_kinds_of_cards_say_the_same():
    cards = (ROOT / 'MODEL_CARDS.md').read_text()
    facts = model_facts('abn_resnet20_cifar')
    hub_card = card(results=result_table('abn_resnet20_cifar'))
    for part in (CITATION, LIMITS):
        assert part in cards and part in hub_card
    for part in (markdown_table(('', ''), fact_rows(facts)), result_table('abn_resnet20_cifar')):
        assert part in hub_card
    (row,) = [line for line in cards.splitlines() if line.startswith('| `abn_resnet20_cifar` | `resnet20_cifar`')]
    (reported,) = [line for line in cards.splitlines() if line.startswith('| `abn_resnet20_cifar` | 30')]
    said = dict(fact_rows(facts))
    for name in ('Backbone', 'Gate', 'Input', 'Parameters (M)', 'GMACs'):
        assert f'| {said[name]} |' in row
    assert f'| {said["Split"].removeprefix("after ")} |' in row
    assert said['Attention map, mechanism'] == 'sigmoid, residual'
    assert 'ABNs make a sigmoid map and apply it by the residual mechanism' in cards
    for result in REPORTED_RESULTS['abn_resnet20_cifar']:
        numbers = f'| {result.dataset} | {result.metric} | {result.percent:g} | reported, {result.source} |'
        assert f'{result.percent:g}' in reported and numbers.split('| ', 2)[2] in hub_card
    assert usage('abn_resnet20_cifar.fashion_mnist', in_chans=1) in cards
    assert usage('hf-hub:me/tiny') in card()


@pytest.mark.parametrize('arguments', [dict(), dict(multi_task=True, attention_map='raw', mechanism='product')])
def test_facts_are_those_of_the_network(arguments):
    model = timm.create_model('abn', backbone='test_resnet', num_classes=7, device=torch.device('meta'), **arguments)
    rows = dict(fact_rows(facts_of(model)))
    assert rows['Tasks' if arguments else 'Classes'] == '7'
    assert rows['Attention map, mechanism'] == ('raw, product' if arguments else 'sigmoid, residual')
    assert rows['Backbone'] == '`test_resnet`' and rows['Gate'] == 'features'
    assert rows['Parameters (M)'] == f'{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f}'


def test_results_of_one_set_of_weights():
    tagged = 'abn_resnet20_cifar.fashion_mnist'
    assert 'reported, paper' in result_table('abn_resnet20_cifar')
    assert f'(`{tagged}`)' in result_table('abn_resnet20_cifar')
    assert 'reported' not in result_table(tagged)
    assert result_table('abn_convnext_tiny') == ''


def test_tables():
    assert markdown_table(('', ''), [('a', 'b')]) == '| | |\n|---|---|\n| a | b |'
    assert markdown_table(('x', 'y', ''), [('a', '1', 'c')]) == '| x | y | |\n|---|---|---|\n| a | 1 | c |'


def test_new_address():
    text = card()
    assert readdress(text, 'hf-hub:you/new@v2') == text.replace('hf-hub:me/tiny', 'hf-hub:you/new@v2')
    for damaged in (
        '',
        '# A model',
        text.replace('library_name: timm', 'library_name: keras'),
        '---\n- a\n---\n' + text,
    ):
        with pytest.raises(ValueError, match='^its '):
            readdress(damaged, 'hf-hub:you/new')


@pytest.mark.slow
def test_code_of_model_cards_runs_as_it_stands(tmp_path):
    code = re.search('```python\n(.*?)```', (ROOT / 'MODEL_CARDS.md').read_text(), re.DOTALL).group(1)
    Image.new('L', (28, 28), 100).save(tmp_path / 'photo.jpg')
    process = subprocess.run(
        [sys.executable, '-c', f'{code}\nprint(tuple(explanation.attention_map.shape))'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    assert process.stdout == '(1, 1, 14, 14)\n', process.stderr
