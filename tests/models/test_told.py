"""Weights of one's own loop: what their file says is taken, what it does not is told, or warned of once."""

import argparse
import warnings
import zipfile

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tiny_models import tiny_abn, tiny_backbone, tiny_images

import timm_abn
from timm_abn.checkpoint_files import read_checkpoint
from timm_abn.data.images import Preprocessing
from timm_abn.models.loading import load_classifier
from timm_abn.models.training_checkpoints import recorded_model
from timm_abn.publish.folder import save_hub_folder
from timm_abn.records import num_answers, record_of
from timm_abn_cli import main

unprepared = pytest.mark.filterwarnings('ignore:.* does not record how images were prepared')

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
TOLD = dict(img_size=48, mean=MEAN, std=STD, crop_pct=1.0)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """The weights alone of a model of five labels."""
    monkeypatch.chdir(tmp_path)
    torch.save(tiny_backbone('test_resnet').state_dict(), 'bare.pth')
    return 'bare.pth'


def warned(call, *args, **kwargs):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        result = call(*args, **kwargs)
    return result, [str(warning.message) for warning in found if 'images were prepared' in str(warning.message)]


def test_one_warning_of_what_nobody_said(bare):
    model, (message,) = warned(load_classifier, 'test_resnet', bare)
    size, mean = (model.pretrained_cfg[key] for key in ('input_size', 'mean'))
    assert (
        f'size {size[1]} x {size[2]}, mean {mean}' in message and '--img-size, --mean, --std, --crop-pct (' in message
    )
    _, (message,) = warned(load_classifier, 'test_resnet', bare, img_size=48, mean=0.5)
    assert 'assumed: std' in message and '--mean' not in message
    model, messages = warned(load_classifier, 'test_resnet', bare, **TOLD, probabilities='sigmoid')
    assert not messages
    config = Preprocessing(model).config
    assert (config['input_size'], config['mean'], config['std']) == ((3, 48, 48), MEAN, STD)
    assert record_of(model).probabilities == 'sigmoid'


def test_the_numbers_are_those_of_ones_own_loop(bare):
    model = load_classifier('test_resnet', bare, **TOLD)
    photo = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    own = (torch.from_numpy(photo / 255) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(Preprocessing(model)(Image.fromarray(photo))[0], own.permute(2, 0, 1).float())


def test_a_model_of_one_size_is_built_for_it(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model('test_vit', num_classes=3, img_size=64)
    torch.save(network.state_dict(), tmp_path / 'vit.pth')
    model = load_classifier('test_vit', tmp_path / 'vit.pth', img_size=64, mean=0.5, std=0.5, crop_pct=0.95)
    images = tiny_images(2)
    assert torch.equal(model(images), network.eval()(images)) and Preprocessing(model).config['input_size'][1] == 64


@pytest.mark.parametrize(
    ('told', 'message'),
    [
        (dict(mean=[0.1, 0.2]), 'mean must be one number, or one for each of 3 channels'),
        (dict(std=0.0), 'std must be a list of'),
        (dict(img_size=10**5), r'input_size must be \[channels, height, width\]'),
        (dict(probabilities='logistic'), 'probabilities must be one of'),
    ],
)
def test_what_cannot_be_told(bare, told, message):
    with pytest.raises(timm_abn.TimmAbnError, match=message):
        load_classifier('test_resnet', bare, **told)


@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.', 'model.', 'net.', 'model._orig_mod.module.'])
@pytest.mark.parametrize('place', ['state_dict', 'model', 'model_state_dict', None])
def test_checkpoints_of_other_loops(tmp_path, place, prefix):
    weights = tiny_backbone('test_resnet').state_dict()
    renamed = {f'{prefix}{name}': tensor for name, tensor in weights.items()}
    beside = dict(best_acc=np.float64(0.9), epoch=np.int64(3), is_best=np.bool_(True), lr=np.float32(0.1))
    torch.save(renamed if place is None else {place: renamed, **beside, 'hyper_parameters': {}}, tmp_path / 'it.ckpt')
    found, metadata = read_checkpoint(tmp_path / 'it.ckpt')
    assert found.keys() == weights.keys() and all(torch.equal(tensor, weights[name]) for name, tensor in found.items())
    assert place is None or (metadata['best_acc'], metadata['epoch']) == (0.9, 3)


def test_numbers_of_numpy_are_no_way_in(tmp_path):
    torch.save(dict(state_dict={}, array=np.zeros(2, dtype=object)), tmp_path / 'objects.pth')
    with pytest.raises(timm_abn.CheckpointError, match='is not a checkpoint, or is damaged'):
        read_checkpoint(tmp_path / 'objects.pth')


def saved(network, path, **settings):
    torch.save(dict(state_dict=network.state_dict(), args=argparse.Namespace(**settings)), path)
    return path


@unprepared
def test_the_file_alone(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model('abn_resnet20_cifar', num_classes=2)
    path = saved(network, tmp_path / 'it.pth', model='abn_resnet20_cifar', num_classes=2, output='runs/')
    assert recorded_model(path) == 'abn_resnet20_cifar'
    for name in ((), ('abn',), ('abn_resnet20_cifar',)):
        assert timm_abn.load_model(*name, checkpoint=path).config == network.config
    for name in ('abn_resnet18', 'cam_resnet50'):
        with pytest.raises(timm_abn.CheckpointError, match=f'is a checkpoint of abn_resnet20_cifar, not of {name}'):
            timm_abn.load_model(name, path)
    with pytest.raises(timm_abn.CheckpointError, match='is of hf-hub:me/it: pass --model NAME'):
        recorded_model(saved(network, tmp_path / 'it.pth', model='hf-hub:me/it'))
    with pytest.raises(timm_abn.CheckpointError, match='does not record its model'):
        recorded_model(saved(network, tmp_path / 'it.pth', model='\x1b[2J'))
    with pytest.raises(timm_abn.TimmAbnError, match='name a model .--model NAME., or pass a checkpoint'):
        timm_abn.load_model()


@unprepared
@pytest.mark.parametrize(
    ('settings', 'kind'),
    [({}, 'softmax'), (dict(task='multilabel'), 'sigmoid'), (dict(probabilities='sigmoid'), 'sigmoid')],
)
def test_a_checkpoint_says_what_its_outputs_mean(tmp_path, settings, kind):
    path = saved(tiny_abn('test_resnet'), tmp_path / 'it.pth', model='abn', **settings)
    model = timm_abn.load_model('abn', path, backbone='test_resnet')
    assert record_of(model).probabilities == kind and model.explain(tiny_images()).exclusive == (kind == 'softmax')
    with pytest.raises(timm_abn.CheckpointError, match='it.pth: probabilities must be'):
        timm_abn.load_model(
            'abn', saved(model, tmp_path / 'it.pth', model='abn', probabilities=3), backbone='test_resnet'
        )


@unprepared
@pytest.mark.parametrize('names', [['no', 'yes'], ['yes'], None])
def test_one_logit_has_two_names(tmp_path, names):
    network = tiny_backbone('test_resnet', num_classes=1)
    path = saved(network, tmp_path / 'it.pth', model='test_resnet', num_classes=1, label_names=names)
    model = load_classifier(checkpoint=path)
    assert num_answers(model) == 2
    expected = ['class 0', 'class 1'] if names is None else [names[0] if len(names) == 2 else 'not yes', 'yes']
    assert timm_abn.class_names(model) == expected


@unprepared
def test_a_folder_says_what_its_outputs_mean(tmp_path):
    labels = timm_abn.load_model(
        'abn', saved(tiny_abn('test_resnet'), tmp_path / 'it.pth'), backbone='test_resnet', probabilities='sigmoid'
    )
    save_hub_folder(labels, tmp_path / 'hub', '# card')
    address = f'local-dir:{tmp_path / "hub"}'
    for model in (timm.create_model(address, pretrained=True), timm_abn.load_model(address)):
        assert record_of(model).probabilities == 'sigmoid'
    assert record_of(timm_abn.load_model(address, num_classes=3)).probabilities == 'softmax'  # of other outputs
    plain = tiny_backbone('test_resnet')
    timm.models.save_for_hf(plain, tmp_path / 'p', model_config=dict(probabilities='sigmoid'), safe_serialization=True)
    assert record_of(load_classifier(f'local-dir:{tmp_path / "p"}')).probabilities == 'sigmoid'


def test_commands_need_a_model_or_a_file_that_says_it(bare, capsys):
    Image.new('RGB', (48, 48)).save('photo.png')
    for command in (['explain', 'photo.png'], ['compare', 'photo.png']):
        assert main(command) == 2
        assert 'pass --model NAME, or --checkpoint FILE if the file records its model' in capsys.readouterr().err
        assert main([*command, '--checkpoint', bare]) == 2
        assert 'bare.pth does not record its model: pass --model NAME' in capsys.readouterr().err
    command = ['compare', 'photo.png', '--model', 'test_resnet', '--checkpoint', bare, '--steps', '2']
    assert main([*command, '--methods', 'random', '--img-size', '48', '--mean', '0.5']) == 0
    assert capsys.readouterr().err.startswith('timm-abn: warning: bare.pth does not record how images were prepared; ')


def test_more_tensors_than_any_model_has_are_not_unpickled(tmp_path):
    with zipfile.ZipFile(tmp_path / 'many.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('many/data.pkl', bytes(2**23 + 1))
    with pytest.raises(timm_abn.TimmAbnError, match='many.pth lists its tensors in 8388609 bytes, more than 8388608'):
        load_classifier('test_resnet', tmp_path / 'many.pth')
