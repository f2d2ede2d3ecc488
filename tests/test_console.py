"""The entry point of the command, in processes of its own: what it answers without torch, and what it does with it."""

import subprocess
import sys
from pathlib import Path

import pytest

import timm_abn
import timm_abn_console

SAMPLES = Path(timm_abn.__file__).parent / 'samples'
MODEL = 'abn_resnet20_cifar.fashion_mnist'
HEAVY = ('PIL', 'huggingface_hub', 'numpy', 'timm', 'torch', 'torchvision')


def run(*args, after=''):
    """Run the command, and then other code in the same process."""
    code = (
        'import sys, timm_abn_console\n'
        'try:\n'
        '    code = timm_abn_console.main()\n'
        'except SystemExit as exit:\n'
        '    code = exit.code\n'
        f'{after}\n'
        'sys.exit(code)'
    )
    return subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True)


@pytest.mark.parametrize(
    ('args', 'code', 'said'),
    [
        (['--help'], 0, 'list the Attention'),
        (['--version'], 0, f'timm-abn {timm_abn.__version__}'),
        (['app', '--help'], 0, 'timm-abn app'),
        (['compare', '--help'], 0, 'recipro_cam'),
        (['convert', '--help'], 0, 'timm-abn convert'),
        (['explain', '--help'], 0, '--interpolation {bilinear,bicubic}'),
        (['export', '--help'], 0, 'timm-abn export'),
        (['publish', '--help'], 0, 'timm-abn publish'),
        (['tsne', '--help'], 0, 'timm-abn tsne'),
        (['list'], 0, 'abn_resnet152'),
        ([], 2, 'required: command'),
        (['list', 'resnet*'], 2, "no model matches 'resnet*'"),
        (['compare', 'missing.jpg', '--model', MODEL], 2, 'there is no file or folder missing.jpg'),
        (['compare', 'x', '--model', MODEL, '--methods', 'y'], 2, "invalid choice: 'y'"),
        (['convert', 'x', '--mechanism', 'y'], 2, "invalid choice: 'y'"),
        (['edit', 'missing.jpg', '--mask', 'x.png', '--model', MODEL], 2, 'there is no file or folder missing.jpg'),
        (['explain', 'x.jpg', '--model', MODEL, '--colormap', 'jet'], 2, "invalid choice: 'jet'"),
        (['explain', 'missing.jpg', '--model', MODEL, '--device', 'warp'], 2, 'there is no file or folder missing.jpg'),
        (['export', 'onnx', '--model', MODEL, '--out', 'x.pt2'], 2, '--out must end in .onnx'),
        (['publish', 'x', '--repo', 'a/b', '--model-kwargs', 'x'], 2, 'must be KEY=VALUE'),
    ],
)
def test_what_needs_no_model_imports_neither_torch_nor_timm(args, code, said):
    done = run(*args, after=f'print([name for name in {HEAVY} if name in sys.modules])')
    assert done.returncode == code, done.stderr
    assert said.casefold() in (done.stdout + done.stderr).casefold()
    assert done.stdout.splitlines()[-1] == '[]'
    assert done.stderr.count('\n') == (1 if code else 0)


def test_what_needs_a_model_imports_the_package_itself(tmp_path):
    sample = next(SAMPLES.glob('9_*.png'))
    after = (
        'import timm, timm_abn, timm_abn.cli\n'
        'assert timm_abn is sys.modules["timm_abn"] and set(timm_abn.__all__) <= set(dir(timm_abn))\n'
        'assert timm_abn.TimmAbnError is timm_abn.cli.TimmAbnError\n'
        'assert timm.is_model("abn_resnet50")'
    )
    done = run('explain', sample, '--model', MODEL, '--top-k', '1', '--out', tmp_path, after=after)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'ankle boot' in done.stdout and [path.name for path in tmp_path.iterdir()] == [f'{sample.stem}.overlay.png']


def test_where_the_package_is_imported_already(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['timm-abn', 'list', 'abn_resnet18'])
    assert timm_abn_console.main() == 0
    assert 'abn_resnet18' in capsys.readouterr().out
    assert sys.modules['timm_abn'] is timm_abn
