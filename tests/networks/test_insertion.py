"""An attention branch inserted into a trained backbone: what changes, which is nothing at first, and what can learn."""

import argparse
import copy
import warnings

import pytest
import timm
import torch
from timm.models import get_model_args
from timm_abn.networks.mechanism import insertion_of
from tiny_models import NUM_CLASSES, TINY_BACKBONES, TINY_SPLITS, attention_for, tiny_backbone, tiny_images

from timm_abn import AttentionBranchNet, Mechanism, MultiTaskAttentionBranchNet, load_model
from timm_abn.explain.metrics import reliance
from timm_abn.publish.folder import save_hub_folder


def inserted(name, **kwargs):
    """Return a trained backbone, whatever it was trained for, and the network around a copy of it."""
    backbone = tiny_backbone(name).eval()
    torch.manual_seed(3)
    arguments = dict(split=TINY_SPLITS.get(name), num_classes=NUM_CLASSES, pretrained_backbone=True)
    return backbone, AttentionBranchNet(copy.deepcopy(backbone), **{**arguments, **kwargs}).eval()


@pytest.mark.parametrize('mechanism', ['residual', 'product'])
@pytest.mark.parametrize('name', TINY_BACKBONES)
def test_a_neutral_insertion_changes_nothing_at_first(name, mechanism):
    backbone, model = inserted(name, mechanism=mechanism)
    images = tiny_images(8)
    expected, found = backbone(images), model(images)
    assert model.config.init == 'neutral'
    assert torch.equal(found.argmax(dim=1), expected.argmax(dim=1))
    assert (found - expected).norm() <= 1e-6 * expected.norm()
    if model.config.gate == 'features':
        assert torch.equal(found, expected)
    # that of the paper changes a lot
    gating = inserted(name, mechanism=mechanism, init='random')[1]
    assert (gating(images) - expected).norm() > 1e-3 * expected.norm()


@pytest.mark.parametrize('name', TINY_BACKBONES)
def test_maps_start_flat_and_gradients_reach_the_branch_after_the_first_step(name):
    _, model = inserted(name)
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


def test_the_factor_is_relative_to_a_flat_map():
    features, maps = torch.ones(1, 2, 1, 3), torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    residual, product = (Mechanism(kind, init='neutral')(features, maps)[0, 0, 0] for kind in MECHANISMS)
    torch.testing.assert_close(residual, torch.tensor([1 / 1.5, 1.0, 2 / 1.5]))
    torch.testing.assert_close(product, torch.tensor([0.0, 1.0, 2.0]))


MECHANISMS = ('residual', 'product')


def test_tasks_start_neutral_too():
    backbone = tiny_backbone('resnet20_cifar', num_classes=2 * NUM_CLASSES).eval()
    model = MultiTaskAttentionBranchNet(copy.deepcopy(backbone), num_classes=NUM_CLASSES).eval()
    images = tiny_images()
    no_and_yes = backbone(images).view(-1, NUM_CLASSES, 2)
    torch.testing.assert_close(model(images), no_and_yes[..., 1] - no_and_yes[..., 0])


@pytest.mark.parametrize('name', TINY_BACKBONES)
def test_a_map_that_explains_leaves_the_prediction_to_the_last_bit(name):
    backbone, model = inserted(name, insertion='explaining')
    images, attention = tiny_images(4), attention_for(inserted(name)[1], tiny_images(4))
    with torch.no_grad():
        torch.nn.init.ones_(model.attention_branch.map_norm.weight)  # as trained: the map is not flat any more
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
    assert 'explains, and does not gate' in repr(model) and model.config.init == 'explaining'


def test_a_given_map_gates_relative_to_the_predicted_one():
    mechanism = Mechanism(insertion='explaining')
    features, predicted = torch.ones(1, 2, 1, 3), torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    gated = mechanism(features, torch.tensor([0.0, 0.0, 0.0]).view(1, 1, 1, 3), predicted=predicted)
    torch.testing.assert_close(gated[0, 0, 0], torch.tensor([1.0, 1 / 1.5, 1 / 2]))
    assert mechanism(features, predicted) is features


def test_training_mode_of_a_map_that_explains():
    backbone, model = inserted('test_resnet', insertion='explaining')
    images = tiny_images(4)
    model.train_maps('mean')
    output = model.train()(images)
    assert torch.equal(output.logits, backbone(images))  # in evaluation mode, whatever the mode of the network
    output.masked_logits.sum().backward()
    trained = {name.partition('.')[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == {'attention_branch'} and model.attention_branch.map_norm.weight.grad.abs().sum() > 0
    halves = (model.feature_extractor, model.perception_branch)
    assert not any(module.training for half in halves for module in half.modules())


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(init='neutral', hard_attention=0.3, mechanism='product'), 'hard_attention'),
        (dict(insertion='explaining', hard_attention=0.3, mechanism='product'), 'hard_attention'),
        (dict(insertion='explaining', mechanism='product'), "mechanism='residual'"),
        (dict(init='neutral', attention_map='sum_log'), 'sigmoid'),
        (dict(insertion='open'), "one of 'gating', 'neutral', 'explaining', got 'open'"),
    ],
)
def test_what_cannot_be_inserted_so_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        inserted('resnet20_cifar', **kwargs)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('kwargs', [dict(hard_attention=0.3, mechanism='product'), dict(attention_map='sum_log')])
def test_what_cannot_be_neutral_says_so(kwargs):
    with pytest.warns(UserWarning, match='does not predict at first what its backbone does'):
        _, model = inserted('resnet20_cifar', **kwargs)
    assert model.config.init == 'gating'


def test_new_networks_gate_as_in_the_paper():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model = timm.create_model('abn_resnet20_cifar')
    assert model.config.init == 'gating' and 'insertion' not in get_model_args(model)
    assert not [name for name in model.state_dict() if name.startswith('mechanism.')]


@pytest.mark.parametrize('name', ['test_resnet', 'test_vit'])
def test_weights_bring_their_insertion_along(name, tmp_path):
    images = tiny_images()
    sources = {kind: inserted(name, insertion=kind)[1] for kind in ('gating', 'neutral', 'explaining')}
    arguments = dict(split=TINY_SPLITS.get(name), num_classes=NUM_CLASSES)
    model = AttentionBranchNet(tiny_backbone(name), **arguments).eval()
    for kind in ('explaining', 'gating', 'neutral'):
        assert insertion_of(sources[kind].state_dict()) == kind
        model.load_state_dict(sources[kind].state_dict())
        assert model.config == sources[kind].config and torch.equal(model(images), sources[kind](images))
        assert model.state_dict().keys() == sources[kind].state_dict().keys()
    # what is asked for comes first
    asked = AttentionBranchNet(tiny_backbone(name), init='random', **arguments)
    asked.load_state_dict(sources['neutral'].state_dict())
    assert asked.config.init == 'gating'


@pytest.mark.parametrize('insertion', ['neutral', 'explaining'])
def test_hub_folders_and_checkpoints_record_the_insertion(insertion, tmp_path):
    arguments = dict(backbone='test_vit', insertion=insertion, **TINY_BACKBONES['test_vit'])
    model = timm.create_model('abn', num_classes=NUM_CLASSES, **arguments).eval()
    images = tiny_images()
    save_hub_folder(model, tmp_path / 'hub', '# card')
    loaded = timm.create_model(f'local-dir:{tmp_path / "hub"}', pretrained=True).eval()
    assert loaded.config == model.config and torch.equal(loaded(images), model(images))
    # what train.py recorded before there was an insertion to name: the weights say it
    del arguments['insertion']
    settings = argparse.Namespace(model='abn', model_kwargs=arguments, num_classes=NUM_CLASSES)
    torch.save(dict(arch='abn', state_dict=model.state_dict(), args=settings), tmp_path / 'last.pth.tar')
    loaded = load_model('abn', tmp_path / 'last.pth.tar')
    assert loaded.config == model.config and torch.equal(loaded(images), model(images))


def test_weights_of_a_newer_insertion_are_refused():
    weights = inserted('test_resnet')[1].state_dict()
    weights['mechanism.neutral_insertion'] += 1
    with pytest.raises(ValueError, match="version 2 of init='neutral'.*update it"):
        inserted('test_resnet')[1].load_state_dict(weights)


def test_a_new_classifier_starts_flat():
    _, model = inserted('resnet20_cifar')
    torch.nn.init.ones_(model.attention_branch.map_norm.weight)
    model.reset_classifier(3)
    assert (model.explain(tiny_images()).attention_map == 0.5).all()


def test_a_fine_tuned_checkpoint_brings_its_arguments_along(tmp_path):
    kwargs = dict(act_layer='gelu')
    backbone = tiny_backbone('test_resnet', num_classes=3, in_chans=1, global_pool='max', **kwargs).eval()
    settings = argparse.Namespace(
        model='test_resnet', model_kwargs=kwargs, num_classes=None, in_chans=None, gp='max', input_size=[1, 48, 48],
        mean=[0.4], std=[0.2],
    )  # fmt: skip
    path = tmp_path / 'model_best.pth.tar'
    torch.save(dict(arch='test_resnet', state_dict=backbone.state_dict(), args=settings), path)
    model = timm.create_model('abn', backbone='test_resnet', pretrained_backbone=str(path)).eval()
    images = tiny_images(channels=1)
    assert torch.equal(model(images), backbone(images)) and model.num_classes == 3
    assert model.pretrained_cfg['mean'] == (0.4,) and model.pretrained_cfg['input_size'] == (1, 48, 48)
    save_hub_folder(model, tmp_path / 'hub', '# card')
    loaded = timm.create_model(f'local-dir:{tmp_path / "hub"}', pretrained=True).eval()
    assert torch.equal(loaded(images), model(images))
    with pytest.raises(ValueError, match='is a checkpoint of test_resnet, not of resnet20_cifar'):
        timm.create_model('abn', backbone='resnet20_cifar', pretrained_backbone=str(path))


def test_nothing_relies_on_a_map_that_explains():
    _, model = inserted('resnet20_cifar', insertion='explaining')
    with pytest.raises(ValueError, match='reliance.. needs a map that gates'):
        reliance(model, tiny_images())
