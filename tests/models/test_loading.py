"""Trained models by name, from an address, and from checkpoints: what loads, and what is refused in one line."""

import argparse

import pytest
import safetensors.torch
import timm
import torch
from tiny_models import tiny_images

import timm_abn
from timm_abn import AttachedNet, TimmAbnError, load_model
from timm_abn.models.loading import EXPLAINING, load_classifier, model_names
from timm_abn.publish.folder import save_hub_folder

# files of weights alone; tests/models/test_told.py is of the warning
pytestmark = pytest.mark.filterwarnings('ignore:.* does not record how images were prepared')

MODEL = 'abn_resnet20_cifar.fashion_mnist'


def saved(network, path, **settings):
    torch.save(dict(state_dict=network.state_dict(), args=argparse.Namespace(**settings)), path)
    return path


def assert_same_weights(model, other):
    assert not model.training
    expected = other.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_names():
    assert model_names('abn_resnet1*') == timm.list_models('abn_resnet1*')
    assert model_names() == [*timm.list_models('abn*'), 'attached', *timm.list_models('cam_*')]


def test_shipped_weights():
    model = load_model(MODEL)
    assert_same_weights(model, timm.create_model(MODEL, pretrained=True))
    assert timm_abn.class_names(model)[9] == 'ankle boot'


@pytest.mark.parametrize('as_text', [True, False])
def test_bare_weights(tmp_path, as_text):
    torch.manual_seed(0)
    model = timm.create_model('abn', backbone='test_resnet', num_classes=7)
    path = tmp_path / 'weights.safetensors'
    safetensors.torch.save_file(model.state_dict(), path)
    loaded = load_model('abn', checkpoint=str(path) if as_text else path, backbone='test_resnet')
    assert_same_weights(loaded, model)
    assert loaded.num_classes == 7


@pytest.mark.parametrize('loaded_as', ['', '.fashion_mnist_faithful', '.fashion_mnist'])
@pytest.mark.parametrize(
    ('trained_as', 'settings', 'mechanism', 'hard_attention'),
    [
        ('', {}, 'residual', 1.0),
        ('.fashion_mnist_faithful', {}, 'product', 0.3),
        ('.fashion_mnist_faithful', dict(model_kwargs=dict(hard_attention=1.0)), 'product', 1.0),
        ('.fashion_mnist', {}, 'residual', 1.0),
    ],
)
def test_a_checkpoint_knows_its_network_whatever_name_it_is_loaded_under(
    tmp_path, loaded_as, trained_as, settings, mechanism, hard_attention
):
    name = 'abn_resnet20_cifar'
    kwargs = dict(mechanism=mechanism, hard_attention=hard_attention, num_classes=10, in_chans=1)
    model = timm.create_model(name, **kwargs).eval()
    recorded = dict(model=f'{name}{trained_as}', num_classes=10, in_chans=1, input_size=[1, 28, 28])
    path = saved(model, tmp_path / 'last.pth.tar', **{**recorded, **settings})
    loaded = load_model(f'{name}{loaded_as}', checkpoint=path)
    assert loaded.config == model.config
    assert torch.equal(loaded(tiny_images(size=(28, 28))[:, :1]), model(tiny_images(size=(28, 28))[:, :1]))


def test_folder(tmp_path):
    network = timm.create_model('abn', backbone='test_resnet', num_classes=5)
    cfg = dict(num_classes=5, label_names=list('abcde'), mean=(0.5, 0.5, 0.5))
    save_hub_folder(network, tmp_path / 'hub', '# card', pretrained_cfg=cfg)
    model = load_model(f'local-dir:{tmp_path / "hub"}')
    assert not model.training and model.num_classes == 5
    assert model.pretrained_cfg['mean'] == [0.5, 0.5, 0.5]
    assert timm_abn.class_names(model) == list('abcde')


def test_training_checkpoint_says_itself_what_it_is_of(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model('abn', backbone='test_resnet', num_classes=4, mechanism='product')
    settings = dict(
        model='abn', model_kwargs=dict(backbone='test_resnet', mechanism='product'), mean=[0.1, 0.2, 0.3], crop_pct=1.0
    )
    path = saved(model, tmp_path / 'model.pth.tar', **settings)
    loaded = load_model('abn', path)
    assert_same_weights(loaded, model)
    assert loaded.config.mechanism == 'product'
    assert loaded.pretrained_cfg['mean'] == (0.1, 0.2, 0.3) and loaded.pretrained_cfg['crop_pct'] == 1.0
    assert load_model('abn', path, mechanism='residual').config.mechanism == 'residual'


def test_a_checkpoint_knows_the_names_of_its_classes(tmp_path):
    model = timm.create_model('abn', backbone='test_resnet', num_classes=3)
    recorded = dict(model='abn', model_kwargs=dict(backbone='test_resnet'), num_classes=3)
    path = saved(model, tmp_path / 'last.pth.tar', **recorded, label_names=['ant', 'bee', 'cat'])
    assert timm_abn.class_names(load_model('abn', path)) == ['ant', 'bee', 'cat']
    path = saved(model, tmp_path / 'last.pth.tar', **recorded, label_names=['ant', 'bee'])  # of other classes
    assert timm_abn.class_names(load_model('abn', path)) == ['class 0', 'class 1', 'class 2']
    for names in ('abc', [1, 2, 3]):
        path = saved(model, tmp_path / 'last.pth.tar', **recorded, label_names=names)
        with pytest.raises(TimmAbnError, match='label_names'):
            load_model('abn', path)


def test_cam_baseline_from_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model('cam_resnet110_cifar', num_blocks=1, num_classes=6)
    bare = tmp_path / 'weights.pth'
    torch.save(model.state_dict(), bare)
    loaded = load_model('cam_resnet110_cifar', bare, num_blocks=1)
    assert_same_weights(loaded, model)
    recorded = saved(
        model, tmp_path / 'model.pth.tar', model='cam_resnet110_cifar', model_kwargs=dict(num_blocks=1), num_classes=6
    )
    assert_same_weights(load_model('cam_resnet110_cifar', recorded), model)
    explanation = loaded.explain(tiny_images(2, size=(32, 32)))
    assert explanation.logits.shape == (2, 6) and explanation.attention_map.shape == (2, 1, 16, 16)
    assert isinstance(loaded, EXPLAINING)


@pytest.mark.parametrize(
    ('name', 'kwargs', 'message'),
    [
        ('cam_resnet50', {}, 'no weights are published for cam_resnet50: '),
        ('attached', {}, 'attached: name a classifier directly, or refine one with timm-abn attach. Or '),
        ('cam_resnet5', {}, 'cam_resnet5 is not a model; did you mean cam_resnet50'),
        ('test_resnet.x', {}, "test_resnet has no weights 'x'"),
        ('resnet26t_', {}, 'resnet26t_ is not a model; did you mean'),
        ('xyz', {}, 'xyz is not a model; see timm.list_models'),
        ('', {}, 'is not a model'),
        (f'{MODEL}x', {}, "abn_resnet20_cifar has no weights 'fashion_mnistx'; there are abn_resnet20_cifar.fash"),
        (MODEL, dict(num_classes=3), 'are for 10 classes, not 3'),
        (MODEL, dict(nonsense=3), f'{MODEL} cannot be created with nonsense=3: '),
        (MODEL, dict(pretrained=False, nonsense=3), f'{MODEL} cannot be created with nonsense=3: '),
        (MODEL, dict(name='x'), f"{MODEL} cannot be created with name='x': "),
        (MODEL, dict(checkpoint='missing.pth'), 'there is no checkpoint missing.pth'),
        (None, dict(checkpoint='published'), 'published: it is a folder, which --model local-dir:published loads'),
        ('abn_resnet18', dict(checkpoint='abn.pth.tar'), 'is a checkpoint of abn, not of abn_resnet18'),
        ('abn', dict(checkpoint='abn.pth.tar', num_classes=3), 'instead of (3, '),
        ('abn', dict(checkpoint='text.pth'), 'text.pth is not a checkpoint, or is damaged'),
        ('local-dir:missing', {}, 'local-dir:missing cannot be created: missing: there is no config.json'),
        ('nonsense:missing', {}, 'nonsense:missing cannot be created: '),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, name, kwargs, message):
    monkeypatch.chdir(tmp_path)
    network = timm.create_model('abn', backbone='test_resnet', num_classes=5)
    saved(network, tmp_path / 'abn.pth.tar', model='abn', model_kwargs=dict(backbone='test_resnet'), num_classes=5)
    (tmp_path / 'text.pth').write_text('no checkpoint')
    (tmp_path / 'published').mkdir()
    (tmp_path / 'published' / 'config.json').touch()
    with pytest.raises(TimmAbnError) as error:
        load_model(name, **kwargs)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_model_that_explains_nothing(monkeypatch):
    monkeypatch.setattr('timm_abn.models.creating.check_address', lambda name: {})
    monkeypatch.setattr(timm, 'create_model', lambda *args, **kwargs: torch.nn.Identity())
    with pytest.raises(TimmAbnError, match='forward_head; Identity has none'):
        load_model('hf-hub:a/b')


def test_classifier_without_a_map(tmp_path):
    network = timm.create_model('test_resnet', num_classes=3)
    saved(network, tmp_path / 'plain.pth')
    model = load_classifier('test_resnet', tmp_path / 'plain.pth', num_classes=3)
    assert_same_weights(model, network)
    assert not model.training
    attached = load_model('test_resnet', tmp_path / 'plain.pth', num_classes=3)
    assert isinstance(attached, AttachedNet) and isinstance(attached, EXPLAINING)
    assert_same_weights(attached.backbone, network)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('resnet5', 'resnet5 is not a model; did you mean resnet50, '),
        ('resnet50.of_nobody', "resnet50 has no weights 'of_nobody'; there are resnet50.a1_in1k"),
        ('test_byobnet_no', 'is not a model'),
        ('resnet20_cifar', 'resnet20_cifar has no pretrained weights; pass weights as checkpoint'),
    ],
)
def test_classifiers_that_are_refused(name, message):
    with pytest.raises(TimmAbnError, match=message):
        load_classifier(name)


def test_bare_weights_of_a_classifier_tell_its_classes(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model('test_resnet', num_classes=4)
    torch.save(network.state_dict(), tmp_path / 'weights.pth')
    assert_same_weights(load_classifier('test_resnet', tmp_path / 'weights.pth'), network)
    timm.models.save_for_hf(network, tmp_path / 'hub', safe_serialization=True)
    assert_same_weights(load_classifier(f'local-dir:{tmp_path / "hub"}'), network)
