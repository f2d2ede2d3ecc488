"""The models by name, their configurations, and where their weights come from."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiers import fast_and_slow
from timm.models import get_pretrained_cfg, save_for_hf
from tiny_models import NUM_CLASSES, TINY_BACKBONES, tiny_backbone, tiny_images

from timm_abn import TimmAbnError, class_names
from timm_abn.hub.config import HubError

# DESIGN.md, section 5
NAMES = [
    f'abn_{backbone}'
    for backbone in (
        'resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d seresnet50 seresnet101 seresnet152 '
        'vgg16 vgg16_bn densenet121 efficientnet_b0 convnext_tiny swin_tiny_patch4_window7_224 '
        'vit_small_patch16_224 resnet20_cifar resnet32_cifar resnet44_cifar resnet56_cifar resnet110_cifar '
        'wrn28_4_cifar wrn28_10_cifar densenet100_12_cifar resnext29_8x64d_cifar'
    ).split()
]
QUICK = ('abn_resnet18', 'abn_vgg16', 'abn_efficientnet_b0', 'abn_vit_small_patch16_224', 'abn_resnet20_cifar')
K_DEPENDENT = {
    f'attention_branch.{name}' for name in ('class_conv', 'class_norm', 'classifier', 'map_conv', 'map_norm')
}


def as_tuple(names):
    return names if isinstance(names, (tuple, list)) else (names,)


def k_dependent(name):
    return name.rpartition('.')[0] in K_DEPENDENT


def test_names_are_registered():
    assert {'abn', *NAMES} <= set(timm.list_models(module='abn_models'))


@pytest.mark.parametrize('name', fast_and_slow(NAMES, QUICK))
def test_configuration_is_that_of_the_backbone(name):
    cfg, backbone_cfg = get_pretrained_cfg(name), get_pretrained_cfg(name.removeprefix('abn_'))
    for field in ('mean', 'std', 'input_size', 'interpolation', 'crop_pct', 'num_classes', 'pool_size'):
        assert getattr(cfg, field) == getattr(backbone_cfg, field), field
    model = timm.create_model(name, device='meta')
    names = {parameter_name for parameter_name, _ in model.named_parameters()}
    for first_conv in as_tuple(cfg.first_conv):
        assert first_conv.startswith('feature_extractor.') and f'{first_conv}.weight' in names
        assert model.get_submodule(first_conv).weight.shape[1] == cfg.input_size[0]
    for classifier in as_tuple(cfg.classifier):
        assert classifier.startswith('perception_branch.') and f'{classifier}.weight' in names
        assert model.get_submodule(classifier).weight.shape[0] == cfg.num_classes == model.num_classes


@pytest.mark.parametrize('name', ['abn', 'abn_resnet18', 'abn_seresnet18', 'abn_vgg16_bn'])
def test_arguments_to_build_the_model_again_are_json(name):
    model = timm.create_model(name, device='meta', num_classes=3, mechanism='product', pretrained_backbone=False)
    assert json.loads(json.dumps(model._model_args)) == dict(num_classes=3, mechanism='product', gate='features')


@pytest.mark.parametrize('backbone', ['mobilenetv3_small_050', 'regnetx_002', 'test_convnext.r160_in1k'])
def test_abn_goes_over_any_backbone(backbone):
    model = timm.create_model('abn', backbone=backbone, num_classes=4).eval()
    cfg = get_pretrained_cfg(backbone)
    assert model.default_cfg['mean'] == cfg.mean
    assert model.default_cfg['input_size'] == cfg.input_size
    assert model.default_cfg['architecture'] == 'abn'
    assert model(tiny_images()).shape == (2, 4)


@pytest.mark.parametrize(
    ('name', 'suggestion'), [('resnet5O', 'did you mean resnet50'), ('xyzzy-42', r'see timm\.list_models')]
)
def test_unknown_backbone(name, suggestion):
    with pytest.raises(ValueError, match=f'Unknown backbone {name!r}.*{suggestion}') as error:
        timm.create_model('abn', backbone=name)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'arguments',
    [
        dict(model_name='abn_resnet18', pretrained=True),
        dict(model_name='abn', backbone='test_resnet', pretrained=True),
        dict(model_name='abn', backbone='resnet20_cifar', pretrained_backbone=True),
    ],
)
def test_weights_that_do_not_exist_are_an_error(arguments):
    # of our own names we say how to get weights (tests/test_published.py), of other backbones timm says its own
    with pytest.raises((HubError, RuntimeError), match='(?i)^no (pretrained )?weights [^\n]*$'):
        timm.create_model(**arguments)


@pytest.mark.parametrize(
    ('backbone', 'copied_stage'),
    [
        ('resnet20_cifar', 'layer3.'),
        ('test_resnet', 'layer4.'),
        ('test_convnext', None),
        ('test_vit', None),
        ('swin_tiny_patch4_window7_224', None),
    ],
)
def test_backbone_weights_fill_both_halves_and_the_copied_stage(tmp_path, backbone, copied_stage):
    weights = tiny_backbone(backbone).state_dict()
    save_file(weights, tmp_path / 'backbone.safetensors')
    torch.manual_seed(1)
    model = timm.create_model(
        'abn',
        backbone=backbone,
        pretrained_backbone=str(tmp_path / 'backbone.safetensors'),
        num_classes=NUM_CLASSES,
        **TINY_BACKBONES[backbone],
    )
    found = set()
    for name, tensor in model.state_dict().items():
        half, _, own_name = name.partition('.')
        if half == 'attention_branch':
            if not copied_stage or not own_name.startswith('stage.'):
                continue
            own_name = copied_stage + own_name.removeprefix('stage.')
        if half == 'gate':
            continue  # its records
        found.add(own_name)
        assert torch.equal(tensor, weights[own_name]), name
    assert found == set(weights)
    assert 'pretrained_backbone' not in model._model_args


def test_backbone_weights_of_other_classes_and_channels(tmp_path):
    weights = tiny_backbone('test_resnet', num_classes=7).state_dict()
    torch.save({'state_dict': weights}, tmp_path / 'backbone.pth')
    model = timm.create_model(
        'abn', backbone='test_resnet', pretrained_backbone=str(tmp_path / 'backbone.pth'), num_classes=3, in_chans=1
    )
    torch.testing.assert_close(
        model.feature_extractor.conv1[0].weight, weights['conv1.0.weight'].sum(dim=1, keepdim=True)
    )
    assert torch.equal(model.perception_branch.layer4[0].conv1.weight, weights['layer4.0.conv1.weight'])
    assert model.perception_branch.fc.weight.shape == (3, weights['fc.weight'].shape[1])


def test_backbone_files_that_hold_no_such_weights(tmp_path):
    def error_with(name):
        with pytest.raises(ValueError) as error:
            timm.create_model('abn', backbone='test_resnet', pretrained_backbone=str(tmp_path / name))
        assert '\n' not in str(error.value) and len(str(error.value)) < 500
        return str(error.value)

    assert 'there is no checkpoint' in error_with('missing.pth')
    (tmp_path / 'junk.pth').write_bytes(b'junk')
    (tmp_path / 'junk.safetensors').write_bytes(b'junk')
    assert 'is not a checkpoint, or is damaged' in error_with('junk.pth')
    assert 'is not a checkpoint, or is damaged' in error_with('junk.safetensors')
    torch.save(tiny_backbone('test_vit').state_dict(), tmp_path / 'vit.pth')
    assert 'does not hold weights of test_resnet' in error_with('vit.pth')
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'vit.pth').read_bytes()[:5000])
    assert 'is not a checkpoint, or is damaged' in error_with('cut.pth')


@pytest.fixture
def trained(tmp_path):
    """Return an ABN of 7 classes and the file of its weights."""
    torch.manual_seed(0)
    model = timm.create_model('abn_resnet20_cifar', num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / 'abn.safetensors')
    return model, dict(file=str(tmp_path / 'abn.safetensors'), num_classes=7)


def load(overlay, **arguments):
    return timm.create_model('abn_resnet20_cifar', pretrained=True, pretrained_cfg_overlay=overlay, **arguments).eval()


def test_weights_of_other_classes_leave_out_what_depends_on_them(trained, caplog):
    model, overlay = trained
    other = load(overlay, num_classes=3)
    weights = model.state_dict()
    differing = {name for name, tensor in other.state_dict().items() if not torch.equal(tensor, weights[name])}
    assert differing <= {name for name in weights if k_dependent(name) or name.startswith('perception_branch.fc.')}
    assert {f'attention_branch.{name}.weight' for name in ('class_conv', 'classifier', 'map_conv')} < differing
    assert 'Unexpected keys' not in caplog.text
    assert torch.isfinite(other(tiny_images())).all()


def test_weights_without_a_classifier_keep_the_attention_map(trained):
    model, overlay = trained
    headless = load(overlay, num_classes=0)
    images = tiny_images()
    assert torch.equal(headless.explain(images).attention_map, model.explain(images).attention_map)
    assert torch.equal(headless.explain(images).class_maps, model.explain(images).class_maps)
    assert headless(images).shape == (2, 64)


@pytest.mark.parametrize('in_chans', [1, 4])
def test_weights_of_other_channels_are_adapted_as_timm_does(trained, in_chans):
    model, overlay = trained
    other = load(overlay, num_classes=7, in_chans=in_chans)
    weight = model.feature_extractor.conv1.weight
    expected = weight.sum(dim=1, keepdim=True) if in_chans == 1 else weight[:, [0, 1, 2, 0]] * 3 / 4
    torch.testing.assert_close(other.feature_extractor.conv1.weight, expected)
    weights = other.state_dict()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, weights[name])}
    assert changed == {'feature_extractor.conv1.weight'}


def test_weights_that_do_not_fit_are_an_error(trained):
    _, overlay = trained
    with pytest.raises(RuntimeError, match='class_conv'):
        load(dict(overlay, num_classes=3), num_classes=3)


def test_shipped_weights_take_other_classes_and_channels():
    shipped = timm.create_model('abn_resnet20_cifar.fashion_mnist', pretrained=True).eval()
    assert shipped.num_classes == 10 and shipped.in_chans == 1
    other = timm.create_model('abn_resnet20_cifar.fashion_mnist', pretrained=True, in_chans=3, num_classes=4).eval()
    assert other(tiny_images(size=(28, 28))).shape == (2, 4)
    assert torch.equal(other.perception_branch.layer3[0].conv1.weight, shipped.perception_branch.layer3[0].conv1.weight)


def test_names_of_an_overlay_stay_with_another_number_of_classes(tmp_path):
    def create(num_classes):
        overlay = dict(label_names=['ant', 'bee', 'cat'])
        arguments = dict(backbone='resnet20_cifar', num_classes=num_classes, pretrained_cfg_overlay=overlay)
        return timm.create_model('abn', **arguments)

    save_for_hf(create(3), tmp_path, safe_serialization=True)
    assert class_names(timm.create_model(f'local-dir:{tmp_path}', pretrained=True)) == ['ant', 'bee', 'cat']
    with pytest.raises(TimmAbnError, match='pretrained_cfg_overlay has 3 label_names for 5 classes'):
        create(5)
