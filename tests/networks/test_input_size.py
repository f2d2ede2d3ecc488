"""Networks for images of another size than they were built for: set_input_size, dynamic_img_size, dynamic_img_pad."""

import copy

import pytest
import timm
import torch
from timm.models import get_model_args, get_model_input_config
from tiny_models import tiny_abn, tiny_images

from timm_abn import SplitError, TimmAbnError


def rebuilt(model, backbone, **kwargs):
    """Return a network that was built for another size, with the weights of ``model``."""
    other = tiny_abn(backbone, **kwargs)
    other.load_state_dict(model.state_dict())
    return other.eval()


@pytest.mark.parametrize(
    ('backbone', 'sizes', 'kwargs', 'arguments'),
    [
        ('test_vit', [(96, 96), (32, 64)], {}, {}),
        ('test_vit', [(64, 64)], {'patch_size': (8, 8)}, {'patch_size': (8, 8)}),
        ('swin_tiny_patch4_window7_224', [(128, 128)], {}, {'window_size': 4}),  # timm: an eighth of the grid
        pytest.param(
            'swin_tiny_patch4_window7_224',
            [(96, 96), (192, 96)],
            {'window_size': 3},
            {'window_size': 3},
            marks=pytest.mark.slow,
        ),
        ('test_resnet', [(96, 64)], {}, {}),
    ],
)
@pytest.mark.filterwarnings('ignore:torch.searchsorted', 'ignore:Using a non-tuple')  # timm's interpolation
def test_equals_a_network_built_for_that_size(backbone, sizes, kwargs, arguments):
    model = tiny_abn(backbone)
    for size in sizes:
        model.set_input_size(size, **kwargs)
        takes_size = backbone != 'test_resnet'
        expected = rebuilt(model, backbone, **arguments, **({'img_size': size} if takes_size else {}))
        images = tiny_images(size=size)
        with torch.no_grad():
            assert torch.equal(model(images), expected(images))
            assert torch.equal(model.forward_features(images), expected.forward_features(images))
        assert model.explain(images).attention_map.shape == expected.explain(images).attention_map.shape
        assert model.layout.reduction == expected.layout.reduction and model.gate.layout is model.layout
        if takes_size:
            assert get_model_input_config(model)['input_size'] == (3, *size)
            again = timm.create_model('abn', **get_model_args(model)).eval()  # what timm saves with the weights
            again.load_state_dict(model.state_dict())
            with torch.no_grad():
                assert torch.equal(model(images), again(images))


def test_parameters_keep_their_identity_and_their_flags():
    model = tiny_abn('test_vit').train()
    model.requires_grad_(False)
    kept = {name: parameter for name, parameter in model.named_parameters() if 'pos_embed' not in name}
    model.set_input_size((96, 96))
    parameters = dict(model.named_parameters())
    assert list(parameters)[-1].startswith('perception_branch.')
    assert all(parameters[name] is parameter for name, parameter in kept.items())
    assert not any(parameter.requires_grad for parameter in parameters.values())
    assert parameters['feature_extractor.pos_embed'].shape[1] == 36 + 1


@pytest.mark.parametrize(
    ('backbone', 'size', 'kwargs', 'error', 'message'),
    [
        ('test_vit', (63, 64), {}, SplitError, 'split'),
        ('test_resnet', (64, 64), {'window_size': 3}, TimmAbnError, 'ResNet has no set_input_size'),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(backbone, size, kwargs, error, message):
    model = tiny_abn(backbone)
    images = tiny_images()
    before = copy.deepcopy(model)
    with pytest.raises(error, match=message):
        model.set_input_size(size, **kwargs)
    assert torch.equal(model(images), before(images)) and repr(model) == repr(before)


def test_a_backbone_of_one_size_and_a_pruned_network_are_refused_by_name():
    model = timm.create_model('abn', backbone='mixer_s32_224', num_classes=2, device='meta')
    with pytest.raises(TimmAbnError, match='MlpMixer has no set_input_size'):
        model.set_input_size((64, 64))
    model = tiny_abn('test_vit')
    model.prune_intermediate_layers([0])
    with pytest.raises(TimmAbnError, match='needs both halves'):
        model.set_input_size((96, 96))


@pytest.mark.parametrize('size', [(64, 64), (70, 90), (32, 33)])
def test_padded_images_have_a_token_for_what_is_left_over(size):
    model = tiny_abn('test_vit', dynamic_img_size=True, dynamic_img_pad=True)
    patch = model.feature_extractor.patch_embed.patch_size[0]
    images = tiny_images(size=size)
    padded = torch.nn.functional.pad(images, (0, -size[1] % patch, 0, -size[0] % patch))
    with torch.no_grad():
        explanation = model.explain(images)
        assert explanation.attention_map.shape[2:] == (-(-size[0] // patch), -(-size[1] // patch))
        torch.testing.assert_close(explanation.logits, model(padded))
        torch.testing.assert_close(model(images), model(padded))
