"""docs/coverage.csv says what the package does, and the README says what it says."""

import pytest
from own_scripts import load_script
from tiers import fast_and_slow
from timm_families import SMALLEST

NIGHTLY = ['sequencer']  # LSTMs take 25 seconds on the meta device
# maps and tokens, each gate, a stage inside a block, and what is refused
FAST = ['convnext', 'crossvit', 'resnet', 'selecsls', 'vision_transformer', 'xception_aligned']


@pytest.fixture(scope='module')
def script():
    return load_script('scripts/docs/measure_coverage')


@pytest.fixture(scope='module')
def rows(script):
    if not script.TABLE.exists():
        pytest.skip('docs/coverage.csv is not there: run make coverage')
    return {row['name']: row for row in script.read_table(script.TABLE)}


def test_table_has_all_names(script, rows):
    assert list(rows) == script.backbone_names()
    assert {row['family'] for row in rows.values()} == set(SMALLEST)
    assert all(bool(row['reason']) == (row['works'] == 'no') for row in rows.values())


@pytest.mark.parametrize('family', fast_and_slow(SMALLEST, FAST, SMALLEST.keys() - {*FAST, *NIGHTLY}))
def test_smallest_of_each_family(script, rows, family):
    name = SMALLEST[family]
    assert script.measure(name) == rows[name], 'run make coverage'


def test_readme_says_what_the_table_says(script, rows):
    said = f'{script.BEGIN}{script.summary(list(rows.values()))}{script.END}'
    assert said in script.README.read_text(encoding='utf-8'), 'run make coverage'


def test_some_names(script, tmp_path, monkeypatch, capsys):
    table = tmp_path / 'new' / 'coverage.csv'
    monkeypatch.setattr('sys.argv', ['measure_coverage.py', 'test_resnet', 'test_vit', '--csv', str(table)])
    assert script.main() == 0
    assert [row['map'] for row in script.read_table(table)] == ['10x10', '10x10']  # of their own images of 160 pixels
    assert '2 of 2 names, 2 of 2 families of timm' in capsys.readouterr().out


def test_broken_off_run_is_gone_on_with(script, tmp_path, monkeypatch):
    journal = tmp_path / 'journal.csv'
    first = script.measure_all(['test_resnet'], 1, journal)
    monkeypatch.setattr(script, 'measure', lambda name: dict.fromkeys(script.COLUMNS, 'new') | dict(name=name))
    rows = script.measure_all(['test_vit', 'test_resnet'], 1, journal)
    assert [row['works'] for row in rows] == ['new', 'yes'] and rows[1] == first[0]
    assert script.read_table(journal) == rows[::-1]


def test_unknown_name_is_one_line(script, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['measure_coverage.py', 'resnet5'])
    assert script.main() == 2
    assert capsys.readouterr().err == "timm has no model 'resnet5'\n"
