"""torch.hub: from a folder, and from the archive that GitHub makes of the repository, in processes of their own."""

import ast
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import timm_abn  # noqa: F401  registers the models

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """What torch.hub needs of the repository, away from it."""
    folder = tmp_path_factory.mktemp('checkout') / 'timm-abn'
    shutil.copytree(ROOT / 'timm_abn', folder / 'timm_abn', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'hubconf.py', folder)
    return folder


def run(code, *arguments):
    """Return what a script prints as JSON, in a process that sees the dependencies but neither $PYTHONPATH nor here."""
    command = [sys.executable, '-I', '-c', f'import json, sys, torch\n{code}', *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd='/')
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_model_of_a_folder_is_that_of_timm(checkout):
    code = """
model = torch.hub.load(sys.argv[1], 'abn_resnet20_cifar', source='local', pretrained='fashion_mnist').eval()
import timm_abn
map = model.explain(torch.linspace(-1, 1, 28 * 28).reshape(1, 1, 28, 28)).attention_map
print(json.dumps([timm_abn.__file__, [p for p in sys.path if p == sys.argv[1]], map.flatten().tolist()]))
"""
    module, left_on_path, values = run(code, checkout)
    assert Path(module) == checkout / 'timm_abn' / '__init__.py' and not left_on_path
    model = timm.create_model('abn_resnet20_cifar.fashion_mnist', pretrained=True).eval()
    expected = model.explain(torch.linspace(-1, 1, 28 * 28).reshape(1, 1, 28, 28)).attention_map
    torch.testing.assert_close(torch.tensor(values), expected.flatten())


@pytest.mark.slow
def test_list_help_and_load_from_the_archive_of_github(checkout, tmp_path):
    (tmp_path / 'archive' / 'timm-abn-0123abc').parent.mkdir()
    shutil.copytree(checkout, tmp_path / 'archive' / 'timm-abn-0123abc')
    archive = shutil.make_archive(tmp_path / 'main', 'zip', tmp_path / 'archive', 'timm-abn-0123abc')
    code = """
import shutil
torch.hub.set_dir(sys.argv[2])
torch.hub.download_url_to_file = lambda url, file, progress: shutil.copy(sys.argv[1], file)
repo = dict(github='somebody/timm-abn:main', trust_repo=True, skip_validation=True)
names = torch.hub.list(**repo)
text = torch.hub.help(model='abn_resnet20_cifar', **repo)
model = torch.hub.load(repo.pop('github'), 'abn', backbone='test_resnet', num_classes=3, **repo)
print(json.dumps([names, text, list(model(torch.zeros(2, 3, 32, 32))[0].shape)]))
"""
    names, text, shape = run(code, archive, tmp_path / 'hub')
    of_this_package = {name for name in timm.list_models() if 'timm_abn' in timm.model_entrypoint(name).__module__}
    assert set(names) == of_this_package and {'abn_resnet50', 'cam_resnet50', 'resnet20_cifar'} <= set(names)
    assert text == hubconf().abn_resnet20_cifar.__doc__
    assert shape == [2, 3]


def hubconf():
    spec = importlib.util.spec_from_file_location('hubconf', ROOT / 'hubconf.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings():
    entrypoints = {name: value for name, value in vars(hubconf()).items() if callable(value) and name[0] != '_'}
    for name, entrypoint in entrypoints.items():
        text = entrypoint.__doc__
        assert text.startswith(timm.model_entrypoint(name).__doc__.splitlines()[0]) and entrypoint.__name__ == name
        assert text.count('Args:') == 1 and ('explain' in text) == name.startswith(('abn', 'attached', 'cam'))
    assert "available: 'fashion_mnist', 'fashion_mnist_faithful'." in entrypoints['abn_resnet20_cifar'].__doc__
    assert 'available: none.' in entrypoints['abn_resnet50'].__doc__
    assert "backbone='convnext_tiny'" in entrypoints['abn'].__doc__


def test_what_the_documents_say_is_what_torch_takes():
    texts = [(ROOT / name).read_text() for name in ('docs/models.md', 'hubconf.py')]
    calls = [call for text in texts for call in re.findall(r"torch\.hub\.(?:list|help|load)\('[^()]*\)", text)]
    assert {call.partition('(')[0] for call in calls} == {'torch.hub.list', 'torch.hub.help', 'torch.hub.load'}
    for call in (ast.parse(text, mode='eval').body for text in calls):
        takes = inspect.signature(getattr(torch.hub, call.func.attr))
        takes.bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})
        assert call.func.attr == 'load' or not any(word.arg == 'source' for word in call.keywords)


@pytest.mark.slow
def test_missing_dependency_is_named_by_torch_hub(checkout):
    code = """
for name in ('timm', 'safetensors'):
    sys.modules[name] = None  # as if not installed, to imports and importlib
try:
    torch.hub.load(sys.argv[1], 'abn_resnet50', source='local')
except RuntimeError as error:
    print(json.dumps(str(error)))
"""
    assert run(code, checkout) == 'Missing dependencies: timm, safetensors'
