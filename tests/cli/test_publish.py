"""The command ``timm-abn publish``."""

import argparse
import json
import runpy
from pathlib import Path

import pytest
import timm
import torch
from command_line import refusal
from huggingface_hub import ModelCard, RepoCard
from payload import Payload
from safetensors.torch import save_file
from tiny_models import tiny_abn, tiny_images

from timm_abn.models.training_checkpoints import origin_of
from timm_abn.records import explained_by
from timm_abn_cli import main


def settings(**kwargs):
    """Return settings of timm's training script, as it stores them."""
    model_kwargs = dict(backbone='test_resnet', mechanism='product', pretrained_backbone=True)
    images = dict(in_chans=None, input_size=None, img_size=64, mean=[0.5], std=[0.25], crop_pct=1.0, interpolation='')
    run = dict(model='abn', model_kwargs=model_kwargs, num_classes=5, gp=None, dataset='torch/cifar10')
    return argparse.Namespace(**{**run, **images, 'eval_metric': 'top1', **kwargs})


@pytest.fixture
def trained(tmp_path):
    """Return a model and the checkpoint that timm's training script left of it, beside averaged weights."""
    model, other = tiny_abn('test_resnet', mechanism='product'), tiny_abn('test_resnet', mechanism='product')
    torch.nn.init.ones_(other.perception_branch.fc.weight)
    checkpoint = dict(
        **dict(epoch=1, arch='abn', version=2, args=settings(), state_dict=other.state_dict()),
        state_dict_ema=model.to(memory_format=torch.channels_last).state_dict(),
        **dict(optimizer=dict(state={}, param_groups=[]), metric=87.5),
    )
    torch.save(checkpoint, tmp_path / 'model_best.pth.tar')
    return model, checkpoint, tmp_path / 'model_best.pth.tar'


def publish(path, *options, repo='me/tiny'):
    return main(['publish', str(path), '--repo', repo, *map(str, options)])


def error_of(capsys, path, *options, repo='me/tiny'):
    return refusal(capsys, 'publish', path, '--repo', repo, *options)


def assert_same(loaded, model):
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    images = tiny_images()
    torch.testing.assert_close(loaded.eval()(images), model(images))
    assert loaded.config == model.config


def test_a_training_checkpoint_is_published(trained, hub, logged_in, tmp_path, capsys):
    model, _, path = trained
    (tmp_path / 'labels.txt').write_text('cat\ndog\nhorse\ncow\nsheep\n')
    before = sorted(tmp_path.iterdir())
    assert publish(path, '--private', '--label-names', tmp_path / 'labels.txt', '--license', 'mit') == 0
    output = capsys.readouterr().out
    assert f'Published: {hub.endpoint}/me/tiny/commit/' in output
    assert "timm.create_model('hf-hub:me/tiny', pretrained=True)" in output
    assert hub.repositories['me/tiny']['private']
    assert sorted(tmp_path.iterdir()) == before

    loaded = timm.create_model('hf-hub:me/tiny', pretrained=True)
    assert_same(loaded, model)
    cfg = loaded.pretrained_cfg
    assert cfg['label_names'] == ['cat', 'dog', 'horse', 'cow', 'sheep']
    assert (tuple(cfg['input_size']), cfg['mean'], cfg['std']) == ((3, 64, 64), [0.5] * 3, [0.25] * 3)

    card = ModelCard(hub.files('me/tiny')['README.md'].decode())
    assert card.data.to_dict() == {
        'library_name': 'timm',
        'pipeline_tag': 'image-classification',
        'license': 'mit',
        'datasets': ['uoft-cs/cifar10'],
        'metrics': ['accuracy'],
        'tags': ['image-classification', 'timm', 'timm-abn', 'attention-branch-network', 'visual-explanation'],
    }
    for line in (
        '# tiny',
        '| Backbone | `test_resnet` |',
        '| Attention map, mechanism | sigmoid, product |',
        '| Gate | features |',
        '| Epochs, as recorded in the checkpoint | 2 |',
        '| Validation top1, as recorded | 87.50 |',
        '| Class names | cat, dog, horse, cow, sheep |',
        '| Input | 3 x 64 x 64 |',
        '| Trained from | pretrained weights, for the backbone |',
    ):
        assert line in card.text.splitlines()
    assert not cfg.get('origin_url')  # the authors did not train it


def test_the_card_is_of_this_model(trained, tmp_path, monkeypatch, capsys):
    _, checkpoint, path = trained
    monkeypatch.chdir(tmp_path)
    names = ['a|b', *(f'class-{index}' for index in range(4))]
    gmacs = {}
    for size in (256, 1024):
        args = settings(label_names=names, origin='weights of a file', img_size=size)
        torch.save(dict(checkpoint, args=args), path)
        assert publish(path, '--dry-run', '--out', tmp_path / str(size)) == 0
        lines = (tmp_path / str(size) / 'README.md').read_text().splitlines()
        assert f'| Input | 3 x {size} x {size} |' in lines and '| Trained from | weights of a file |' in lines
        assert '| Class names | a\\|b, class-0, class-1, class-2, class-3 |' in lines
        (gmacs[size],) = (float(line.split('|')[2]) for line in lines if line.startswith('| GMACs |'))
        config = json.loads((tmp_path / str(size) / 'config.json').read_text())['pretrained_cfg']
        assert config['label_names'] == names and not config.get('origin_url')
    assert gmacs[1024] == pytest.approx(16 * gmacs[256], rel=0.1)
    (tmp_path / 'labels.txt').write_text('v\nw\nx\ny\nz\n')
    assert publish(path, '--dry-run', '--out', tmp_path / 'named', '--label-names', tmp_path / 'labels.txt') == 0
    config = json.loads((tmp_path / 'named' / 'config.json').read_text())['pretrained_cfg']
    assert config['label_names'] == list('vwxyz')


@pytest.mark.parametrize(
    ('changes', 'origin'),
    [
        (dict(model_kwargs=dict(backbone='test_resnet', mechanism='product')), 'random weights'),
        (dict(pretrained=True), 'the pretrained weights of abn'),
        (dict(initial_checkpoint='/home/me/x.pth'), 'weights of a file'),
        (dict(model_kwargs=dict(pretrained_backbone='me/x.pth')), 'weights of a file, for the backbone'),
        (dict(resume='last.pth.tar'), ''),
    ],
)
def test_the_origin_of_weights_is_told_without_paths(changes, origin):
    said = origin_of(vars(settings(**changes)))
    assert said.startswith(origin) and bool(said) == bool(origin) and 'me/' not in said


def test_dry_run_writes_a_folder_that_can_be_published(trained, hub, logged_in, tmp_path, monkeypatch, capsys):
    model, _, path = trained
    monkeypatch.chdir(tmp_path)
    assert publish(path, '--dry-run') == 0
    assert 'Written to: tiny\nNothing was published.\n' in capsys.readouterr().out
    names = ['README.md', 'config.json', 'model.safetensors']
    assert sorted(file.name for file in (tmp_path / 'tiny').iterdir()) == names
    assert not hub.requests
    assert_same(timm.create_model('local-dir:tiny', pretrained=True), model)
    assert publish(path, '--dry-run', '--out', 'other', '--explained-by', 'class_map') == 0
    told = timm.create_model('local-dir:other', pretrained=True)
    assert explained_by(told) == told.eval().explain(torch.zeros(1, 3, 64, 64)).explained_by == 'class_map'
    assert '| Shown first | class map' in Path('other/README.md').read_text()
    assert 'leave them out' in error_of(capsys, 'other', '--explained-by', 'class_map')
    assert 'tiny is not empty' in error_of(capsys, path, '--dry-run')

    assert publish('tiny', '--revision', 'v2', repo='you/new') == 0
    assert_same(timm.create_model('hf-hub:you/new@v2', pretrained=True), model)
    assert "create_model('hf-hub:you/new@v2'" in hub.files('you/new', 'v2')['README.md'].decode()


def test_weights_alone_need_the_name_of_their_model(trained, tmp_path, capsys):
    model, _, _ = trained
    path = tmp_path / 'weights.safetensors'
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    assert 'does not record its model: pass --model NAME' in error_of(capsys, path, '--dry-run')
    options = ('--model', 'abn', '--model-kwargs', 'backbone=test_resnet', 'mechanism=product')
    assert publish(path, *options, '--dry-run', '--out', tmp_path / 'out') == 0
    assert_same(timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True), model)


def test_results_are_those_of_the_weights(tmp_path):
    shipped = timm.create_model('abn_resnet20_cifar.fashion_mnist', pretrained=True)
    options = ('--model', 'abn_resnet20_cifar.fashion_mnist', '--dry-run', '--out')
    save_file(shipped.state_dict(), tmp_path / 'weights.safetensors')
    assert publish(tmp_path / 'weights.safetensors', *options, tmp_path / 'shipped') == 0
    assert 'top-1 accuracy' in (tmp_path / 'shipped' / 'README.md').read_text()
    loaded = timm.create_model(f'local-dir:{tmp_path / "shipped"}', pretrained=True)
    assert loaded.pretrained_cfg['label_names'] == list(shipped.pretrained_cfg['label_names'])

    torch.nn.init.ones_(shipped.perception_branch.fc.weight)  # weights of something else
    save_file(shipped.state_dict(), tmp_path / 'weights.safetensors')
    assert publish(tmp_path / 'weights.safetensors', *options, tmp_path / 'other') == 0
    assert 'None are recorded.' in (tmp_path / 'other' / 'README.md').read_text()
    assert not json.loads((tmp_path / 'other' / 'config.json').read_text())['pretrained_cfg']['label_names']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(args=argparse.Namespace(model='abn_resnet19', model_kwargs={})), 'abn_resnet19'),
        (dict(args=argparse.Namespace(model='resnet18', model_kwargs={})), 'the checkpoint is not one of resnet18'),
        (dict(args=argparse.Namespace(model='abn_resnet20_cifar', num_classes=5)), 'not one of abn_resnet20_cifar'),
        (dict(args=argparse.Namespace(model='abn', model_kwargs=dict(checkpoint_path='/x'))), 'checkpoint_path'),
        (dict(args=None), 'does not record its model'),
        (dict(state_dict_ema=None, state_dict={}), 'holds nothing'),
        (dict(state_dict_ema=dict(a=1)), 'is not a checkpoint of a model: it holds a'),
        (dict(payload=Payload('payload-ran')), 'is not a checkpoint, or is damaged'),
    ],
)
def test_bad_checkpoints_publish_nothing(change, message, trained, hub, logged_in, tmp_path, monkeypatch, capsys):
    _, checkpoint, path = trained
    monkeypatch.chdir(tmp_path)
    torch.save(dict(checkpoint, **change), path)
    assert message in error_of(capsys, path)
    assert message in error_of(capsys, path, '--dry-run')
    assert list(tmp_path.iterdir()) == [path]
    assert not hub.requests


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--repo', 'tiny'), "'tiny' is not the name of a repository: it must be USER/NAME"),
        (('--repo', 'me/../tiny'), 'is not the name of a repository'),
        (('--out', 'folder'), '--out says where --dry-run writes'),
        (('--label-names', 'labels.txt'), 'labels.txt has 1 line for 5 classes'),
        (('--label-names', 'none.txt'), 'none.txt'),
        ((), 'needs a token to publish'),
    ],
)
def test_bad_arguments(options, message, trained, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'labels.txt').write_text('cat\n')
    assert message in error_of(capsys, trained[2], *options)
    assert not hub.requests


def test_bad_folders(trained, hub, logged_in, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert 'there is no file or folder none' in error_of(capsys, 'none')
    assert 'holds no config.json' in error_of(capsys, '.')
    assert publish(trained[2], '--dry-run') == 0
    assert 'leave them out' in error_of(capsys, 'tiny', '--license', 'mit')
    card = tmp_path / 'tiny' / 'README.md'
    text = card.read_text()
    for damaged, message in (
        ('# A model', 'its front matter must say library_name: timm, and the license'),
        (text.replace('license: unknown', 'license: [1'), 'its front matter cannot be read'),
        (text.replace('timm.create_model', 'torch.load'), 'does not load the model'),
    ):
        card.write_text(damaged)
        assert message in error_of(capsys, 'tiny')
    card.write_text(text)
    config = tmp_path / 'tiny' / 'config.json'
    config.write_text(config.read_text().replace('"test_resnet"', '"../etc"'))
    assert 'model_args.backbone must be the name of a timm model' in error_of(capsys, 'tiny')
    assert not hub.requests


@pytest.mark.parametrize(
    ('name', 'kwargs', 'of_weights'),
    [
        ('abn', dict(backbone='test_resnet'), dict(num_classes=5, multi_task=True)),
        ('cam_resnet110_cifar', dict(num_blocks=1), dict(num_classes=6)),
    ],
)
def test_weights_alone_tell_classes_and_tasks(tmp_path, name, kwargs, of_weights):
    model = timm.create_model(name, **kwargs, **of_weights)
    save_file(model.state_dict(), tmp_path / 'weights.safetensors')
    said = [f'{key}={value}' for key, value in kwargs.items()]
    options = ['--model', name, '--model-kwargs', *said, '--dry-run', '--out', tmp_path / 'out']
    assert publish(tmp_path / 'weights.safetensors', *options) == 0
    loaded = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True)
    assert loaded.num_classes == of_weights['num_classes']
    assert getattr(loaded, 'config', None) == getattr(model, 'config', None)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize('gate', ['features', 'tokens'])
@pytest.mark.filterwarnings('ignore:The attention map has no effect')
def test_the_card_says_the_gate_of_the_weights(tmp_path, gate):
    arguments = dict(backbone='test_vit', img_size=64, split='blocks.1', depth=3)
    model = timm.create_model('abn', num_classes=5, gate=gate, **arguments)
    trained_with = settings(model_kwargs=arguments)  # which say nothing of a gate
    torch.save(dict(arch='abn', args=trained_with, state_dict=model.state_dict()), tmp_path / 'last.pth.tar')
    assert publish(tmp_path / 'last.pth.tar', '--dry-run', '--out', tmp_path / 'out') == 0
    assert f'| Gate | {gate} |' in (tmp_path / 'out' / 'README.md').read_text().splitlines()


def test_a_space_holds_the_page_and_the_model(trained, hub, logged_in, tmp_path, monkeypatch, capsys):
    model, _, path = trained
    monkeypatch.chdir(tmp_path)
    assert publish(path, '--space', '--license', 'mit', '--dry-run') == 0
    names = ['README.md', 'app.py', 'config.json', 'model.safetensors', 'requirements.txt']
    assert sorted(file.name for file in (tmp_path / 'tiny').iterdir()) == names
    assert_same(timm.create_model('local-dir:tiny', pretrained=True), model)
    card = RepoCard((tmp_path / 'tiny' / 'README.md').read_text(), ignore_metadata_errors=False)
    assert {key: card.data.to_dict()[key] for key in ('title', 'sdk', 'app_file', 'license')} == dict(
        title='tiny', sdk='gradio', app_file='app.py', license='mit'
    )
    served = []
    monkeypatch.setattr('timm_abn.app.server.serve_folder', served.append)
    runpy.run_path(str(tmp_path / 'tiny' / 'app.py'), run_name='__main__')
    assert served == [tmp_path / 'tiny']
    capsys.readouterr()
    assert publish(path, '--space') == 0
    assert f'Open it: {hub.endpoint}/spaces/me/tiny' in capsys.readouterr().out
    assert hub.repositories['me/tiny']['sdk'] == 'gradio' and set(names) <= set(hub.files('me/tiny'))
    assert all('/models/' not in address for _, address in hub.requests)
