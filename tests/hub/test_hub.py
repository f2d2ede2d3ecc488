"""Weights that travel: from a Hub over real HTTP with the real client, and to it. The server is tests/hub_server.py."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from PIL import Image
from proofs import counted_proofs
from safetensors.torch import load_file, save
from tiers import fast_and_slow
from tiny_models import TINY_BACKBONES, tiny_abn, tiny_images

import timm_abn  # noqa: F401  registers the models
from timm_abn.hub import download
from timm_abn.hub.config import HubError
from timm_abn.hub.published import ORGANISATION_VARIABLE
from timm_abn.publish.folder import check_repository_name, copy_hub_folder, publish_folder, save_hub_folder
from timm_abn.publish.model_card import model_card
from timm_abn.publish.model_facts import facts_of

LABELS = ['cat', 'dog', 'horse', 'cow', 'sheep']


def card_of(model, address):
    meta = timm.create_model('abn', device=torch.device('meta'), **model._model_args)
    return model_card(facts_of(meta), 'tiny', 'For tests.', 'mit', address)


def write_folder(folder, backbone='test_resnet', **kwargs):
    model = tiny_abn(backbone, **kwargs)
    labels = dict(num_classes=model.num_classes, label_names=LABELS)
    save_hub_folder(model, folder, card_of(model, f'local-dir:{folder}'), pretrained_cfg=labels)
    return model


@pytest.fixture
def tiny(tmp_path, hub):
    """Return a model whose folder is at me/tiny."""
    model = write_folder(tmp_path / 'tiny', mechanism='product')
    hub.add_folder('me/tiny', tmp_path / 'tiny')
    return model


def assert_same_weights(loaded, model):
    state = model.state_dict()
    assert list(loaded.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def assert_same(loaded, model):
    assert_same_weights(loaded, model)
    assert loaded.config == model.config
    assert type(loaded) is type(model)
    images = tiny_images()
    assert torch.equal(loaded.eval()(images), model(images))


def error_of(call, *args, **kwargs):
    with pytest.raises(HubError) as error:
        call(*args, **kwargs)
    assert '\n' not in str(error.value)
    return str(error.value)


def load(address='hf-hub:me/tiny', **kwargs):
    return timm.create_model(address, pretrained=True, **kwargs)


def cached_files(folder):
    return [path for path in (folder / 'cache').rglob('*') if path.is_file() and '.lock' not in path.name]


ARGUMENTS = [
    dict(),
    dict(mechanism='product', attention_map='sum_log', attention_norm=False, map_scale=2, padding_mode='replicate'),
    dict(multi_task=True, task_chunk_size=2, attention_map='raw'),
]


@pytest.mark.parametrize('backbone', fast_and_slow(TINY_BACKBONES, ['test_resnet', 'test_vit']))
@pytest.mark.parametrize('arguments', ARGUMENTS)
def test_folders_reload_bit_by_bit(backbone, arguments, tmp_path):
    model = write_folder(tmp_path / 'folder', backbone, **arguments)
    loaded = load(f'local-dir:{tmp_path / "folder"}')
    assert_same(loaded, model)
    assert loaded.pretrained_cfg['label_names'] == LABELS


@pytest.mark.parametrize('split', ['layer2', 1])
def test_the_split_is_restored(split, tmp_path):
    model = write_folder(tmp_path / 'folder', split=split)
    assert_same(load(f'local-dir:{tmp_path / "folder"}'), model)


def test_download_then_cache(tiny, hub):
    loaded = load()
    assert_same(loaded, tiny)
    assert loaded.pretrained_cfg['label_names'] == LABELS
    assert loaded.config.mechanism == 'product'
    assert hub.downloads('model.safetensors') == 1
    assert_same(load(), tiny)
    assert hub.downloads('model.safetensors') == 1  # found in the cache
    other = load(num_classes=3)
    assert other.num_classes == 3
    assert torch.equal(other.perception_branch.layer4[0].conv1.weight, tiny.perception_branch.layer4[0].conv1.weight)


def test_revision(tiny, hub, tmp_path):
    newer = write_folder(tmp_path / 'newer', mechanism='residual')
    commit = hub.add_folder('me/tiny', tmp_path / 'newer', branch='v2')
    assert_same(load(), tiny)
    assert_same(load('hf-hub:me/tiny@v2'), newer)
    assert_same(load(f'hf-hub:me/tiny@{commit}'), newer)
    with pytest.raises(Exception, match='v3'):
        load('hf-hub:me/tiny@v3')


def test_private_repository(tiny, hub, monkeypatch):
    hub.repositories['me/tiny']['private'] = True
    with pytest.raises(RepositoryNotFoundError, match='private or gated repo, make sure you are authenticated'):
        load()  # said by huggingface_hub, to which timm goes first
    monkeypatch.setenv('HF_TOKEN', 'hf_testtoken')
    assert_same(load(), tiny)


@pytest.mark.parametrize('missing', ['config.json', 'model.safetensors'])
def test_missing_file(missing, tiny, hub, tmp_path):
    del hub.files('me/tiny')[missing]
    # timm itself asks for config.json
    error_type, message = {
        'config.json': (EntryNotFoundError, 'Entry Not Found .*/me/tiny/resolve/main/config.json'),
        'model.safetensors': (HubError, 'me/tiny holds no model.safetensors, nor pytorch_model.bin'),
    }[missing]
    with pytest.raises(error_type, match=message):
        load()
    hub.add_folder('me/tiny', tmp_path / 'tiny')
    assert_same(load(), tiny)


@pytest.mark.skipif(huggingface_hub.__version__.startswith('0.'), reason='huggingface_hub gives up before 1.0')
def test_connection_that_breaks_is_taken_up_again(tiny, hub):
    hub.cut_after = 20_000
    assert_same(load(), tiny)
    assert hub.downloads('model.safetensors') == 2


def test_damaged_download_does_not_stay(tiny, hub, tmp_path):
    hub.corrupt = True
    message = error_of(load)
    assert re.match(r'me/tiny: model.safetensors was damaged in transit: its checksum is \w+... instead of', message)
    assert not [path for path in cached_files(tmp_path) if path.stat().st_size > 10_000]
    hub.corrupt = False
    assert_same(load(), tiny)


@pytest.fixture
def hashed(monkeypatch):
    """Return a list of the files that are hashed from now on."""
    paths, checksum_of = [], download._checksum_of
    monkeypatch.setattr(download, '_checksum_of', lambda path: paths.append(path) or checksum_of(path))
    return paths


def test_a_file_is_hashed_when_it_is_fetched_or_changed(tiny, hub, tmp_path, hashed):
    for _ in range(3):
        assert_same(load(), tiny)
    assert len(hashed) == 1
    cached = [path for path in cached_files(tmp_path) if path.stat().st_size > 10_000]
    (weights,) = {path.resolve() for path in cached}
    os.utime(weights, ns=(1, 1))  # touched: the same bytes are hashed once more
    for _ in range(2):
        assert_same(load(), tiny)
    assert len(hashed) == 2
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert 'was damaged in transit' in error_of(load)
    assert len(hashed) == 3 and not weights.exists()


def no_folder(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))


def no_home(tmp_path, monkeypatch):
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(Path, 'home', lambda: Path('~no-such-user').expanduser())


def an_unreadable_record(tmp_path, monkeypatch):
    load()
    for record in (tmp_path / 'xdg' / 'timm_abn' / 'checked').iterdir():
        record.unlink()
        record.mkdir()


@pytest.mark.parametrize('prevent', [no_folder, no_home, an_unreadable_record])
def test_where_no_record_can_be_kept_each_load_is_hashed(prevent, tiny, hub, tmp_path, monkeypatch, hashed):
    prevent(tmp_path, monkeypatch)
    hashed.clear()  # by what prevents it
    for _ in range(2):
        assert_same(load(), tiny)
    assert len(hashed) == 2


@pytest.mark.parametrize('arguments', [dict(), dict(multi_task=True, task_chunk_size=2), dict(mechanism='product')])
def test_a_load_proves_its_cut_once(tiny, hub, tmp_path, monkeypatch, arguments):
    model = tiny_abn('test_resnet', channels=(8, 8, 8, 16), **arguments)
    save_hub_folder(model, tmp_path / 'folder', '---\nlicense: mit\n---\n')
    hub.add_folder('me/other', tmp_path / 'folder')
    proofs = counted_proofs(monkeypatch)
    for address in ('hf-hub:me/other', f'local-dir:{tmp_path / "folder"}'):
        assert timm.create_model(address, pretrained=True).config.split == 'layer3'
        assert proofs == ['layer3']


def test_a_load_of_a_name_whose_backbone_takes_functions_proves_its_cut_once(tmp_path, monkeypatch):
    model = timm.create_model('abn_seresnet18', num_classes=5)
    save_hub_folder(model, tmp_path / 'folder', '---\nlicense: mit\n---\n')
    proofs = counted_proofs(monkeypatch)
    assert_same_weights(timm.create_model(f'local-dir:{tmp_path / "folder"}', pretrained=True), model)
    assert proofs == ['layer3']


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda data: data[: len(data) // 2], 'me/tiny cannot be loaded from: SafetensorError'),
        (lambda data: b'\xff' * 8 + data[8:], 'me/tiny cannot be loaded from: SafetensorError'),
        (lambda data: b'', 'me/tiny cannot be loaded from'),
        (lambda data: data.replace(b'"shape":[5]', b'"shape":[9]'), 'me/tiny cannot be loaded from: SafetensorError'),
        (lambda data: save({'other': torch.zeros(2)}), 'missing .*; 1 unknown'),
    ],
)
def test_bad_file_of_weights(damage, message, tiny, hub, tmp_path):
    good = hub.files('me/tiny')['model.safetensors']
    assert damage(good) != good
    hub.add('me/tiny', {'model.safetensors': damage(good)})
    assert re.search(message, error_of(load))
    hub.add('me/tiny', {'model.safetensors': good})
    assert_same(load(), tiny)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}',)


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'model.pth'])
@pytest.mark.parametrize('source', ['hf-hub', 'local-dir'])
def test_pickle_that_would_run_code_is_refused(source, name, tiny, hub, tmp_path):
    if source == 'hf-hub' and name == 'model.pth':
        pytest.skip('timm takes pytorch_model.bin only')
    weights, marker = load_file(tmp_path / 'tiny' / 'model.safetensors'), tmp_path / 'payload-ran'
    (tmp_path / 'tiny' / 'model.safetensors').unlink()
    del hub.files('me/tiny')['model.safetensors']
    address = 'hf-hub:me/tiny' if source == 'hf-hub' else f'local-dir:{tmp_path / "tiny"}'

    torch.save(dict(weights, payload=Payload(marker)), tmp_path / 'tiny' / name)
    hub.add_folder('me/tiny', tmp_path / 'tiny')
    assert 'weights_only=True' in error_of(load, address)
    assert not marker.exists()
    with torch.serialization.safe_globals([os.system]):  # the payload is a real one
        torch.load(tmp_path / 'tiny' / name, weights_only=False)
    assert marker.exists()

    torch.save(weights, tmp_path / 'tiny' / name)
    hub.add_folder('me/tiny', tmp_path / 'tiny')
    assert_same(load(address), tiny)


def test_links_and_pipes_among_the_weights(tmp_path):
    model = write_folder(tmp_path / 'folder')
    path = tmp_path / 'folder' / 'model.safetensors'
    path.rename(tmp_path / 'elsewhere')
    path.symlink_to(tmp_path / 'elsewhere')
    assert_same(load(f'local-dir:{tmp_path / "folder"}'), model)  # as in the cache of huggingface_hub
    assert 'is a link' in error_of(copy_hub_folder, tmp_path / 'folder', tmp_path / 'copy', 'hf-hub:me/tiny')
    (tmp_path / 'elsewhere').unlink()
    assert 'is not a file, nor a link to one' in error_of(load, f'local-dir:{tmp_path / "folder"}')
    path.unlink()
    os.mkfifo(path)
    assert 'is not a file, nor a link to one' in error_of(load, f'local-dir:{tmp_path / "folder"}')
    assert not (tmp_path / 'copy').exists()


def test_config_that_does_not_describe_the_weights(tiny, hub):
    config = json.loads(hub.files('me/tiny')['config.json'])
    config['model_args']['split'] = 'layer2'
    hub.add('me/tiny', {'config.json': json.dumps(config).encode()})
    assert 'missing' in error_of(load)


def test_published_folder_loads_back(tiny, hub, logged_in, tmp_path):
    config = copy_hub_folder(tmp_path / 'tiny', tmp_path / 'copy', 'hf-hub:you/new')
    assert config['architecture'] == 'abn'
    url = publish_folder(tmp_path / 'copy', 'you/new', private=True)
    assert url.startswith(f'{hub.endpoint}/you/new/commit/')
    assert hub.repositories['you/new']['private']
    assert sorted(hub.files('you/new')) == ['.gitattributes', 'README.md', 'config.json', 'model.safetensors']
    assert sum('/commit/' in path for _, path in hub.requests) == 1
    assert_same(load('hf-hub:you/new'), tiny)

    newer = write_folder(tmp_path / 'newer', mechanism='residual')
    publish_folder(tmp_path / 'newer', 'you/new', revision='v2')
    assert list(hub.repositories['you/new']['branches']) == ['main', 'v2']
    assert_same(load('hf-hub:you/new'), tiny)
    assert_same(load('hf-hub:you/new@v2'), newer)


def test_publishing_that_fails_publishes_nothing(tiny, hub, tmp_path, monkeypatch):
    assert 'needs a token to publish: log in with hf auth login' in error_of(
        publish_folder, tmp_path / 'tiny', 'you/new'
    )
    monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
    assert 'you/new cannot be published to: ' in error_of(publish_folder, tmp_path / 'tiny', 'you/new')
    assert list(hub.repositories) == ['me/tiny']
    monkeypatch.setenv('HF_TOKEN', 'hf_testtoken')
    message = error_of(publish_folder, tmp_path / 'tiny', 'me/tiny', private=True)
    assert message == 'me/tiny exists and is public; leave out --private, or choose another name.'
    before = hub.files('me/tiny')
    newer = tmp_path / 'newer'
    write_folder(newer)
    hub.fail_commits = True
    assert 'me/tiny cannot be published to: ' in error_of(publish_folder, newer, 'me/tiny')
    assert hub.files('me/tiny') == before


@pytest.mark.parametrize('name', ['tiny', 'me/you/tiny', '../tiny', 'me/ti ny', '/etc/passwd', 'me/'])
def test_names_of_repositories(name):
    assert 'is not the name of a repository' in error_of(check_repository_name, name)


@pytest.mark.parametrize('name', ['config.json', 'README.md', 'model.safetensors'])
def test_incomplete_folders_are_not_published(name, tmp_path):
    write_folder(tmp_path / 'folder')
    (tmp_path / 'folder' / name).unlink()
    assert f'holds no {name}' in error_of(copy_hub_folder, tmp_path / 'folder', tmp_path / 'copy', 'hf-hub:me/tiny')


SCRIPT = """
import sys, timm, torch, timm_abn
try:
    model = timm.create_model('abn_resnet20_cifar', pretrained=True)
    print(model.num_classes, model.config.mechanism, *model.pretrained_cfg['label_names'])
    print(sorted(name for name in timm.list_pretrained() if 'cifar' in name and 'abn' in name)[:2])
    model = timm.create_model('abn_resnet32_cifar', pretrained=True)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_an_organisation_named_by_the_environment(hub, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model('abn_resnet20_cifar', num_classes=5, mechanism='product')
    meta = timm.create_model('abn_resnet20_cifar', num_classes=5, device=torch.device('meta'))
    card = model_card(facts_of(meta), 'lab', 'For tests.', 'mit', 'hf-hub:lab/abn_resnet20_cifar')
    labels = dict(num_classes=5, label_names=LABELS)
    save_hub_folder(model, tmp_path / 'lab', card, pretrained_cfg=labels)
    hub.add_folder('lab/abn_resnet20_cifar', tmp_path / 'lab')
    result = run(hub, tmp_path, SCRIPT, **{ORGANISATION_VARIABLE: 'lab'}).splitlines()
    assert result[0] == '5 product cat dog horse cow sheep'
    assert result[1] == "['abn_densenet100_12_cifar', 'abn_resnet110_cifar']"
    assert result[2].startswith(
        f'HubError no weights are published for abn_resnet32_cifar: {ORGANISATION_VARIABLE} selects '
        f'lab/abn_resnet32_cifar, but there is no repository lab/abn_resnet32_cifar at {hub.endpoint}, or it is private'
    )
    assert result[2].endswith('train it with timm-abn-train --recipe cifar100 --model abn_resnet32_cifar.')
    assert len(result) == 3


@pytest.mark.slow
def test_the_code_of_a_card_runs_as_it_stands(hub, tmp_path, logged_in):
    write_folder(tmp_path / 'tiny')
    copy_hub_folder(tmp_path / 'tiny', tmp_path / 'copy', 'hf-hub:me/tiny')
    publish_folder(tmp_path / 'copy', 'me/tiny')
    card = hub.files('me/tiny')['README.md'].decode()
    code = re.search('```python\n(.*?)```', card, re.DOTALL).group(1)
    Image.new('RGB', (300, 200), 'red').save(tmp_path / 'photo.jpg')
    shape = run(hub, tmp_path, code + 'print(tuple(explanation.attention_map.shape), tuple(logits.shape))')
    assert re.fullmatch(r'\(1, 1, \d+, \d+\) \(1, 5\)\n', shape)


def run(hub, folder, code, **environment):
    """Run code in a process of its own, which finds the Hub by its environment variables."""
    environment = dict(
        os.environ,
        HF_ENDPOINT=hub.endpoint,
        HF_HOME=str(folder / 'home'),
        XDG_CACHE_HOME=str(folder / 'home'),
        HF_HUB_DISABLE_XET='1',
        HF_HUB_DISABLE_PROGRESS_BARS='1',
        PYTHONPATH=str(Path(__file__).parents[2]),
        **environment,
    )
    process = subprocess.run(
        [sys.executable, '-c', code], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert not process.returncode, process.stderr
    return process.stdout
