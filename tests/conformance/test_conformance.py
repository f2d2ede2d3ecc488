"""timm's own model tests pass for small models of ours; ``python -m tests.conformance`` runs them for all."""

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.conformance import timm_sdist
from tests.conformance.__main__ import UNAVAILABLE

ROOT = Path(__file__).parents[2]
SMALL = 'abn_test_ or resnet20_cifar'


@pytest.mark.slow
def test_small_models_pass():
    command = [sys.executable, '-m', 'tests.conformance', '-v', '--tb=short', '-k', SMALL]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode == UNAVAILABLE:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stdout[-8000:]
    outcomes = dict(re.findall(r'::(\w+\[\S+\]) (\w+)', result.stdout))
    assert set(outcomes.values()) == {'PASSED'}
    models = {name.split('[')[1].removeprefix('1-').removeprefix('2-').rstrip(']') for name in outcomes}
    assert models == {
        'abn_test_resnet',
        'abn_test_convnext',
        'abn_test_vit',
        'resnet20_cifar',
        'abn_resnet20_cifar',
        'abn_resnet20_cifar.fashion_mnist',
        'abn_resnet20_cifar.fashion_mnist_faithful',
        'abn_resnet20_cifar.untrained',
    }
    # what timm's lists say of a backbone holds for the ABN over it
    assert 'test_model_default_cfgs_non_std[1-abn_test_vit]' in outcomes
    assert 'test_model_default_cfgs[1-abn_test_vit]' not in outcomes
    for test in ('test_model_default_cfgs', 'test_model_forward_intermediates', 'test_model_forward_features'):
        assert f'{test}[1-abn_test_convnext]' in outcomes


def make_archive(path, members):
    with tarfile.open(path, 'w:gz') as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f'timm-9.9/{name}')
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, '/etc/passwd'
            member.size = len(content or b'')
            tar.addfile(member, io.BytesIO(content or b''))
    return path


GOOD = {
    'PKG-INFO': b'Name: timm\nVersion: 9.9\n',
    'pyproject.toml': b'',
    'tests/test_models.py': b'',
    'setup.py': b'evil',
}


@pytest.fixture
def archive(tmp_path, monkeypatch):
    monkeypatch.setattr(timm_sdist.importlib.metadata, 'version', lambda name: '9.9')
    monkeypatch.setattr(timm_sdist, '_download', lambda version, folder: tmp_path / 'timm-9.9.tar.gz')
    return tmp_path / 'timm-9.9.tar.gz'


def test_only_the_tests_are_extracted(archive, tmp_path):
    make_archive(archive, GOOD)
    folder = timm_sdist.timm_tests(tmp_path / 'cache')
    assert {p.name for p in folder.rglob('*') if p.is_file()} == {'PKG-INFO', 'pyproject.toml', 'test_models.py'}
    archive.unlink()
    assert timm_sdist.timm_tests(tmp_path / 'cache') == folder  # kept


@pytest.mark.parametrize(
    'members, message',
    [
        ({**GOOD, 'PKG-INFO': b'Name: timm\nVersion: 9.8\n'}, 'is of timm 9.8, not timm 9.9'),
        ({**GOOD, 'tests/test_models.py': None}, 'link'),
        ({'PKG-INFO': GOOD['PKG-INFO']}, 'pyproject.toml'),
        (None, 'is not a source distribution of timm 9.9'),
    ],
)
def test_another_archive_is_refused(archive, tmp_path, members, message):
    archive.write_bytes(b'not an archive') if members is None else make_archive(archive, members)
    with pytest.raises(timm_sdist.SdistUnavailable, match=message):
        timm_sdist.timm_tests(tmp_path / 'cache')
    assert not list((tmp_path / 'cache').iterdir())
