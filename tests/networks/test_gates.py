"""Gates: what each computes, which a backbone gets, how it is recorded, and that the map reaches the prediction."""

import copy
import warnings

import pytest
import timm
import torch
from timm.models import get_model_args
from tiny_models import (
    NUM_CLASSES,
    TINY_BACKBONES,
    TINY_SPLITS,
    attention_for,
    tiny_abn,
    tiny_around,
    tiny_backbone,
    tiny_images,
)

from timm_abn import AbnConfig, AttentionBranchNet, Features, MultiTaskAttentionBranchNet, TimmAbnError, load_model
from timm_abn.explain.metrics import reliance
from timm_abn.networks.feature_layout import FeatureLayout
from timm_abn.networks.gate import CentredGate, Gate, TokenGate, recorded_gate

# files of weights alone; tests/models/test_told.py is of the warning
pytestmark = pytest.mark.filterwarnings('ignore:.* does not record how images were prepared')

PVT = dict(backbone='pvt_v2_b0', embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))


def places(values):
    """Return two rows of two places, in double precision."""
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 2, 2)


FEATURES, MAP = places([1, 3, 5, 7]), places([0, 0.5, 1, 0.25])  # the mean is 4, distances to it -3, -1, 1, 3
# of the gate and the mechanism: what is left of the features under MAP
BY_HAND = {
    (Gate, 'residual'): places([1, 4.5, 10, 8.75]),
    (Gate, 'product'): places([0, 1.5, 5, 1.75]),
    (CentredGate, 'residual'): places([1, 2.5, 6, 7.75]),
    (CentredGate, 'product'): places([4, 3.5, 5, 4.75]),
}


@pytest.mark.parametrize(('gate', 'mechanism'), BY_HAND)
def test_by_hand(gate, mechanism):
    config = AbnConfig(mechanism=mechanism)
    expected = BY_HAND[gate, mechanism]
    gated = gate(config, FeatureLayout())(Features(FEATURES, [MAP]), MAP)
    torch.testing.assert_close(gated.x, expected, rtol=0, atol=1e-15)
    assert len(gated.side_inputs) == 1 and gated.side_inputs[0] is MAP  # side inputs pass as they are
    gated = gate(config, FeatureLayout('NHWC'))(Features(FEATURES.permute(0, 2, 3, 1), []), MAP)
    torch.testing.assert_close(gated.x, expected.permute(0, 2, 3, 1), rtol=0, atol=1e-15)
    assert gated.side_inputs == []
    # the class token is none of the places: not gated, and not part of the mean
    tokens = torch.cat([torch.full((1, 1, 1), 100.0, dtype=torch.float64), FEATURES.reshape(1, 4, 1)], dim=1)
    gated = gate(config, FeatureLayout('NLC', 1))(Features(tokens, []), MAP).x
    torch.testing.assert_close(gated[:, 1:], expected.reshape(1, 4, 1), rtol=0, atol=1e-15)
    assert torch.equal(gated[:, :1], tokens[:, :1])
    # relative to a flat map
    mean = 0 if gate is Gate else 4
    features = Features(FEATURES, [])
    neutral = gate(AbnConfig(mechanism=mechanism, init='neutral'), FeatureLayout())
    factor = (1 + MAP) / 1.5 if mechanism == 'residual' else MAP / 0.5
    torch.testing.assert_close(neutral(features, MAP).x, mean + (FEATURES - mean) * factor, rtol=0, atol=1e-14)
    assert torch.equal(neutral(features, torch.full_like(MAP, 0.5)).x, FEATURES)


def test_tokens_by_hand():
    config, layout = AbnConfig(mechanism='product'), FeatureLayout('NLC', 1)
    gate, tokens = TokenGate(config, layout), torch.randn(1, 5, 3, dtype=torch.float64)
    features = Features(tokens, [MAP])
    assert torch.equal(gate(features, MAP).x, CentredGate(config, layout)(features, MAP).x)
    attention_map = places([0, 0.499, 0.999, -3])
    other, bias = gate(features, attention_map).side_inputs
    read = torch.tensor([1.0, 0.001, 0.5, 1.0, 0.001], dtype=torch.float64).reshape(1, 1, 1, 5)
    torch.testing.assert_close(bias.exp(), read, rtol=1e-12, atol=0)
    assert other is MAP and gate(Features(tokens.half(), []), MAP).side_inputs[0].dtype == torch.half
    # scores of 0: each token is read in proportion to the map
    attention = torch.nn.functional.scaled_dot_product_attention(
        torch.zeros_like(tokens)[:, None], torch.zeros_like(tokens)[:, None], tokens[:, None], attn_mask=bias
    )
    weights = read / read.sum()
    torch.testing.assert_close(attention[0, 0, 0], (weights[0, 0, 0, :, None] * tokens[0]).sum(dim=0))
    # relative to a flat map
    neutral = TokenGate(AbnConfig(mechanism='product', init='neutral'), layout)
    relative = read / torch.tensor([1.0, 0.501, 0.501, 0.501, 0.501], dtype=torch.float64)
    torch.testing.assert_close(neutral(features, attention_map).side_inputs[1].exp(), relative)


@pytest.mark.parametrize(
    ('arguments', 'gate'),
    [
        (dict(backbone='test_resnet'), 'features'),
        (dict(backbone='vgg11'), 'features'),
        (dict(backbone='test_nfnet'), 'features'),
        pytest.param(dict(backbone='maxvit_tiny_tf_224'), 'features', marks=pytest.mark.slow),
        (dict(backbone='test_convnext'), 'centred'),
        (dict(backbone='test_convnext', split='stages.2.blocks.0'), 'centred'),
        (dict(backbone='convnext_zepto_rms'), 'centred'),
        (dict(backbone='swin_tiny_patch4_window7_224'), 'centred'),
        (PVT, 'centred'),
        (dict(backbone='resnet50_gn'), 'centred'),
        pytest.param(dict(backbone='gmlp_ti16_224'), 'centred', marks=pytest.mark.slow),
        (dict(backbone='test_vit'), 'tokens'),
        (dict(backbone='test_vit', global_pool='avg'), 'tokens'),
        (dict(backbone='test_vit', global_pool='avg', split='blocks.5'), 'centred'),  # no block is left to read tokens
        (dict(backbone='test_vit_relpos'), 'centred'),  # its blocks take no mask
        pytest.param(dict(backbone='vit_relpos_medium_patch16_rpn_224'), 'centred', marks=pytest.mark.slow),
    ],
)
def test_gate_fits_what_follows_the_cut(arguments, gate):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = timm.create_model('abn', device='meta', **arguments)
    assert model.config.gate == gate and f'gate={gate!r}' in repr(model)


UNDONE = "what follows undoes any factor at a position; choose gate='centred', or another split."
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
            f'The attention map has no effect on predictions with gate={model.config.gate!r} and the cut at '
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
    'backbone', ['test_resnet', 'test_convnext', 'swin_tiny_patch4_window7_224', 'pvt_v2_b0', 'test_vit']
)
def test_the_map_reaches_the_prediction(backbone):
    least = 0.03 if backbone == 'test_vit' else 0.05
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


def test_a_gate_and_an_init_are_recorded_with_weights_and_arguments():
    for backbone, arguments, records in (
        ('test_vit', {}, ['tokens_gate']),
        ('test_convnext', {}, ['centred_gate']),
        ('test_resnet', dict(init='neutral'), ['neutral_init']),
        ('test_vit', dict(init='neutral', gate=None), ['tokens_gate', 'neutral_init']),
        ('test_resnet', {}, []),
    ):
        model = tiny_abn(backbone, **arguments)
        weights, recorded = model.state_dict(), get_model_args(model)
        assert {name: weights[name].tolist() for name in weights if name.startswith('gate.')} == {
            f'gate.{name}': 1 for name in records
        }
        assert recorded_gate(weights) == (model.config.gate, model.config.init)
        assert (recorded['gate'], recorded.get('init', 'random')) == (model.config.gate, model.config.init)


@pytest.mark.parametrize('backbone', ['test_vit', 'test_convnext', 'test_resnet'])
def test_weights_of_another_gate_or_init_are_refused(backbone, tmp_path):
    own = tiny_abn(backbone).config
    images = tiny_images()
    for other in (dict(gate='centred' if backbone == 'test_resnet' else 'features'), dict(init='neutral')):
        source, model = tiny_abn(backbone, **other), tiny_abn(backbone)
        said = (
            f'the weights are for a network with gate={source.config.gate!r} and init={source.config.init!r}, not for'
        )
        for wrapper, prefix in ((model, ''), (torch.nn.Sequential(model), '0.')):
            weights = {f'{prefix}{name}': tensor for name, tensor in source.state_dict().items()}
            with pytest.raises(TimmAbnError, match=said) as error:
                wrapper.load_state_dict(weights)
            assert '\n' not in str(error.value) and f'gate={own.gate!r} and init={own.init!r}' in str(error.value)
        assert model.config == own and torch.equal(model(images), tiny_abn(backbone)(images))  # nothing was loaded
        # weights of a part say nothing
        model.load_state_dict(
            {name: tensor for name, tensor in source.state_dict().items() if name.startswith('feature_')}, strict=False
        )
        # timm refuses them, too; load_model builds the network that they are of, unless another is asked for
        path = tmp_path / 'weights.pth.tar'
        torch.save(dict(state_dict=source.state_dict()), path)
        arguments = dict(backbone=backbone, split=TINY_SPLITS.get(backbone), **TINY_BACKBONES[backbone])
        with pytest.raises(TimmAbnError, match=said):
            timm.create_model('abn', checkpoint_path=path, num_classes=NUM_CLASSES, **arguments)
        loaded = load_model('abn', path, **arguments)
        assert loaded.config == source.config and torch.equal(loaded(images), source(images))
        with pytest.raises(TimmAbnError) as error:
            load_model('abn', path, **arguments, gate=own.gate, init=own.init)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize(('arguments', 'record'), [({}, 'tokens_gate'), (dict(init='neutral'), 'neutral_init')])
def test_weights_of_a_later_version_are_refused(arguments, record):
    weights = tiny_abn('test_vit', **arguments).state_dict()
    weights[f'gate.{record}'] += 1
    with pytest.raises(TimmAbnError, match=f"version 2 of '{record}', but this .* knows 1: update it"):
        tiny_abn('test_vit', **arguments).load_state_dict(weights)


@pytest.mark.parametrize('mechanism', ['residual', 'product'])
@pytest.mark.parametrize('name', TINY_BACKBONES)
def test_a_neutral_network_predicts_at_first_what_its_backbone_does(name, mechanism):
    backbone, model = tiny_around(AttentionBranchNet, name, mechanism=mechanism)
    images = tiny_images(8)
    expected, found = backbone(images), model(images)
    assert model.config.init == 'neutral'
    assert torch.equal(found.argmax(dim=1), expected.argmax(dim=1))
    assert (found - expected).norm() <= 1e-6 * expected.norm()
    if model.config.gate == 'features':
        assert torch.equal(found, expected)
    # that of the paper changes a lot
    random = tiny_around(AttentionBranchNet, name, mechanism=mechanism, init='random')[1]
    assert (random(images) - expected).norm() > 1e-3 * expected.norm()


@pytest.mark.parametrize('name', TINY_BACKBONES)
def test_maps_start_flat_and_gradients_reach_the_branch_after_the_first_step(name):
    _, model = tiny_around(AttentionBranchNet, name)
    images = tiny_images(8)
    assert (model.explain(images).attention_map == 0.5).all()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = model.attention_branch.stage.state_dict(keep_vars=True).values()
    gradients = []
    for _ in range(2):
        optimizer.zero_grad()
        logits, _ = model.train()(images)  # of the perception branch alone, so that they come through the gate
        torch.nn.functional.cross_entropy(logits, torch.arange(8) % NUM_CLASSES).backward()
        of_stage = sum(weight.grad.abs().sum() for weight in weights if weight.requires_grad)
        gradients.append((model.attention_branch.map_norm.weight.grad.abs().sum(), of_stage))
        optimizer.step()
    (scale, before), (_, after) = gradients
    assert scale > 0 and before == 0 and after > 0
    model.reset_classifier(3)  # a new one starts flat
    assert (model.eval().explain(images).attention_map == 0.5).all()


def test_tasks_start_neutral_too():
    backbone = tiny_backbone('resnet20_cifar', num_classes=2 * NUM_CLASSES).eval()
    model = MultiTaskAttentionBranchNet(copy.deepcopy(backbone), num_classes=NUM_CLASSES).eval()
    images = tiny_images()
    no_and_yes = backbone(images).view(-1, NUM_CLASSES, 2)
    torch.testing.assert_close(model(images), no_and_yes[..., 1] - no_and_yes[..., 0])


@pytest.mark.parametrize('kwargs', [dict(hard_attention=0.3, mechanism='product'), dict(attention_map='sum_log')])
def test_what_cannot_be_neutral_says_so(kwargs):
    with pytest.warns(UserWarning, match='does not start with its backbone.s predictions'):
        _, model = tiny_around(AttentionBranchNet, 'resnet20_cifar', **kwargs)
    assert model.config.init == 'random'


def test_new_networks_gate_as_in_the_paper():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = timm.create_model('abn_resnet20_cifar')
    assert model.config.init == 'random' and 'init' not in get_model_args(model)
    assert model.config.gate == 'features'
    assert not [name for name in model.state_dict() if name.startswith('gate.')]


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
