"""MODEL_CARDS.md says what the models say: figures are generated, never typed."""

from pathlib import Path

import pytest
import timm
from own_scripts import load_script
from tiers import fast_and_slow

import timm_abn  # noqa: F401  registers the models
from timm_abn.publish.results import COMPARISONS, MEASURED_RESULTS, REPORTED_RESULTS

ROOT = Path(__file__).parents[2]
CARDS = ROOT / 'MODEL_CARDS.md'


def generator():
    return load_script('scripts/docs/make_model_cards')


def our_models():
    return [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith('timm_abn.')]


def test_every_model_has_a_row():
    text = CARDS.read_text().partition('## All models')[2].partition('## Reported')[0]
    rows = [line for line in text.splitlines() if line.startswith('| `')]
    assert sorted(row.split('`')[1] for row in rows) == sorted(our_models())


def test_what_can_be_used_comes_first():
    text, module = CARDS.read_text(), generator()
    order = ['## What can be used', '## What was measured', '## All models', '## Reported results', '## Citation']
    assert [text.count(heading) for heading in order] == [1] * 5
    assert sorted(map(text.index, order)) == list(map(text.index, order))
    assert module.weights_table() in text and module.measured_table() in text and module.reported_table() in text
    weights = module.weights_table()
    assert all((f'| `{tagged}` |' in weights) == module.is_ours(tagged) for tagged in timm.list_pretrained())
    assert len(text.splitlines()) < 400 and text.count('```bibtex') == text.count('```python') == 1


def test_comparisons_are_up_to_date():
    for comparison in COMPARISONS:
        assert generator().make_comparison(comparison) in CARDS.read_text(), (
            'run python scripts/docs/make_model_cards.py'
        )
        assert {len(row) for row in comparison.rows} == {len(comparison.header)}


# one of each kind of backbone, and of each group
FAST = ['abn', 'abn_resnet20_cifar', 'abn_vit_small_patch16_224', 'cam_vgg16_bn', 'densenet100_12_cifar']


@pytest.mark.parametrize('name', fast_and_slow(our_models(), FAST, []))
def test_rows_are_up_to_date(name):
    module = generator()
    row = module.markdown_table(module.COLUMNS, [module.make_row(name)]).splitlines()[-1]
    assert row in CARDS.read_text().splitlines(), f'run python scripts/docs/make_model_cards.py: {name} has changed'


def test_results_are_of_models_that_exist():
    assert set(REPORTED_RESULTS) <= set(our_models())
    assert set(MEASURED_RESULTS) <= set(timm.list_pretrained())


def test_reported_and_measured_results_are_told_apart():
    lines = CARDS.read_text().splitlines()
    reported = [line for line in lines if '| reported, ' in line]
    measured = [line for line in lines if '| measured, `' in line]
    assert len(reported) == sum(map(len, REPORTED_RESULTS.values()))
    assert len(measured) == sum(map(len, MEASURED_RESULTS.values()))
    assert '| `abn_resnet110_cifar` | CIFAR-100 | top-1 error | 22.82 | reported, paper, Table 1 |' in reported
