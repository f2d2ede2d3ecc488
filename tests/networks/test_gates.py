"""Gates: what each computes, which a backbone gets, how it is recorded, and that the map reaches the prediction."""

import copy
import warnings

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import get_model_args
from timm_abn.networks.mechanism import Mechanism, gate_of
from tiny_models import TINY_BACKBONES, attention_for, tiny_abn, tiny_images

from timm_abn import AttentionBranchNet, TimmAbnError
from timm_abn.explain.metrics import reliance
from timm_abn.networks.feature_layout import FeatureLayout

PVT = dict(backbone='pvt_v2_b0', embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))


def places(values):
    """Return two rows of two places, in double precision."""
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 2, 2)


FEATURES, MAP = places([1, 3, 5, 7]), places([0, 0.5, 1, 0.25])  # the mean is 4, distances to it -3, -1, 1, 3
BY_HAND = {
    ('features', 'residual'): places([1, 4.5, 10, 8.75]),
    ('features', 'product'): places([0, 1.5, 5, 1.75]),
    ('centred', 'residual'): places([1, 2.5, 6, 7.75]),
    ('centred', 'product'): places([4, 3.5, 5, 4.75]),
}


@pytest.mark.parametrize(('gate', 'mechanism'), BY_HAND)
def test_by_hand(gate, mechanism):
    expected = BY_HAND[gate, mechanism]
    maps = Mechanism(mechanism, gate=gate)
    torch.testing.assert_close(maps(FEATURES, MAP), expected, rtol=0, atol=1e-15)
    assert maps.attention_bias(FEATURES, MAP) is None
    nhwc = Mechanism(mechanism, FeatureLayout('NHWC'), gate)
    gated = nhwc(FEATURES.permute(0, 2, 3, 1), MAP)
    torch.testing.assert_close(gated, expected.permute(0, 2, 3, 1), rtol=0, atol=1e-15)
    # the class token is none of the places: not gated, and not part of the mean
    tokens = torch.cat([torch.full((1, 1, 1), 100.0, dtype=torch.float64), FEATURES.reshape(1, 4, 1)], dim=1)
    gated = Mechanism(mechanism, FeatureLayout('NLC', 1), gate)(tokens, MAP)
    torch.testing.assert_close(gated[:, 1:], expected.reshape(1, 4, 1), rtol=0, atol=1e-15)
    assert torch.equal(gated[:, :1], tokens[:, :1])
    # several maps of an image follow each other
    both = maps(FEATURES, torch.cat([MAP, torch.ones_like(MAP)], dim=1), 2)
    torch.testing.assert_close(both[:1], expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(both[1:], maps(FEATURES, torch.ones_like(MAP)), rtol=0, atol=1e-15)


def test_tokens_by_hand():
    mechanism = Mechanism('product', FeatureLayout('NLC', 1), 'tokens')
    tokens = torch.randn(1, 5, 3, dtype=torch.float64)
    centred = Mechanism('product', FeatureLayout('NLC', 1), 'centred')
    assert torch.equal(mechanism(tokens, MAP), centred(tokens, MAP))
    bias = mechanism.attention_bias(tokens, places([0, 0.499, 0.999, -3]))
    expected = torch.tensor([1.0, 0.001, 0.5, 1.0, 0.001], dtype=torch.float64).reshape(1, 1, 1, 5)
    torch.testing.assert_close(bias.exp(), expected, rtol=1e-12, atol=0)
    assert mechanism.attention_bias(tokens.half(), MAP).dtype == torch.half
    # scores of 0: each token is read in proportion to the map
    attention = torch.nn.functional.scaled_dot_product_attention(
        torch.zeros_like(tokens)[:, None], torch.zeros_like(tokens)[:, None], tokens[:, None], attn_mask=bias
    )
    weights = expected / expected.sum()
    torch.testing.assert_close(attention[0, 0, 0], (weights[0, 0, 0, :, None] * tokens[0]).sum(dim=0))


@pytest.mark.parametrize(
    ('arguments', 'gate'),
    [
        (dict(backbone='test_resnet'), 'features'),
        (dict(backbone='vgg11'), 'features'),
        (dict(backbone='test_nfnet'), 'features'),
        (dict(backbone='maxvit_tiny_tf_224'), 'features'),
        (dict(backbone='test_convnext'), 'centred'),
        (dict(backbone='test_convnext', split='stages.2.blocks.0'), 'centred'),
        (dict(backbone='convnext_zepto_rms'), 'centred'),
        (dict(backbone='swin_tiny_patch4_window7_224'), 'centred'),
        (PVT, 'centred'),
        (dict(backbone='resnet50_gn'), 'centred'),
        (dict(backbone='gmlp_ti16_224'), 'centred'),
        (dict(backbone='test_vit'), 'tokens'),
        (dict(backbone='test_vit', global_pool='avg'), 'tokens'),
        (dict(backbone='test_vit', global_pool='avg', split='blocks.5'), 'centred'),  # no block is left to read tokens
        (dict(backbone='test_vit_relpos'), 'centred'),  # its blocks take no mask
        (dict(backbone='vit_relpos_medium_patch16_rpn_224'), 'centred'),
    ],
)
def test_gate_fits_what_follows_the_cut(arguments, gate):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = timm.create_model('abn', device='meta', **arguments)
    assert model.config.gate == gate and f'gate={gate!r}' in repr(model)


@pytest.mark.parametrize(
    ('gate', 'message'),
    [
        ('norm', "gate must be one of 'features', 'centred', 'tokens', got 'norm'."),
        (
            'tokens',
            "gate='tokens' needs blocks after the cut that take a mask of attention, as those of timm's "
            "VisionTransformer do, got ResNet cut at 'layer3'; gate='centred' or 'features' fits.",
        ),
    ],
)
def test_gates_that_cannot_be(gate, message):
    with pytest.raises(TimmAbnError) as error:
        AttentionBranchNet('test_resnet', gate=gate)
    assert str(error.value) == message


UNDONE = "what follows undoes any factor of a place; choose gate='centred', or another split."
UNREAD = 'only the class token is read after it; choose an earlier split.'


@pytest.mark.parametrize(
    ('backbone', 'split', 'gate', 'ending'),
    [
        ('test_convnext', None, 'features', UNDONE),
        ('convnext_zepto_rms', None, 'features', UNDONE),
        ('test_vit', 'blocks.4', 'features', UNDONE),  # the one block that is left reads tokens behind its norm
        ('test_vit', 'blocks.5', 'features', UNREAD),
        ('test_vit', 'blocks.5', None, UNREAD),
        ('test_convnext', None, None, None),
        ('test_convnext', 'stages.2.blocks.0', 'features', None),
        ('test_vit', 'blocks.3', 'features', None),  # weak, but not undone
        ('test_vit', 'blocks.4', 'centred', None),
        ('test_vit', 'blocks.4', None, None),
        ('swin_tiny_patch4_window7_224', None, 'features', None),  # reacts to differences
        ('test_resnet', None, 'features', None),
    ],
)
def test_a_warning_names_a_map_without_effect_and_no_other(backbone, split, gate, ending):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model = tiny_abn(backbone, split=split, gate=gate) if backbone in TINY_BACKBONES else None
        model = model or timm.create_model('abn', backbone=backbone, gate=gate, num_classes=5).eval()
    messages = [str(warning.message) for warning in caught if warning.category is UserWarning]
    if ending is None:
        assert messages == []
    else:
        assert messages == [
            f'The attention map has no effect on predictions with gate={model.config["gate"]!r} and the cut at '
            f'{model.config.split!r}: {ending}'
        ]
    # and the warning is right: nothing of the order of the effect of a map remains but epsilons of norms
    with torch.no_grad():
        for parameter in model.perception_branch.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    assert (reliance(model, 3 * tiny_images(4)).is_cancelled) == (ending is not None)


def calibrated(model, images):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(('.gamma', '.ls1', '.ls2')):
                parameter.fill_(0.3)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
                module.reset_running_stats()
        model.train()(images)
    return model.eval()


@pytest.mark.parametrize(
    ('backbone', 'least'),
    [
        ('test_resnet', 0.05),
        ('test_convnext', 0.05),
        ('swin_tiny_patch4_window7_224', 0.05),
        ('pvt_v2_b0', 0.05),
        ('test_vit', 0.03),
    ],
)
def test_the_map_reaches_the_prediction(backbone, least):
    torch.manual_seed(0)
    arguments = PVT if backbone == 'pvt_v2_b0' else dict(backbone=backbone, **TINY_BACKBONES[backbone])
    model = timm.create_model('abn', num_classes=5, **arguments)
    images = tiny_images(8, size=(128, 128) if backbone in ('pvt_v2_b0', 'test_convnext') else (64, 64))
    effects = reliance(calibrated(model, images), images)
    assert effects['half'].effect >= least and effects['uniform'].effect >= least
    assert effects.findings == []


def test_layer_scale_near_zero_hides_a_factor_but_not_a_distance():
    images = tiny_images(4, size=(128, 128))
    for gate, has_effect in (('features', False), ('centred', True)):
        torch.manual_seed(0)
        arguments = dict(split='stages.2.blocks.0', ls_init_value=1e-6, num_classes=5)
        model = timm.create_model('abn', backbone='test_convnext', gate=gate, **arguments).eval()
        assert reliance(model, images)['half'].has_effect == has_effect


def test_a_new_gate_is_recorded_with_weights_and_arguments():
    model = tiny_abn('test_vit')
    assert model.state_dict()['mechanism.tokens_gate'].tolist() == 1
    assert get_model_args(model)['gate'] == 'tokens' and gate_of(model.state_dict()) == 'tokens'
    resnet = tiny_abn('test_resnet')
    assert not [name for name in resnet.state_dict() if name.startswith('mechanism.')]
    assert get_model_args(resnet)['gate'] == 'features'
    assert get_model_args(tiny_abn('test_vit', gate=None))['gate'] == 'tokens'


def old_weights(model):
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith('mechanism.')}


@pytest.mark.parametrize('backbone', ['test_vit', 'test_convnext'])
def test_weights_bring_their_gate_along(backbone, tmp_path):
    old, new = tiny_abn(backbone, gate='features'), tiny_abn(backbone)
    images = tiny_images()
    save_file({k: v.contiguous() for k, v in old.state_dict().items()}, tmp_path / 'old.safetensors')
    assert load_file(tmp_path / 'old.safetensors').keys() == old_weights(new).keys()
    # a new network follows old weights, also inside another module, and then again weights of its own kind
    model = tiny_abn(backbone)
    wrapper = torch.nn.Sequential(model)
    for source in (old, new, old):
        wrapper.load_state_dict({f'0.{name}': tensor for name, tensor in source.state_dict().items()})
        assert model.config == source.config and torch.equal(model(images), source(images))
        assert model.state_dict().keys() == source.state_dict().keys()
        assert get_model_args(model)['gate'] == source.config.gate
    # what is asked for comes first
    for gate, source in ((new.config.gate, old), ('features', new)):
        model = tiny_abn(backbone, gate=gate)
        model.load_state_dict(source.state_dict())
        assert model.config.gate == gate
    # weights of a part say nothing
    model = tiny_abn(backbone)
    model.load_state_dict({k: v for k, v in old.state_dict().items() if k.startswith('feature_')}, strict=False)
    assert model.config == new.config


def test_timm_loads_old_checkpoints_by_their_meaning(tmp_path):
    old = tiny_abn('test_vit', gate='features')
    torch.save(dict(state_dict=old.state_dict()), tmp_path / 'old.pth.tar')
    model = timm.create_model(
        'abn',
        backbone='test_vit',
        num_classes=5,
        checkpoint_path=tmp_path / 'old.pth.tar',
        **TINY_BACKBONES['test_vit'],
    ).eval()
    assert model.config.gate == 'features' and torch.equal(model(tiny_images()), old(tiny_images()))


def test_weights_of_a_later_version_are_refused():
    weights = tiny_abn('test_vit').state_dict()
    weights['mechanism.tokens_gate'] += 1
    with pytest.raises(TimmAbnError, match=r"version 2 of gate='tokens', of which this version of timm-abn knows 1"):
        tiny_abn('test_vit').load_state_dict(weights)


@pytest.mark.parametrize('enabled', [False, True])
def test_checkpointing_reaches_blocks_with_a_bias(enabled, monkeypatch):
    model = tiny_abn('test_vit').double().train()
    model.set_grad_checkpointing(enabled)
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing(False)
    calls = []
    checkpoint = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', lambda *a, **k: calls.append(k) or checkpoint(*a, **k))
    images = tiny_images(dtype=torch.float64)
    sum(output.square().sum() for output in model(images)).backward()
    assert len([call for call in calls if 'attn_mask' in call]) == (6 if enabled else 0)
    sum(output.square().sum() for output in twin(images)).backward()
    for parameter, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


@pytest.mark.parametrize('backbone', ['test_convnext', 'test_vit'])
def test_gradients_reach_the_map(backbone):
    model = tiny_abn(backbone).train()
    model(tiny_images(4))[0].logsumexp(1).sum().backward()
    assert model.attention_branch.map_conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('backbone', ['test_resnet', 'test_convnext', 'test_vit', 'swin_tiny_patch4_window7_224'])
@pytest.mark.parametrize('fused', [False, True])
def test_low_precision_and_memory_format(backbone, fused):
    gate = 'centred' if backbone == 'test_resnet' else None
    model, images = tiny_abn(backbone, gate=gate), tiny_images()
    for module in model.modules():
        if hasattr(module, 'fused_attn'):
            module.fused_attn = fused
    attention = attention_for(model, images)
    with torch.no_grad():
        expected = model(images, attention)
        with torch.autocast('cpu', torch.bfloat16):
            torch.testing.assert_close(model(images, attention).float(), expected, rtol=0.1, atol=0.1)
        twin = copy.deepcopy(model).bfloat16()
        low = twin(images.bfloat16(), attention.bfloat16())
        torch.testing.assert_close(low.float(), expected, rtol=0.1, atol=0.1)
        model = model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(images.to(memory_format=torch.channels_last), attention), expected)
