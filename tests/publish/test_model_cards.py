"""MODEL_CARDS.md says what the models say: figures are generated, never typed."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import timm
from own_scripts import load_script
from tiers import fast_and_slow

import timm_abn  # noqa: F401  registers the models
from timm_abn.publish.results import MEASURED_RESULTS, REPORTED_RESULTS

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
    order = ['## Available weights', '## Measured results', '## All models', '## Reported results', '## Citation']
    assert [text.count(heading) for heading in order] == [1] * 5
    assert sorted(map(text.index, order)) == list(map(text.index, order))
    assert module.weights_table() in text and module.measured_table() in text and module.reported_table() in text
    weights = module.weights_table()
    assert all((f'| `{tagged}` |' in weights) == module.is_ours(tagged) for tagged in timm.list_pretrained())
    assert len(text.splitlines()) <= 250 and text.count('```bibtex') == text.count('```python') == 1


def test_results_are_up_to_date():
    module, text, hint = generator(), CARDS.read_text(), 'run python scripts/docs/make_model_cards.py'
    results = module.read_results()
    assert len(results) == len(list((ROOT / 'docs' / 'results').glob('*.json'))), 'a file that the pages do not know'
    for result in results.values():
        assert module.section(result) in text, hint
        assert all({len(row) for row in table['rows']} == {len(table['columns'])} for table in result['tables'])
    assert module.TRUST.read_text() == module.trust_page(results) and module.CHART.read_text() == module.chart(
        results
    ), hint
    assert len(module.TRUST.read_text().splitlines()) <= 60


def test_pages_say_what_holds_and_what_does_not():
    pages = load_script('scripts/docs/result_pages')
    claims = [
        dict(
            claim=f'A is above {name}',
            differences={'SRG': [0.1 * sign, 0.1 * sign - 0.02, 0.1 * sign + 0.02, 9]},
            holds=sign > 0,
        )
        for name, sign in (('B', 1), ('C', -1))
    ]
    points = [
        dict(map='<A>', control=False, SRG=[0.3, 0.2, 0.4, 9]),
        dict(map='random', control=True, SRG=[0, -0.1, 0.1, 9]),
    ]
    result = dict(title='R', setup='S.', command='make r', seeds=[0, 1, 2], versions={}, claims=claims)
    result |= dict(
        charts=[dict(title='G', points=points)],
        tables=[dict(columns=['map', 'SRG', 'none'], rows=[['A', [0.3, 0.2, 0.4, 9], None]])],
    )
    holds, fails = pages.trust_page(dict(r=result)).split('## What holds')[1].split('## What does not hold')
    assert '| A is above B | SRG +0.10 [0.08, 0.12] | | 3 |' in holds and 'above C' not in holds
    assert '| A is above C | SRG -0.10 [-0.12, -0.08] | SRG | 3 |' in fails and '| R | 3 | `make r` |' in fails
    assert '| map | SRG \u2191 |\n|---|---|\n| A | 0.300 [0.200, 0.400] |' in pages.section(result)
    tree = ElementTree.fromstring(pages.chart(dict(r=result)))
    marks = [(mark.get('class'), float(mark.get('cx'))) for mark in tree.iter('{http://www.w3.org/2000/svg}circle')]
    scale = (marks[0][1] - marks[1][1]) / 0.3  # pixels for 1; the scale goes from -0.1 to 0.4
    assert [kind for kind, _ in marks] == ['map', 'control'] and scale == pytest.approx(pages.WIDTH / 0.5, rel=1e-2)


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
    measured = [line for line in lines if '| measured, `' in line]
    assert len(measured) == sum(map(len, MEASURED_RESULTS.values()))
    reported = lines[lines.index('## Reported results') :]
    (row,) = [line for line in reported if line.startswith('| `abn_resnet110_cifar`')]
    assert row.startswith('| `abn_resnet110_cifar` | 22.82, 23.28 (product), 22.5* | 4.91 |')
    numbers = [
        word
        for line in reported
        if line.startswith('| `')
        for word in re.findall(r'\d+\.?\d*(?=\*|,| )', line.split('` |')[1])
    ]
    assert len(numbers) == sum(map(len, REPORTED_RESULTS.values()))
