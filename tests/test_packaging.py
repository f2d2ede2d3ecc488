"""The wheel must hold everything: installed beside the dependencies, away from the checkout, the command works."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from own_scripts import load_script

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def distributions(tmp_path_factory):
    pytest.importorskip('build')
    folder = tmp_path_factory.mktemp('dist')
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob('*.whl')), next(folder.glob('*.tar.gz'))


@pytest.fixture(scope='module')
def environment(distributions, tmp_path_factory):
    """An environment that holds the wheel, and sees the dependencies but not the checkout."""
    folder = tmp_path_factory.mktemp('environment')
    venv.create(folder, with_pip=True)
    python = folder / ('Scripts' if os.name == 'nt' else 'bin') / 'python'
    subprocess.run([python, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', distributions[0]], check=True)
    purelib = subprocess.run(
        [python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    Path(purelib, 'dependencies.pth').write_text(sysconfig.get_path('purelib'))
    return python.parent


def run(environment, program, *arguments, cwd):
    clean = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    return subprocess.run(
        [environment / program, *arguments], cwd=cwd, env=clean, capture_output=True, text=True, check=True
    ).stdout


def test_wheel_holds_weights_samples_and_types(distributions):
    names = zipfile.ZipFile(distributions[0]).namelist()
    assert 'timm_abn/weights/abn_resnet20_cifar.fashion_mnist.safetensors' in names
    assert 'timm_abn/py.typed' in names
    data = ['model_facts.json', 'results.yaml', 'templates/card.md', 'templates/usage.txt', 'templates/citation.bib']
    assert {'timm_abn/training/recipes/cifar100.yaml', *(f'timm_abn/publish/{name}' for name in data)} < set(names)
    assert sum(name.startswith('timm_abn/samples/') and name.endswith('.png') for name in names) >= 10
    assert any(name.endswith('licenses/LICENSE') for name in names)
    assert {'timm_abn_cli/__init__.py', 'timm_abn/publish/model_facts.json'} <= set(names)
    assert all(name.startswith(('timm_abn/', 'timm_abn_cli/', 'timm_abn-')) for name in names)
    assert distributions[0].stat().st_size < 5 * 2**20


def test_sdist_holds_the_tests_and_nothing_that_was_made(distributions):
    names = ['/'.join(name.split('/')[1:]) for name in tarfile.open(distributions[1]).getnames()]
    assert {
        'README.md',
        'LICENSE',
        'CHANGELOG.md',
        'tests/split/test_cut.py',
        'pyproject.toml',
        'timm_abn_cli/__init__.py',
    } <= set(names)
    assert not any(name.startswith(('.venv', 'outputs', 'data', '.conformance')) for name in names)


@pytest.mark.slow
def test_installed_command_explains_an_image(environment, tmp_path):
    code = 'import timm_abn; print(timm_abn.__file__)'
    module = Path(run(environment, 'python', '-c', code, cwd=tmp_path).strip())
    assert environment.parent in module.parents
    sample = next(module.parent.glob('samples/**/*.png'))
    output = run(
        environment,
        'timm-abn',
        'explain',
        str(sample),
        '--model',
        'abn_resnet20_cifar.fashion_mnist',
        '--out',
        str(tmp_path / 'out'),
        cwd=tmp_path,
    )
    assert sample.stem in output
    assert list((tmp_path / 'out').rglob('*.png'))


@pytest.mark.nightly
def test_demo_of_a_release(distributions, environment, tmp_path):
    """As ``make release`` runs it; the wheel was built from the sdist."""
    release = load_script('scripts/check_release')
    picture = release.run_demo(environment / 'python', distributions[1], tmp_path)
    assert picture.read_bytes().startswith(b'\x89PNG')
    with pytest.raises(subprocess.CalledProcessError):  # without the package
        release.run(environment / 'python', '-I', '-S', tmp_path / 'demo.py', cwd=tmp_path)


def test_editable_install_finds_the_entry_point(tmp_path):
    backend = pytest.importorskip('hatchling.build')
    subprocess.run(
        [sys.executable, '-c', f'import {backend.__name__} as backend; backend.build_editable({str(tmp_path)!r})'],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(next(tmp_path.glob('*.whl'))) as wheel:
        folders = [wheel.read(name).decode().split() for name in wheel.namelist() if name.endswith('.pth')]
        scripts = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith('entry_points.txt')]
    assert folders == [[str(ROOT)]] and 'timm-abn = timm_abn_cli:entry_point' in scripts[0]


@pytest.mark.slow
def test_importing_costs_little_more_than_importing_timm(tmp_path):
    # what matters is that nothing heavy is imported besides timm; seconds are measured by scripts/benchmark.py
    code = 'import json, sys, timm; a = set(sys.modules); import timm_abn; print(json.dumps([*(set(sys.modules) - a)]))'
    added = json.loads(subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout)
    assert not [name for name in added if name.split('.')[0] != 'timm_abn'], added
    assert 'timm_abn.data.images' not in added
