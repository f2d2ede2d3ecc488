"""The loss of faithful maps, term by term, against numbers computed by hand in float64."""

import math

import pytest
import timm
import timm.task
import torch
import torch.nn as nn
import torch.nn.functional as F
from tiny_models import tiny_abn, tiny_images
from two_processes import gradients_of_two

from timm_abn.task import AttentionBranchLoss, FaithfulMapLoss, TrainingError, extend_timm_tasks
from timm_abn.training.faithful import FaithfulTraining, TrainingOutput
from timm_abn.training.map_settings import MapLossSettings

ALL = dict(masked=0.5, area=2.0, smoothness=3.0, consistency=4.0, complement=5.0)


def output(**changed):
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(4)]
    maps = torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]], [[[1.0, 1.0], [1.0, 1.0]]]], dtype=torch.float64)
    made = TrainingOutput(logits[0], logits[1], maps, logits[2], None, maps.flip(-1), logits[3])
    return made._replace(**changed)


def test_terms_by_hand():
    target = torch.tensor([2, 0])
    found = output()
    terms = FaithfulMapLoss(nn.CrossEntropyLoss(), **ALL).map_terms(found, target)
    assert terms['masked'] == F.cross_entropy(found.masked_logits, target)
    assert terms['area'] == pytest.approx((1.75 + 4) / 8)
    # rows: |0.5 - 0|, |0.25 - 1| of the first map; columns: |1 - 0|, |0.25 - 0.5|; the second is flat
    assert terms['smoothness'] == pytest.approx((0.5 + 0.75) / 4 + (1 + 0.25) / 4)
    assert terms['consistency'] == pytest.approx((1 + 1 + 2 * 0.25**2) / 8)
    uniform = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    expected = F.cross_entropy(found.complement_logits, uniform).item()
    assert terms['complement'].item() == pytest.approx(expected, rel=1e-6)  # made in float32


def test_complement_of_attributes_by_hand():
    found = output(complement_logits=torch.tensor([[0.0], [2.0]]), tasks=torch.tensor([0, 1]))
    loss = FaithfulMapLoss(nn.BCEWithLogitsLoss(), masked=0, area=0, complement=1, multi_label=True)
    terms = loss.map_terms(found, torch.zeros(2, 3))
    expected = (math.log(2) + 0.5 * (math.log1p(math.exp(-2)) + math.log1p(math.exp(2)))) / 2
    assert terms['complement'].item() == pytest.approx(expected)
    assert set(terms) == {'complement'}


def test_sum_of_weighted_terms():
    target = torch.tensor([2, 0])
    found, criterion = output(), nn.CrossEntropyLoss()
    loss = FaithfulMapLoss(criterion, 0.25, **ALL)
    terms = loss.map_terms(found, target)
    expected = AttentionBranchLoss(criterion, 0.25)(found[:2], target)
    expected = expected + 0.5 * terms['masked'] + 2 * terms['area'] + 3 * terms['smoothness'] + 4 * terms['consistency']
    expected = expected + 5 * terms['complement']
    torch.testing.assert_close(loss(found, target), expected)
    assert loss(found.logits, target) == criterion(found.logits, target)  # in evaluation mode
    assert 'attention_loss_weight=0.25, masked=0.5, area=2.0' in repr(loss)


def test_of_several_tasks_the_target_of_the_drawn_one_counts():
    tasks = torch.tensor([2, 0])
    found = output(masked_logits=torch.tensor([[0.3], [-2.0]], dtype=torch.float64), tasks=tasks)
    target = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    loss = FaithfulMapLoss(nn.BCEWithLogitsLoss(), masked=1, area=0)
    expected = F.binary_cross_entropy_with_logits(found.masked_logits[:, 0], target[[0, 1], tasks])
    torch.testing.assert_close(loss.map_terms(found, target), dict(masked=expected))


@pytest.mark.parametrize('name', ['masked', 'consistency', 'complement'])
def test_what_the_network_does_not_return_is_named(name):
    found = output(masked_logits=None, flipped_map=None)
    loss = FaithfulMapLoss(nn.CrossEntropyLoss(), masked=0, area=1)
    assert set(loss.map_terms(found, torch.tensor([0, 1]))) == {'area'}  # terms of weight 0 need nothing
    loss = FaithfulMapLoss(nn.CrossEntropyLoss(), **{**dict.fromkeys(FaithfulMapLoss.TERMS, 0.0), name: 1.0})
    message = f'the {name} term needs more than the network returns: wrap it in FaithfulTraining'
    with pytest.raises(TrainingError, match=message):
        loss(output(masked_logits=None, flipped_map=None, complement_logits=None), torch.tensor([0, 1]))
    with pytest.raises(TrainingError, match=message):
        loss(output()[:2], torch.tensor([0, 1]))


@pytest.mark.parametrize('weight', [-1.0, float('nan'), True, '1'])
def test_meaningless_weights(weight):
    with pytest.raises(TrainingError, match="weight 'area' of the map loss must be a finite number"):
        FaithfulMapLoss(nn.CrossEntropyLoss(), area=weight)


@pytest.mark.parametrize('kwargs', [dict(mechanism='product'), dict(hard_attention=0.3, mechanism='product')])
def test_task_of_timm_makes_the_same_step_as_three_lines(kwargs):
    images, target = tiny_images(6), torch.tensor([0, 1, 2, 3, 4, 0])
    weights = dict(masked=1.0, area=0.5, smoothness=0.1, consistency=0.2, complement=0.3)
    by_hand, model = (tiny_abn('test_resnet', num_classes=5, **kwargs).train() for _ in range(2))
    wrapped = FaithfulTraining(by_hand, 'mean', flips=True, complement=True)
    expected = FaithfulMapLoss(nn.CrossEntropyLoss(), 0.5, **weights)(wrapped(images), target)
    expected.backward()
    extend_timm_tasks(0.5, MapLossSettings(weights, 'mean'))
    result = timm.task.ClassificationTask(model, nn.CrossEntropyLoss())(images, target)
    result['loss'].backward()
    torch.testing.assert_close(result['loss'], expected)
    assert result['output'].shape == result['attention_output'].shape == (6, 5)
    for (name, found), other in zip(model.named_parameters(), by_hand.parameters()):
        assert found.grad is not None and found.grad.isfinite().all(), name
        torch.testing.assert_close(found.grad, other.grad, msg=name)


def test_the_map_becomes_smaller_and_the_masked_image_better_known():
    """A few steps on two kinds of image: a bright square at the left or at the right."""
    torch.manual_seed(0)
    images = torch.randn(16, 3, 32, 32) * 0.1
    target = torch.arange(16) % 2
    for image, label in zip(images, target):
        image[:, 8:24, 16 * label : 16 * label + 12] += 2
    model = FaithfulTraining(tiny_abn('test_resnet', num_classes=2).train(), 'mean')
    loss = FaithfulMapLoss(nn.CrossEntropyLoss(), area=3.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    terms = []
    for _ in range(40):
        found = model(images)
        terms.append({name: value.item() for name, value in loss.map_terms(found, target).items()})
        optimizer.zero_grad()
        loss(found, target).backward()
        optimizer.step()
    first, last = ({name: sum(step[name] for step in part) / 5 for name in part[0]} for part in (terms[:5], terms[-5:]))
    assert last['area'] < 0.8 * first['area'] and last['masked'] < 0.5 * first['masked']


def test_the_prediction_comes_to_depend_on_the_map():
    """Each quarter of a picture tells its class; the network is asked to know it where its map is, and only there."""
    torch.manual_seed(0)
    target = torch.arange(16) % 2
    images = torch.randn(16, 3, 32, 32) * 0.1 + (2.0 * target - 1)[:, None, None, None]
    known = {}
    for complement in (0.0, 1.0):
        torch.manual_seed(1)
        model = tiny_abn('test_resnet', num_classes=2, mechanism='product', hard_attention=0.25).train()
        model = FaithfulTraining(model, None, complement=True)
        loss = FaithfulMapLoss(nn.CrossEntropyLoss(), masked=0, area=0, complement=complement)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            found = model(images)
            loss(found, target).backward()
            optimizer.step()
        assert found.logits.argmax(1).eq(target).all()
        of_target = found.complement_logits.softmax(1).gather(1, target[:, None])
        known[complement] = of_target.mean().item()
    assert known[0.0] > 0.9 and known[1.0] < 0.7


@pytest.mark.slow
def test_gradients_of_two_processes(tmp_path):
    """Each process takes half of the batch; DDP sees one forward, and averages the gradients."""
    expected = {}
    for half in range(2):
        model = map_training_model()
        map_loss_of_half(model, half).backward()
        for name, parameter in model.named_parameters():
            expected[name] = expected.get(name, 0) + parameter.grad / 2
    (first,), (second,) = gradients_of_two(tmp_path, map_training_model, map_loss_of_half)
    assert first.keys() == expected.keys()
    for name, gradient in first.items():
        assert torch.equal(gradient, second[name]), name
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def map_training_model():
    model = tiny_abn('test_resnet', num_classes=5, mechanism='product', hard_attention=0.5).train()
    return FaithfulTraining(model, 'mean', flips=True)


def map_loss_of_half(model, half, case=None):
    images, target = tiny_images(8)[4 * half :][:4], torch.arange(8)[4 * half :][:4] % 5
    return FaithfulMapLoss(nn.CrossEntropyLoss(), consistency=1.0)(model(images), target)


def test_maps_out_of_range_are_refused_by_the_task():
    extend_timm_tasks(1.0, MapLossSettings(ALL, 'mean'))
    with pytest.raises(TrainingError, match="only maps in \\[0, 1\\] show an image: .*'sigmoid', not 'sum_log'"):
        timm.task.ClassificationTask(tiny_abn('test_resnet', attention_map='sum_log'), nn.CrossEntropyLoss())
