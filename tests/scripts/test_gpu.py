"""What is measured on a GPU, as far as a CPU can try it: all rows in small, what waits, and what tables say."""

import ast
import functools
import json
import re
import sys

import pytest
import torch
from own_scripts import load_script
from timm_scripts import ROOT, TIMM
from tiny_models import tiny_abn, tiny_attached, tiny_images

import timm_abn

CPU = torch.device('cpu')
SMALL = ['--device', 'cpu', '--batch-size', '2', '--images', '2', '--steps', '2']
INSTALLED = {'PIL', 'huggingface_hub', 'numpy', 'safetensors', 'timm', 'torch', 'torchvision', 'tqdm', 'yaml'}


@pytest.fixture
def script(monkeypatch):
    module = load_script('scripts/gpu')
    for name, value in dict(SIDES=dict(cpu=16), BATCHES=dict(cpu=1), PLACES=2, SECONDS_OF_A_SAMPLE=0).items():
        monkeypatch.setattr(sys.modules['timing'], name, value)
    monkeypatch.setattr(module, 'TASKS', 3)
    monkeypatch.setattr(module, 'ROUNDS', 1)
    return module


@pytest.fixture
def measure(script, monkeypatch, tmp_path):
    """Run the script on a page, and return what it wrote: the rows, and the page."""

    def measure(*options):
        page = tmp_path / 'costs.md'
        page.write_text(script.TARGET.read_text())
        options = [*SMALL, '--out', str(tmp_path / 'out'), '--target', str(page), *options]
        monkeypatch.setattr('sys.argv', ['gpu.py', *options])
        assert script.main() == 0
        return json.loads((tmp_path / 'out' / 'gpu.json').read_text())['rows'], page.read_text()

    return measure


@pytest.mark.slow
def test_all_rows_in_small(script, measure, monkeypatch):
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    monkeypatch.setattr(timm_abn, 'evaluate', functools.partial(timm_abn.evaluate, steps=2))
    monkeypatch.setenv('TIMM_SCRIPTS', TIMM or '')
    rows, page = measure('--networks', 'test_resnet', 'no_such_net')
    assert list(dict.fromkeys(row['section'] for row in rows)) == list(script.HEADINGS)
    skipped = {'graphs': 'CUDA graphs need a GPU', **({} if TIMM else {'script': '$TIMM_SCRIPTS'})}
    for row in rows:
        if row['section'] in skipped:
            assert skipped[row['section']] in row['problem']
        elif 'no_such_net' in row['name']:
            assert 'no_such_net' in row['problem'] and not row['lines']
        else:
            assert not row['problem'] and row['lines'], row
            assert all(value > 0 for line in row['lines'] for name, value in line.items() if 'images/s' in name)
    of = {row['section']: row['lines'] for row in rows if row['lines']}
    assert all(line['map'] == line['logits'] == 0 and line['goal'] == 'met' for line in of['equality'])
    assert all(line['waits'] == 'nothing' and line['goal'] == 'met' for line in of['waits'])
    backbone, abn = of['training']
    assert backbone['time'] == 1 and 'goal' not in backbone
    assert abn['time per GMAC'] == pytest.approx(abn['time'] * backbone['GMACs'] / abn['GMACs'])
    assert abn['goal'] == ('met' if abn['time per GMAC'] <= 1 else 'missed')
    before, _, after = script.TARGET.read_text().partition(script.BEGIN)
    assert page.startswith(before) and page.endswith(after.partition(script.END)[2])
    assert all(heading in page for heading in script.HEADINGS.values()) and torch.__version__ in page


def test_rows_without_time_are_named(measure):
    rows, page = measure('--minutes', '1e-9')
    assert {row['problem'] for row in rows} == {'no time left'}
    assert page.count('no time left') == len(rows) and '| abn seresnet152 | no time left |' in page


def test_no_gpu_is_one_line(script, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr('sys.argv', ['gpu.py'])
    with pytest.raises(SystemExit, match='2'):
        script.main()
    assert capsys.readouterr().err == 'gpu.py: torch finds no GPU here; with --device cpu the script tries itself.\n'


@pytest.mark.parametrize(
    'option, message', [('--out', '--out: .* is a file, not a folder'), ('--target', '--target must be a page that')]
)
def test_places_that_cannot_be_written_are_one_line(script, monkeypatch, tmp_path, capsys, option, message):
    place = tmp_path / 'file'
    if option == '--out':
        place.touch()
    monkeypatch.setattr('sys.argv', ['gpu.py', *SMALL, option, str(place)])
    with pytest.raises(SystemExit, match='2'):
        script.main()
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize(
    'make',
    [
        functools.partial(tiny_abn, 'test_resnet'),
        functools.partial(tiny_abn, 'test_resnet', multi_task=True),
        functools.partial(tiny_attached, 'test_resnet'),
        functools.partial(tiny_attached, 'test_vit'),
    ],
    ids=['abn', 'multi-task', 'attached', 'traced'],
)
def test_nothing_waits_in_explain(script, make):
    model, images = make(), tiny_images()
    assert getattr(model, 'is_traced', False) == (make.args == ('test_vit',))
    assert script.waits(lambda: model.explain(images), CPU) == []
    model.to('meta').explain(images.to('meta'))  # where no value can be read


def test_bfloat16_is_of_the_run_and_not_of_what_is_counted(script):
    seen = []

    def prepare(model, images):
        return lambda: seen.append((model(images).dtype, images.is_contiguous(memory_format=torch.channels_last)))

    conv, images = torch.nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    script.in_bfloat16(prepare)(conv, images)()
    script.in_bfloat16(prepare)(conv.to('meta'), images.to('meta'))()
    assert seen == [(torch.bfloat16, True), (torch.float32, False)]


def test_tables(script):
    fails = sys.modules['rows'].Row('evaluate', 'abn x', lambda name: 1 / 0)
    works = sys.modules['rows'].Row('evaluate', 'abn y', lambda name: [{'': name, 'images/s': 1234.5, 'time': 1.2345}])
    fails.measure()
    works.measure()
    table = script.tables([fails, works], dict(evaluate='Heading:')).splitlines()
    assert table[:2] == ['Heading:', ''] and table[2] == '| | images/s | time |'
    assert table[4:] == ['| abn y | 1,234 | 1.23 |', '| abn x | ZeroDivisionError: division by zero | |']


def test_imports_what_a_bare_machine_has():
    own = {path.stem for path in (ROOT / 'scripts').glob('*.py')} | {'timm_abn', 'timm_abn_cli'}
    for name in ('gpu', 'rows', 'timing', 'benchmark'):
        tree = ast.parse((ROOT / 'scripts' / f'{name}.py').read_text())
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert {name.partition('.')[0] for name in names} <= own | INSTALLED | set(sys.stdlib_module_names), name
