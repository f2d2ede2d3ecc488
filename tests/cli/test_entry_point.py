"""The entry point of the command, in processes of its own: what it answers without torch, and what it does with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import refusal

import timm_abn
import timm_abn_cli
from timm_abn.data.reading import FORMATS
from timm_abn.explain.methods import EXPLAINERS
from timm_abn.explain.metrics import BASELINES
from timm_abn.maps.colormaps import SEQUENTIAL_COLORMAPS
from timm_abn.maps.operations import INTERPOLATIONS
from timm_abn.networks.choices import MECHANISMS
from timm_abn_cli import choices

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / 'timm_abn' / 'samples'
MODEL = 'abn_resnet20_cifar.fashion_mnist'
HEAVY = ('PIL', 'huggingface_hub', 'numpy', 'timm', 'timm_abn', 'torch', 'torchvision')


# command line, exit code, and what is said
CASES = [
    (['--help'], 0, 'list the Attention'),
    (['--version'], 0, f'timm-abn {timm_abn.__version__}'),
    *(([name, '--help'], 0, f'usage: timm-abn {name}') for name in timm_abn_cli.COMMANDS),
    (['compare', '--help'], 0, 'recipro_cam'),
    (['explain', '--help'], 0, '--interpolation {bilinear,bicubic}'),
    (['list'], 0, 'abn_resnet152'),
    ([], 2, 'required: command; see timm-abn --help'),
    (['nonsense'], 2, "invalid choice: 'nonsense'"),
    (['list', 'resnet*'], 2, "no model matches 'resnet*'"),
    (['compare', '.', '--model', MODEL, '--methods', 'y'], 2, "there is no method 'y'"),
    (['convert', '--mechanism', 'y', 'x'], 2, "invalid choice: 'y'"),
    (['explain', '.', '--model', MODEL, '--colormap', 'jet'], 2, "invalid choice: 'jet'"),
    (['explain', 'missing.jpg', '--model', MODEL, '--device', 'warp'], 2, 'there is no file or folder missing.jpg'),
    (['export', 'onnx', '--model', MODEL, '--out', 'x.pt2'], 2, '--out must end in .onnx'),
    (['publish', '.', '--repo', 'a/b', '--model-kwargs', 'x'], 2, 'must be KEY=VALUE'),
]
# runs the commands one after another, and says what each printed, and which libraries were imported by then
CODE = f"""
import contextlib, io, json, sys, timm_abn_cli
for args in json.loads(sys.argv[1]):
    sys.argv[1:] = args
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = timm_abn_cli.entry_point()
        except SystemExit as exit:
            code = exit.code
    imported = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([code or 0, out.getvalue() + err.getvalue(), err.getvalue().count(chr(10)), imported]))
"""


def test_what_needs_no_model_imports_no_library():
    command = [sys.executable, '-c', CODE, json.dumps([args for args, _, _ in CASES])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for (args, code, said), line in zip(CASES, done.stdout.splitlines(), strict=True):
        found, output, lines_of_errors, imported = json.loads(line)
        assert (found, lines_of_errors, imported) == (code, 1 if code else 0, []), (args, output)
        assert said.casefold() in output.casefold()


@pytest.mark.parametrize('name', timm_abn_cli.COMMANDS)
def test_help_has_examples(name):
    (subparsers,) = timm_abn_cli.create_parser()._subparsers._group_actions
    assert f'  timm-abn {name}' in subparsers.choices[name].format_help().partition('examples:')[2]


@pytest.mark.slow
def test_what_needs_a_model(tmp_path):
    (sample,) = SAMPLES.glob('9_*_00000.png')
    folder = tmp_path / 'folder'
    folder.mkdir()
    (folder / sample.name).write_bytes(sample.read_bytes())
    (folder / 'bad.png').write_bytes(b'')
    command = ['explain', 'folder', '--model', MODEL, '--top-k', '1', '--out', 'out']
    done = subprocess.run(
        [sys.executable, '-m', 'timm_abn', *command],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert (
        done.stderr == f'timm-abn: error: folder/bad.png is not an image in a supported format: {", ".join(FORMATS)}\n'
    )
    assert 'ankle boot' in done.stdout and f'out/{sample.stem}.overlay.png' in done.stdout
    assert [path.name for path in (tmp_path / 'out').iterdir()] == [f'{sample.stem}.overlay.png']


def test_what_is_offered_is_what_the_library_has():
    assert choices.BASELINES == BASELINES
    assert choices.COLORMAPS == tuple(SEQUENTIAL_COLORMAPS)
    assert choices.INTERPOLATIONS == INTERPOLATIONS
    assert choices.MECHANISMS == MECHANISMS
    assert choices.METHODS == tuple(EXPLAINERS)


def test_errors_of_programming_are_not_told_as_errors_of_the_user(monkeypatch, capsys):
    def summarize(*_):
        raise error

    monkeypatch.setattr('timm_abn_cli.list_models.summarize', summarize)
    for error in (ValueError('x'), RuntimeError('x')):
        with pytest.raises(type(error), match='x'):
            timm_abn_cli.main(['list'])
    error = torch.OutOfMemoryError('x')
    assert refusal(capsys, 'list') == 'out of memory; try smaller batches or images'
