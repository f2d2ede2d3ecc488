"""What the README and the documentation show runs: Python as it stands, commands as far as their parsers go."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest
from own_scripts import load_script
from timm_scripts import ROOT, STAND_IN

import timm_abn
from timm_abn.data.images import Preprocessing, read_image
from timm_abn.examples import example_model, example_photos
from timm_abn.export.graph import export_metadata, export_network
from timm_abn.training.command import _own_arguments
from timm_abn.training.recipes import find_recipe
from timm_abn_cli import create_parser

PAGES = [ROOT / 'README.md', *sorted(ROOT.glob('docs/**/*.md'))]
SLOW = ('docs/tutorials/publish_and_export.md', 'docs/tutorials/scores.md', 'docs/tutorials/train.md')
PRODUCTION = 'docs/tutorials/in_production.md'
SCRIPTS_OF_TIMM = {
    'timm-abn-train': 'train',
    'timm-abn-validate': 'validate',
    'train_wrappers/train.py': 'train',
    'train_wrappers/validate.py': 'validate',
}


def blocks(text, language):
    """Yield the fenced blocks of a language, each behind as many empty lines as there are lines before it."""
    for block in re.finditer(rf'^```{language}\n(.*?)^```', text, re.MULTILINE | re.DOTALL):
        yield '\n' * text[: block.start(1)].count('\n') + block[1]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def pages_with(language):
    names = [name_of(page) for page in PAGES if any(blocks(page.read_text(encoding='utf-8'), language))]
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW and language == 'python' else name for name in names
    ]


def run_python(page):
    namespace = {'__name__': 'snippets'}
    for code in blocks((ROOT / page).read_text(encoding='utf-8'), 'python'):
        exec(compile(code, page, 'exec'), namespace)
    return namespace


@pytest.fixture(autouse=True)
def offline_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')


@pytest.mark.parametrize('page', map(name_of, PAGES))
def test_code_is_seen_without_scrolling_sideways(page):
    text = (ROOT / page).read_text(encoding='utf-8')
    lines = [line for block in blocks(text, '(?!bibtex).*') for line in block.splitlines()]
    assert not [line for line in lines if len(line) > 88]


@pytest.mark.parametrize('page', [page for page in pages_with('python') if page not in ('README.md', PRODUCTION)])
def test_python_runs(page):
    run_python(page)


def test_readme_leaves_the_picture_that_it_names(tmp_path):
    run_python('README.md')
    assert [file.name for file in tmp_path.iterdir()] == ['overlay.png']


@pytest.mark.slow
def test_lines_of_production_predict_what_the_model_predicts(tmp_path):
    model = timm_abn.attach(example_model())
    export_network(model).save_onnx('model.onnx', export_metadata(model, 'lite0'))
    for name in ('rocket', 'astronaut'):
        shutil.copy(example_photos()[name], 'photo.jpg')
        found = run_python(PRODUCTION)
        x, _ = Preprocessing(model)(read_image('photo.jpg').convert('RGB'))
        explanation = model.explain(x[None])
        assert abs(found['logits'] - explanation.logits.numpy()).max() < 1e-3
        assert abs(found['attention_map'] - explanation.attention_map.numpy()).max() < 1e-3
    assert (tmp_path / 'overlay.png').exists()


@pytest.mark.parametrize('page', pages_with('bash'))
def test_commands_are_parsed(page, monkeypatch):
    lines = [line for code in blocks((ROOT / page).read_text(encoding='utf-8'), 'bash') for line in commands(code)]
    assert lines
    for line in lines:
        check(line, monkeypatch)


@pytest.mark.parametrize(
    'line',
    [
        'timm-abn explain photo.jpg --modell abn',
        'timm-abn-train --model abn --attention-mask-dirs masks',
        'timm-abn-train --recipe cifar1000',
        'make everything',
        'python scripts/demo.py --in demo.png',
        'pip install .[plots]',
        'timm-abm list',
    ],
)
def test_wrong_commands_are_noticed(line, monkeypatch):
    with pytest.raises((Exception, SystemExit)):
        check(shlex.split(line), monkeypatch)


def commands(code):
    for line in code.replace('\\\n', ' ').splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def check(words, monkeypatch):
    """Raise an error, or exit, unless a command is one, and its arguments can be parsed."""
    if words[0] == 'torchrun':
        words = words[next(i for i, word in enumerate(words) if word in ('timm-abn', *SCRIPTS_OF_TIMM)) :]
    if words[0] == 'python':
        words = words[1:]
    program, arguments = words[0], words[1:]
    if program == 'timm-abn':
        monkeypatch.setattr('timm_abn_cli.argument_types._existing', lambda text, *_: Path(text))
        create_parser().parse_args(arguments)
    elif program in SCRIPTS_OF_TIMM:
        own, for_timm = _own_arguments(f'{SCRIPTS_OF_TIMM[program]}.py', arguments)
        if getattr(own, 'recipe', None):
            find_recipe(own.recipe)
        parser_of_timm(SCRIPTS_OF_TIMM[program]).parse_args(for_timm)
    elif program.startswith(('scripts/', 'experiments/')):
        monkeypatch.setattr('sys.argv', words)
        load_script(program.removesuffix('.py')).parse_args()
    elif program == 'make':
        targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
        assert [word for word in arguments if '=' not in word][0] in targets
    elif program == 'pip':
        extras = re.search(r'\[(.*)\]', arguments[-1])
        declared = (ROOT / 'pyproject.toml').read_text()
        assert all(
            re.search(rf'^{extra} = \[', declared, re.MULTILINE) for extra in (extras[1].split(',') if extras else [])
        )
    elif program == 'train_wrappers/run.py':
        assert arguments[0] == 'benchmark'
    else:
        assert program in ('export', 'git', 'hf'), f'no test knows {program}'


def parser_of_timm(name):
    """Return the parser of the stand-in for a script of timm, which has the flags that tests and documents use."""
    spec = importlib.util.spec_from_file_location(f'stand_in_{name}', STAND_IN / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.parser
