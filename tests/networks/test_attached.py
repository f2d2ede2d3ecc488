"""AttachedNet: a trained backbone as it is with a branch that explains it; and what checkpoints say of networks."""

import argparse

import pytest
import timm
import torch
from tiny_models import NUM_CLASSES, TINY_BACKBONES, attention_for, tiny_abn, tiny_around, tiny_backbone, tiny_images

from timm_abn import AttachedNet, AttentionBranchNet, TimmAbnError, load_model
from timm_abn.explain.metrics import reliance
from timm_abn.publish.folder import save_hub_folder

# files of weights alone; tests/models/test_told.py is of the warning
pytestmark = pytest.mark.filterwarnings('ignore:.* does not say how images were prepared')


@pytest.mark.parametrize('name', TINY_BACKBONES)
def test_the_prediction_is_that_of_the_backbone_to_the_last_bit(name):
    backbone, model = tiny_around(AttachedNet, name)
    images = tiny_images(4)
    attention = attention_for(tiny_abn(name), images)
    with torch.no_grad():
        expected = backbone(images)
        explanation = model.explain(images)
        assert explanation.attention_map.std() > 0.01
        assert torch.equal(model(images), expected) and torch.equal(explanation.logits, expected)
        assert torch.equal(model.forward_head(model.forward_features(images)), expected)
        assert not explanation.map_gates and not explanation[0].map_gates
        # a map that is given gates, relative to the predicted one
        same = model(images, attention=explanation.attention_map)
        assert (same - expected).norm() <= 1e-6 * expected.norm()
        given = model.explain(images, attention=attention)
        assert given.map_gates and (given.logits - expected).norm() > 1e-4 * expected.norm()
        assert torch.equal(model(images, attention=attention), given.logits)
        features = model.forward_features(images, attention=attention)
        torch.testing.assert_close(model.forward_head(features), given.logits)
        with pytest.raises(ValueError, match='attention must have shape'):
            model(images, attention=attention[:1])
    assert not isinstance(model, AttentionBranchNet) and model.config.init == 'random'
    with pytest.raises(TimmAbnError, match='reliance.. needs a map that gates'):
        reliance(model, images)


def test_training_mode():
    backbone, model = tiny_around(AttachedNet, 'test_resnet')
    images = tiny_images(4)
    halves = (model.feature_extractor, model.perception_branch)
    logits, attention_logits = model.train()(images)
    assert torch.equal(logits, backbone(images))  # in evaluation mode, whatever the mode of the network
    seen = model.forward_pass(images)
    (attention_logits.sum() + seen.attention_map.sum()).backward()
    trained = {name.partition('.')[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == {'attention_branch'} and model.attention_branch.map_norm.weight.grad.abs().sum() > 0
    assert model.attention_branch.training
    assert not any(module.training for half in halves for module in half.modules())
    # what a user trains besides stays so: of modes and weights nothing is frozen anew
    model.perception_branch.requires_grad_(True)
    model.eval().train().load_state_dict(model.state_dict())
    assert all(weight.requires_grad for weight in model.perception_branch.parameters())
    assert not any(weight.requires_grad for weight in model.feature_extractor.parameters())


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(hard_attention=0.3), 'hard_attention'),
        (dict(hard_attention=0.3, mechanism='product'), "mechanism='residual'"),
        (dict(mechanism='product'), "mechanism='residual' and attention_map='sigmoid', got 'product' and 'sigmoid'"),
        (dict(attention_map='sum_log'), "got 'residual' and 'sum_log'"),
        (dict(init='neutral'), "init of this network is 'random', got 'neutral'"),
        (dict(multi_task=True), 'multi_task of this network is False, got True'),
    ],
)
def test_what_is_refused(kwargs, message):
    with pytest.raises(TimmAbnError, match=message) as error:
        tiny_around(AttachedNet, 'resnet20_cifar', **kwargs)
    assert '\n' not in str(error.value)


def test_weights_of_another_kind_of_network_are_refused():
    attached, abn = tiny_around(AttachedNet, 'test_vit')[1], tiny_abn('test_vit')
    said = "an attached network with gate='tokens' and init='random'"
    with pytest.raises(TimmAbnError, match=f'^the weights are of {said}, not of a network with gate=[^\\n]*former.$'):
        abn.load_state_dict(attached.state_dict())
    with pytest.raises(TimmAbnError, match=f'^the weights are of a network with [^\\n]*, not of {said}: build'):
        attached.load_state_dict(abn.state_dict())


def test_scripts_and_traces():
    model, images = tiny_around(AttachedNet, 'test_resnet')[1], tiny_images()
    attention = attention_for(model, images)
    for other in (torch.jit.script(model), torch.fx.symbolic_trace(model, concrete_args=dict(attention=None))):
        torch.testing.assert_close(other(images), model(images))
    torch.testing.assert_close(torch.jit.script(model)(images, attention), model(images, attention))


@pytest.mark.parametrize(('network', 'arguments'), [('abn', dict(init='neutral')), ('attached', {})])
def test_hub_folders_and_checkpoints_record_what_a_network_is(network, arguments, tmp_path):
    torch.manual_seed(0)
    made_with = dict(backbone='test_vit', **TINY_BACKBONES['test_vit'])
    model = timm.create_model(network, num_classes=NUM_CLASSES, **made_with, **arguments).eval()
    images = tiny_images()
    save_hub_folder(model, tmp_path / 'hub', '# card')
    loaded = timm.create_model(f'local-dir:{tmp_path / "hub"}', pretrained=True).eval()
    assert type(loaded) is type(model) and loaded.config == model.config
    assert torch.equal(loaded(images), model(images))
    # what train.py records does not name what was left open: the weights say it
    settings = argparse.Namespace(model=network, model_kwargs=made_with, num_classes=NUM_CLASSES)
    torch.save(dict(arch=network, state_dict=model.state_dict(), args=settings), tmp_path / 'last.pth.tar')
    loaded = load_model(network, tmp_path / 'last.pth.tar')
    assert type(loaded) is type(model) and loaded.config == model.config
    assert torch.equal(loaded(images), model(images))
    assert torch.equal(loaded.explain(images).attention_map, model.explain(images).attention_map)


def test_a_fine_tuned_checkpoint_brings_its_arguments_along(tmp_path):
    kwargs = dict(act_layer='gelu')
    backbone = tiny_backbone('test_resnet', num_classes=3, in_chans=1, global_pool='max', **kwargs).eval()
    settings = argparse.Namespace(
        model='test_resnet', model_kwargs=kwargs, num_classes=None, in_chans=None, gp='max', input_size=[1, 48, 48],
        mean=[0.4], std=[0.2],
    )  # fmt: skip
    path = tmp_path / 'model_best.pth.tar'
    torch.save(dict(arch='test_resnet', state_dict=backbone.state_dict(), args=settings), path)
    images = tiny_images(channels=1)
    for network in ('abn', 'attached'):
        model = timm.create_model(network, backbone='test_resnet', pretrained_backbone=str(path)).eval()
        assert torch.equal(model(images), backbone(images)) and model.num_classes == 3
        assert model.pretrained_cfg['mean'] == (0.4,) and model.pretrained_cfg['input_size'] == (1, 48, 48)
        save_hub_folder(model, tmp_path / network, '# card')
        loaded = timm.create_model(f'local-dir:{tmp_path / network}', pretrained=True).eval()
        assert loaded.config == model.config and torch.equal(loaded(images), model(images))
    with pytest.raises(ValueError, match='is a checkpoint of test_resnet, not of resnet20_cifar'):
        timm.create_model('abn', backbone='resnet20_cifar', pretrained_backbone=str(path))
