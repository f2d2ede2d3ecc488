"""Finding and checking timm's scripts."""

import sys
import urllib.error
from pathlib import Path

import pytest
import timm
from timm_scripts import STAND_IN

from timm_abn.training import scripts
from timm_abn.training.task import TrainingError


@pytest.fixture
def checkout(tmp_path):
    def make(version, name='checkout'):
        folder = tmp_path / name
        (folder / 'timm').mkdir(parents=True)
        (folder / 'timm' / 'version.py').write_text(f"__version__ = '{version}'\n")
        for script in ('train.py', 'validate.py'):
            (folder / script).write_text('')
        return folder

    return make


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No scripts but those that a test makes."""
    monkeypatch.delenv('TIMM_SCRIPTS', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def test_places_in_order(checkout, monkeypatch, tmp_path):
    cached = checkout('1.0.31', f'cache/timm_abn/scripts/v{timm.__version__}')
    assert scripts.find_scripts() == cached
    source = checkout('1.0.31', 'source')
    monkeypatch.setattr(timm, '__file__', str(source / 'timm' / '__init__.py'))  # an editable install
    assert scripts.find_scripts() == source
    monkeypatch.setenv('TIMM_SCRIPTS', str(checkout('1.0.31', 'named')))
    assert scripts.find_scripts() == tmp_path / 'named'
    assert scripts.find_scripts(str(checkout('1.0.31', 'said'))) == tmp_path / 'said'


def test_nothing_found_says_what_to_do():
    with pytest.raises(TrainingError, match=rf'tag v{timm.__version__} of .*--timm-scripts download'):
        scripts.find_scripts()


@pytest.mark.parametrize('by_flag', [True, False])
def test_wrong_folder_is_refused(monkeypatch, tmp_path, by_flag):
    monkeypatch.setenv('TIMM_SCRIPTS', str(tmp_path))
    source = '--timm-scripts' if by_flag else r'\$TIMM_SCRIPTS'
    with pytest.raises(TrainingError, match=rf'^{source} is .*no train.py'):
        scripts.find_scripts(str(tmp_path) if by_flag else None)


@pytest.mark.parametrize(
    'found, installed, outcome',
    [
        ('1.0.31', '1.0.31', None),
        ('1.0.31', '1.0.31.dev0', None),
        ('1.0.29.dev0', '1.0.31', 'are of timm 1.0.29.dev0, older than the installed 1.0.31'),
        ('1.0.27', '1.0.31', 'are of timm 1.0.27, older than the installed 1.0.31.'),
        ('1.1.2', '1.0.31', TrainingError('but timm 1.0.31 is installed')),
        ('1.0.26', '1.0.31', "those before 1.0.27 do not show the attention branch's accuracy"),
        ('1.0.22', '1.0.31', TrainingError('would leave out the loss of the attention branch')),
    ],
)
def test_versions(checkout, monkeypatch, found, installed, outcome):
    monkeypatch.setattr(timm, '__version__', installed)
    folder = checkout(found)
    if isinstance(outcome, Exception):
        with pytest.raises(TrainingError, match=str(outcome)):
            scripts.check_version(folder, needs_tasks=True)
    else:
        remark = scripts.check_version(folder, needs_tasks=True)
        assert remark == outcome or outcome in remark


def test_old_scripts_may_do_anything_but_train_and_an_unknown_version_is_said(checkout, tmp_path):
    remark = scripts.check_version(checkout('1.0.20'), needs_tasks=False)
    assert remark.endswith(f'are of timm 1.0.20, older than the installed {timm.__version__}.')
    assert 'it is unknown' in scripts.check_version(tmp_path, needs_tasks=True)


def fetch_of(version):
    def fetch(url):
        assert f'/v{timm.__version__}/' in url
        return f"__version__ = '{version}'\n".encode()

    return fetch


def test_download_once_into_the_cache(monkeypatch):
    monkeypatch.setattr(scripts, '_fetch', fetch_of(timm.__version__))
    folder = scripts.find_scripts('download')
    assert {path.name for path in folder.iterdir()} == {*scripts.SCRIPTS, 'timm'}
    assert scripts.find_scripts() == folder
    monkeypatch.setattr(scripts, '_fetch', None)  # not called again
    assert scripts.find_scripts('download') == folder


def not_there(url):
    raise urllib.error.URLError('no network')


@pytest.mark.parametrize(
    'fetch, message',
    [
        (not_there, 'could not be downloaded: .*no network'),
        (fetch_of('0.9.0'), r'received those of 0\.9\.0; nothing was kept'),
        (lambda url: b'<html>', 'is not a Python script'),
    ],
)
def test_failed_download_leaves_nothing(tmp_path, monkeypatch, fetch, message):
    monkeypatch.setattr(scripts, '_fetch', fetch)
    with pytest.raises(TrainingError, match=message):
        scripts.find_scripts('download')
    assert not [path for path in Path(tmp_path).rglob('*') if path.is_file()]


def test_missing_scripts_and_packages_are_named(checkout, monkeypatch):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    folder = checkout('1.0.31')
    with pytest.raises(TrainingError, match='there is no evaluate.py'):
        scripts.run_script(folder, 'evaluate.py', [])
    (folder / 'inference.py').write_text('import package_not_installed.submodule\n')
    with pytest.raises(TrainingError, match=r'^inference\.py of timm needs package_not_installed, .*pip install pack'):
        scripts.run_script(folder, 'inference.py', [])
    (folder / 'inference.py').write_text('import timm.not_in_this_version\n')
    with pytest.raises(ModuleNotFoundError):
        scripts.run_script(folder, 'inference.py', [])


def test_multi_label_training_is_known_by_its_flag(tmp_path):
    script = tmp_path / 'train.py'
    script.write_text("parser.add_argument('--task-loss-weight')\n")
    assert not scripts.knows_multi_label(script)
    script.write_text("parser.add_argument('--task', default='classification')\n")
    assert scripts.knows_multi_label(script) and scripts.knows_multi_label(STAND_IN / 'train.py')
