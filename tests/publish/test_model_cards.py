"""MODEL_CARDS.md says what the models say: figures are generated, never typed."""

import importlib.util
from pathlib import Path

import pytest
import timm

from timm_abn.publish.results import COMPARISONS, MEASURED_RESULTS, REPORTED_RESULTS

ROOT = Path(__file__).parents[2]
CARDS = ROOT / 'MODEL_CARDS.md'


def generator():
    spec = importlib.util.spec_from_file_location('make_model_cards', ROOT / 'scripts' / 'make_model_cards.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def our_models():
    return [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith('timm_abn.')]


def test_every_model_has_a_section():
    headings = [line[4:] for line in CARDS.read_text().splitlines() if line.startswith('### ')]
    assert sorted(headings) == sorted([*our_models(), *(comparison.title for comparison in COMPARISONS)])


def test_comparisons_are_up_to_date():
    for comparison in COMPARISONS:
        assert generator().make_comparison(comparison) in CARDS.read_text(), 'run python scripts/make_model_cards.py'
        assert {len(row) for row in comparison.rows} == {len(comparison.header)}


@pytest.mark.parametrize('heading', list(generator().GROUPS))
def test_sections_are_up_to_date(heading):
    cards, module = CARDS.read_text(), generator()
    for name in timm.list_models(module=list(module.GROUPS[heading])):
        assert module.make_section(name) in cards, f'run python scripts/make_model_cards.py: {name} has changed'


def test_results_are_of_models_that_exist():
    assert set(REPORTED_RESULTS) <= set(our_models())
    assert set(MEASURED_RESULTS) <= set(timm.list_pretrained())


def test_reported_and_measured_results_are_told_apart():
    lines = CARDS.read_text().splitlines()
    reported = [line for line in lines if '| reported, ' in line]
    measured = [line for line in lines if '| measured, `' in line]
    assert len(reported) == sum(map(len, REPORTED_RESULTS.values()))
    assert len(measured) == sum(map(len, MEASURED_RESULTS.values()))
    assert '| CIFAR-100 | top-1 error | 22.82 | reported, paper, Table 1 |' in reported
