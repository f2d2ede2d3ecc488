"""What networks return in training for losses of their maps: from one forward, with gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.utils import unwrap_model
from tiny_models import tiny_abn, tiny_images

from timm_abn import TimmAbnError
from timm_abn.training.faithful import FaithfulTraining, TrainingOutput, mask_images


def frozen(model):
    """Return the model in training mode, with batch norm as in evaluation."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return model


def test_masked_image_by_hand():
    images = tiny_images(size=(4, 4), dtype=torch.float64)
    maps = torch.tensor([[[[0.0, 1.0], [0.25, 0.5]]]] * 2, dtype=torch.float64)
    kept = F.interpolate(maps, (4, 4), mode='bilinear', align_corners=False)
    torch.testing.assert_close(mask_images(images, maps, 'mean'), kept * images)
    assert kept[0, 0, 0, 0] == 0 and kept[0, 0, 0, 3] == 1
    mean = images.mean(dim=(2, 3), keepdim=True)  # one pixel blurs an image of 4 x 4
    torch.testing.assert_close(mask_images(images, maps, 'blur'), kept * images + (1 - kept) * mean)
    torch.testing.assert_close(mask_images(images, torch.ones_like(maps), 'mixed'), images)
    shown = mask_images(images, torch.zeros_like(maps), 'mixed')
    choices = torch.stack([torch.zeros_like(images), mean.expand_as(images), images.flip(0)])
    assert ((choices - shown).abs().amax(dim=(2, 3, 4)) < 1e-12).any(dim=0).all()


@pytest.mark.parametrize('backbone', ['test_resnet', 'test_convnext', 'test_vit'])
def test_what_training_returns(backbone):
    model, plain = FaithfulTraining(frozen(tiny_abn(backbone)), 'mean', flips=True), frozen(tiny_abn(backbone))
    images = tiny_images()
    output = model(images)
    assert isinstance(output, TrainingOutput) and output.tasks is None
    logits, attention_logits = plain(images)
    assert torch.equal(output.logits, logits) and torch.equal(output.attention_logits, attention_logits)
    explanation = copy.deepcopy(plain).eval().explain(images)
    torch.testing.assert_close(output.attention_map, explanation.attention_map)
    masked = mask_images(images, explanation.attention_map, 'mean')
    torch.testing.assert_close(output.masked_logits, plain(masked)[0])
    flipped = copy.deepcopy(plain).eval().explain(images.flip(-1)).attention_map.flip(-1)
    torch.testing.assert_close(output.flipped_map, flipped)
    torch.testing.assert_close(model.eval()(images), plain.eval()(images))
    assert isinstance(model(images), torch.Tensor)


def test_of_several_tasks_one_is_drawn():
    model, plain = (frozen(tiny_abn('test_resnet', multi_task=True, num_classes=3)) for _ in range(2))
    model = FaithfulTraining(model, 'mean')
    images = tiny_images(8)
    output = model(images)
    assert output.masked_logits.shape == (8, 1) and output.tasks.unique().numel() > 1
    for index, task in enumerate(output.tasks.tolist()):
        masked = mask_images(images[index : index + 1], output.attention_map[index, task][None, None], 'mean')
        torch.testing.assert_close(output.masked_logits[index], plain(masked)[0][0, task : task + 1])


@pytest.mark.parametrize('kwargs', [{}, dict(hard_attention=0.25), dict(hard_attention=0.25, map_scale=2)])
def test_complement_is_what_the_map_does_not_keep(kwargs):
    model = frozen(tiny_abn('test_resnet', mechanism='product', **kwargs))
    output = FaithfulTraining(model, None, complement=True)(tiny_images())
    assert output.masked_logits is None and output.complement_logits.shape == output.logits.shape
    maps = output.attention_map
    complement = (maps == 0).float() if kwargs else 1 - maps
    assert not kwargs or complement.mean() == 0.75
    torch.testing.assert_close(output.complement_logits, model(tiny_images(), attention=complement)[0])


def test_complement_of_several_tasks_is_of_the_one_that_is_drawn():
    model = frozen(tiny_abn('test_resnet', multi_task=True, num_classes=3, mechanism='product'))
    images = tiny_images(8)
    output = FaithfulTraining(model, 'mean', complement=True)(images)
    assert output.complement_logits.shape == (8, 1) and output.tasks.unique().numel() > 1
    logits = model(images, attention=1 - output.attention_map)[0]
    torch.testing.assert_close(output.complement_logits, logits.gather(1, output.tasks[:, None]))


def test_gradients_of_the_complement_reach_the_map():
    model = frozen(tiny_abn('test_resnet', mechanism='product'))
    FaithfulTraining(model, None, complement=True)(tiny_images()).complement_logits[:, 0].sum().backward()
    assert model.attention_branch.map_conv.weight.grad.abs().max() > 0


def test_gradients_reach_the_map_through_the_image():
    model = frozen(tiny_abn('test_resnet'))
    FaithfulTraining(model, 'blur')(tiny_images()).masked_logits.sum().backward()
    expected = model.attention_branch.map_conv.weight.grad.clone()
    # the same, of the network as a function of the masked image: what comes through the second map alone is less
    model.zero_grad()
    maps = model.eval().explain(tiny_images()).attention_map
    frozen(model)(mask_images(tiny_images(), maps, 'blur'))[0].sum().backward()
    assert expected.abs().sum() > 0
    assert (expected - model.attention_branch.map_conv.weight.grad).abs().max() > 1e-6


def test_batch_norm_remembers_images_as_they_are():
    network, plain = tiny_abn('test_resnet').train(), tiny_abn('test_resnet').train()
    model = FaithfulTraining(network, 'mean', flips=True)
    output = model(tiny_images())
    assert torch.equal(output.logits, plain(tiny_images())[0])
    for (name, found), expected in zip(network.named_buffers(), plain.buffers()):
        assert torch.equal(found, expected), name
    assert not torch.equal(output.masked_logits, output.logits)
    model(tiny_images())  # and goes on to remember
    assert all(int(found) == 2 for name, found in model.named_buffers() if name.endswith('num_batches_tracked'))


def test_one_image_has_no_other_behind_it():
    images, maps = tiny_images(1), torch.zeros(1, 1, 2, 2)
    for seed in range(20):
        torch.manual_seed(seed)
        assert not torch.equal(mask_images(images, maps, 'mixed'), images)


def test_checkpointing_of_gradients_changes_nothing():
    model, checkpointed = (frozen(tiny_abn('test_resnet')) for _ in range(2))
    checkpointed.set_grad_checkpointing()
    for network in (model, checkpointed):
        output = FaithfulTraining(network.train(), 'mean')(tiny_images())
        (output.masked_logits.sum() + output.logits.square().sum()).backward()
    assert checkpointed.feature_extractor.grad_checkpointing
    for (name, parameter), other in zip(model.named_parameters(), checkpointed.parameters()):
        if parameter.grad is not None:
            torch.testing.assert_close(other.grad, parameter.grad, msg=name)


def test_without_a_classifier_nothing_is_asked_of_masked_images():
    model = tiny_abn('test_resnet', multi_task=True, num_classes=3).train()
    model.reset_classifier(0)
    assert FaithfulTraining(model, 'mean')(tiny_images()).masked_logits is None


def test_the_network_is_what_is_saved_and_copies_keep_the_wrapper():
    model = tiny_abn('test_resnet')
    wrapped = FaithfulTraining(model)
    assert unwrap_model(wrapped) is model
    assert isinstance(copy.deepcopy(wrapped).train()(tiny_images()), TrainingOutput)


RAW, SUM_LOG = dict(multi_task=True, attention_map='raw'), dict(attention_map='sum_log', mechanism='product')


@pytest.mark.parametrize(
    ('kwargs', 'background', 'message'),
    [
        ({}, 'white', "background must be one of 'blur', 'mean', 'mixed', got 'white'"),
        (dict(attention_map='sum_log'), 'mean', "only maps in \\[0, 1\\] show an image: .*'sigmoid', not 'sum_log'"),
        (RAW, 'mixed', "not 'raw'"),
        ({}, None, "complement needs mechanism='product', got 'residual': Eq. 2 hides nothing"),
        (SUM_LOG, None, "only maps in \\[0, 1\\] have a complement: .*'sum_log'"),
    ],
)
def test_what_is_refused(kwargs, background, message):
    with pytest.raises(TimmAbnError, match=message):
        FaithfulTraining(tiny_abn('test_resnet', **kwargs), background, complement=background is None)


@pytest.mark.slow
def test_a_compiled_network_trains_its_maps():
    model = FaithfulTraining(frozen(tiny_abn('test_resnet', mechanism='product')), 'mean', complement=True)
    expected = model(tiny_images())
    compiled = torch.compile(model, backend='eager', fullgraph=True)(tiny_images())
    torch.testing.assert_close(compiled.masked_logits, expected.masked_logits)
    torch.testing.assert_close(compiled.complement_logits, expected.complement_logits)
