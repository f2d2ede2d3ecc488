"""The loss of human masks, against numbers computed by hand in float64; what is missing is skipped."""

import math

import pytest
import timm
import timm.task
import torch
import torch.nn as nn
import torch.nn.functional as F
from tiers import fast_and_slow
from timm.data.loader import fast_collate
from tiny_models import tiny_abn, tiny_images
from torch.utils.data import default_collate
from two_processes import gradients_of_two

from timm_abn.task import AttentionBranchLoss, AttentionMaskLoss, FaithfulMapLoss, TrainingError, extend_timm_tasks
from timm_abn.training.faithful import FaithfulTraining, TrainingOutput
from timm_abn.training.map_settings import MapLossSettings, MaskSettings
from timm_abn.training.mask_loss import MASK_LOSSES, MaskedTargetLoss, label_and_masks, target_with_masks

MAP = torch.tensor([[0.5, 0.25], [0.1, 0.9]], dtype=torch.float64)
MASK = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
BY_HAND = dict(
    bce=-(math.log(0.5) + math.log(0.75) + math.log(0.9) + math.log(0.9)) / 4,
    energy=1 - (0.5 + 0.9) / 1.75,
    l1=(0.5 + 0.25 + 0.1 + 0.1) / 4,
)


def maps_and_masks(num_images=3, num_maps=1, size=2):
    maps = MAP.expand(num_images, num_maps, 2, 2).clone().requires_grad_()
    masks = MASK.repeat_interleave(size // 2, 0).repeat_interleave(size // 2, 1)
    return maps, masks.expand(num_images, num_maps, size, size).clone()


@pytest.mark.parametrize('kind', MASK_LOSSES)
@pytest.mark.parametrize('size', [2, 8])
def test_by_hand(kind, size):
    maps, masks = maps_and_masks(size=size)
    loss = AttentionMaskLoss(kind)(maps, masks)
    assert loss.dtype == torch.float64 and loss.item() == pytest.approx(BY_HAND[kind], abs=1e-12)
    assert AttentionMaskLoss(kind)(maps, masks.bool()).item() == pytest.approx(BY_HAND[kind], abs=1e-12)
    assert torch.autograd.gradcheck(AttentionMaskLoss(kind), (maps, masks))


def test_masks_are_averaged_over_the_places_of_the_map():
    masks = torch.zeros(1, 1, 6, 4, dtype=torch.float64)
    masks[..., 1:4, 1] = 1  # 2 of the 6 pixels at the upper left, 1 of the 6 below
    maps = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    expected = (abs(0.5 - 2 / 6) + abs(0.5 - 1 / 6) + 0.5 + 0.5) / 4
    assert AttentionMaskLoss('l1')(maps, masks).item() == pytest.approx(expected)


@pytest.mark.parametrize('kind', MASK_LOSSES)
def test_mean_over_those_that_have_one(kind):
    maps, masks = maps_and_masks(num_images=4, num_maps=2)
    with torch.no_grad():
        maps[1, 0] = torch.tensor([[0.2, 0.3], [0.4, 0.6]])
    masks[2, 1] = math.nan
    masks[3, 0, 1, 1] = math.nan  # one pixel is enough
    present = torch.tensor([[True, False], [True, False], [False, True], [True, True]])
    loss = AttentionMaskLoss(kind)
    counted = [(0, 0), (1, 0), (3, 1)]
    expected = [loss(maps[i : i + 1, t : t + 1], masks[i : i + 1, t : t + 1]) for i, t in counted]
    found = loss(maps, masks, present)
    torch.testing.assert_close(found, sum(expected) / 3)
    (gradient,) = torch.autograd.grad(found, maps)
    touched = gradient.flatten(2).abs().sum(dim=2) > 0
    assert sorted(map(tuple, touched.nonzero().tolist())) == counted and gradient.isfinite().all()


@pytest.mark.parametrize('kind', MASK_LOSSES)
@pytest.mark.parametrize('missing', ['nan', 'present'])
def test_nothing_there_is_exactly_nothing(kind, missing):
    maps, masks = maps_and_masks()
    present = torch.zeros(3, 1, dtype=torch.bool) if missing == 'present' else None
    loss = AttentionMaskLoss(kind)(maps, masks * math.nan if missing == 'nan' else masks, present)
    loss.backward()
    assert loss.item() == 0 and torch.equal(maps.grad, torch.zeros_like(maps))


def test_empty_masks():
    maps, masks = maps_and_masks()
    masks[1:] = 0
    assert AttentionMaskLoss('energy')(maps, masks).item() == pytest.approx(BY_HAND['energy'])  # of the first
    nothing = -(math.log(0.5) + math.log(0.75) + math.log(0.9) + math.log(0.1)) / 4  # asked for, and taken at its word
    assert AttentionMaskLoss('bce')(maps, masks).item() == pytest.approx((BY_HAND['bce'] + 2 * nothing) / 3)


@pytest.mark.parametrize('kind', MASK_LOSSES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_are_finite_at_the_ends_of_the_range(kind, dtype):
    logits = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0, -12.0], dtype=dtype).view(1, 1, 2, 3).requires_grad_()
    masks = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 1.0]).view(1, 1, 2, 3)
    loss = AttentionMaskLoss(kind)(logits.sigmoid(), masks)
    loss.backward()
    assert loss.isfinite() and loss.dtype == torch.float32 and logits.grad.isfinite().all()
    zeros = torch.zeros(1, 1, 2, 3, requires_grad=True)
    AttentionMaskLoss(kind)(zeros, masks).backward()
    assert (zeros.grad[masks == 1] < 0).all()  # it asks for more inside
    if kind != 'energy':  # no slope of a logarithm, which nothing bounds
        torch.testing.assert_close(zeros.grad[masks == 1], torch.full((3,), -1 / 6))


@pytest.mark.parametrize('kind', fast_and_slow(MASK_LOSSES, ['bce']))
def test_hard_maps_learn_where_they_are_zero(kind):
    """The kept place is outside the mask: a step down the slope makes another one the greatest."""
    model = tiny_abn('test_resnet', num_classes=3, mechanism='product', hard_attention=0.2).train()
    trainable = FaithfulTraining(model, None)
    images = tiny_images(4, size=(32, 32))
    masks = torch.zeros(4, 1, 32, 32)
    masks[..., 16:, 16:] = 1
    optimizer = torch.optim.Adam(model.attention_branch.parameters(), 1e-2)
    energies = []
    for _ in range(15):
        maps = trainable(images).attention_map
        energies.append(1 - AttentionMaskLoss('energy')(maps.detach(), masks).item())
        optimizer.zero_grad()
        AttentionMaskLoss(kind)(maps, masks).backward()
        optimizer.step()
    assert (maps == 0).float().mean() > 0.7
    assert energies[-1] > 0.75 and energies[-1] > energies[0] + 0.2


@pytest.mark.parametrize(
    ('masks', 'present', 'message'),
    [
        (torch.zeros(3, 1, 4, 4), None, r'masks must have shape \(3, 2, H, W\), got \(3, 1, 4, 4\)'),
        (torch.zeros(3, 4, 4), None, r'masks must have shape \(3, 2, H, W\), got \(3, 4, 4\)'),
        (torch.zeros(3, 2, 4, 4, dtype=torch.uint8), None, r'masks must be bool, or floating in \[0, 1\], got'),
        (torch.zeros(3, 2, 4, 4), torch.ones(3, dtype=torch.bool), r'present must be bool, of shape \(3, 2\), got'),
        (torch.zeros(3, 2, 4, 4), torch.ones(3, 2), 'present must be bool, .* got torch.float32'),
    ],
)
def test_what_does_not_fit_is_refused(masks, present, message):
    with pytest.raises(TrainingError, match=message):
        AttentionMaskLoss()(maps_and_masks(num_maps=2)[0], masks, present)


def test_unknown_kind_and_weight_are_refused():
    with pytest.raises(TrainingError, match="must be one of bce, energy, l1, got 'mse'"):
        AttentionMaskLoss('mse')
    with pytest.raises(TrainingError, match='weight of the loss of masks must be a finite number'):
        MaskedTargetLoss(AttentionBranchLoss(nn.CrossEntropyLoss()), weight=-1)


def packed(labels, masks, missing=()):
    masks = [mask * (index not in missing) for index, mask in enumerate(masks)]
    return torch.stack([target_with_masks(label, mask) for label, mask in zip(labels, masks)])


@pytest.mark.parametrize('collate', [fast_collate, default_collate])
@pytest.mark.parametrize('labels', [[0, 2**24 - 1, 7], torch.rand(9, 3, generator=torch.Generator().manual_seed(1)).T])
def test_targets_carry_labels_and_masks_through_the_loaders_of_timm(collate, labels):
    masks = torch.rand(3, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    image = torch.zeros(3, 5, 7, dtype=torch.uint8)
    target = collate([(image, target_with_masks(label, mask)) for label, mask in zip(labels, masks)])[1]
    found, found_masks = label_and_masks(target, None if isinstance(labels, list) else 9)
    assert torch.equal(found, torch.as_tensor(labels)) and torch.equal(found_masks, masks)
    with pytest.raises(TrainingError, match=r'36 attributes need masks of as many pixels, got \(5, 7\)'):
        target_with_masks(torch.zeros(36), masks[0])


def random_masks(num_images=6, num_maps=1):
    return (torch.rand(num_images, num_maps, 32, 32, generator=torch.Generator().manual_seed(3)) < 0.4).float()


@pytest.mark.parametrize('kind', fast_and_slow(MASK_LOSSES, ['bce']))
@pytest.mark.parametrize('faithful', [False, True])
def test_task_of_timm_makes_the_same_step_as_three_lines(kind, faithful):
    images, labels, masks = tiny_images(6, size=(32, 32)), torch.tensor([0, 1, 2, 3, 4, 0]), random_masks()
    by_hand, model = (tiny_abn('test_resnet', num_classes=5).train() for _ in range(2))
    weights = dict(masked=1.0, area=0.5, smoothness=0.1, consistency=0.0)
    criterion = FaithfulMapLoss(nn.CrossEntropyLoss(), 0.5, **weights) if faithful else None
    criterion = criterion or AttentionBranchLoss(nn.CrossEntropyLoss(), 0.5)
    output = FaithfulTraining(by_hand, 'mean' if faithful else None)(images)
    present = torch.tensor([True, True, False, True, False, True])[:, None]
    expected = criterion(output, labels) + 3 * AttentionMaskLoss(kind)(output.attention_map, masks, present)
    expected.backward()
    extend_timm_tasks(0.5, MapLossSettings(weights, 'mean') if faithful else None, MaskSettings('', kind, 3.0))
    result = timm.task.ClassificationTask(model, nn.CrossEntropyLoss())(images, packed(labels, masks, (2, 4)))
    result['loss'].backward()
    torch.testing.assert_close(result['loss'], expected)
    assert result['output'].shape == result['attention_output'].shape == (6, 5)
    for (name, found), other in zip(model.named_parameters(), by_hand.parameters()):
        torch.testing.assert_close(found.grad, other.grad, msg=name)


def test_batches_without_masks_train_as_if_there_were_no_term():
    images, labels = tiny_images(6, size=(32, 32)), torch.tensor([0, 1, 2, 3, 4, 0])
    with_masks, without = (tiny_abn('test_resnet', num_classes=5).train() for _ in range(2))
    expected = timm.task.ClassificationTask(without, nn.CrossEntropyLoss())(images, labels)['loss']
    expected.backward()
    extend_timm_tasks(1.0, None, MaskSettings(''))
    task = timm.task.ClassificationTask(with_masks, nn.CrossEntropyLoss())
    loss = task(images, packed(labels, random_masks(), range(6)))['loss']
    loss.backward()
    assert torch.equal(loss, expected)
    for (name, found), other in zip(with_masks.named_parameters(), without.parameters()):
        assert torch.equal(found.grad, other.grad), name


def test_several_attributes_each_with_a_mask():
    images, masks = tiny_images(4, size=(32, 32)), random_masks(4, 3)
    labels = torch.tensor([[0.0, 1.0, 1.0], [0.1, 0.9, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    masks[0, 1] = masks[2, 0] = masks[2, 2] = 0  # 0 everywhere: no mask of this attribute
    model = tiny_abn('test_resnet', num_classes=3, multi_task=True).train()
    extend_timm_tasks(1.0, None, MaskSettings('', 'l1', 2.0))
    task = timm.task.MultiLabelClassificationTask(model)
    logits, attention_logits, maps = FaithfulTraining(model, None)(images)[:3]
    pooled = F.adaptive_avg_pool2d(masks, maps.shape[2:])
    distances = (maps - pooled).abs().mean(dim=(2, 3))
    there = [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (2, 1), (3, 0), (3, 1), (3, 2)]
    bce = nn.BCEWithLogitsLoss()
    expected = bce(logits, labels) + bce(attention_logits, labels) + 2 * sum(distances[i, t] for i, t in there) / 9
    torch.testing.assert_close(task(images, packed(labels, masks))['loss'], expected)
    with pytest.raises(TrainingError, match='the network has 3 attention maps, but the data 1 masks per image'):
        task(images, packed(labels, masks[:, :1]))
    with pytest.raises(TrainingError, match='multi-label targets must be 0 or 1'):
        task(images, packed(labels - 1, masks))


def test_distillation_with_masks():
    images, labels = tiny_images(6, size=(32, 32)), torch.tensor([0, 1, 2, 3, 4, 0])
    teacher = timm.create_model('test_resnet', num_classes=5).eval()
    model = tiny_abn('test_resnet', num_classes=5).train()
    extend_timm_tasks(1.0, None, MaskSettings('', 'energy'))
    task = timm.task.LogitDistillationTask(model, teacher, nn.CrossEntropyLoss())
    result = task(images, packed(labels, random_masks()))
    criterion = nn.CrossEntropyLoss()
    output = FaithfulTraining(model, None)(images)
    term = AttentionMaskLoss('energy')(output.attention_map, random_masks())
    expected = criterion(output.logits, labels) + criterion(output.attention_logits, labels) + term
    torch.testing.assert_close(result['task_loss'], expected)


@pytest.mark.parametrize('value', [255.0, -0.1])
def test_what_is_out_of_range_is_refused(value):
    masks = torch.full((1, 1, 4, 4), value)
    with pytest.raises(TrainingError, match=f'masks must be in .0, 1., got {value:g}'):
        AttentionMaskLoss('bce')(torch.rand(1, 1, 2, 2), masks)
    extend_timm_tasks(1.0, None, MaskSettings(''))
    with pytest.raises(TrainingError, match=r"masks need maps in \[0, 1\]: attention_map='sigmoid', not 'sum_log'"):
        timm.task.ClassificationTask(tiny_abn('test_resnet', attention_map='sum_log'), nn.CrossEntropyLoss())


def test_mixed_precision_computes_the_term_in_float32():
    maps, masks = torch.rand(2, 1, 4, 4).bfloat16(), random_masks(2)
    output = TrainingOutput(torch.zeros(2, 3), torch.zeros(2, 3), maps)
    loss = MaskedTargetLoss(AttentionBranchLoss(nn.CrossEntropyLoss()))
    with torch.autocast('cpu', torch.bfloat16):
        found = loss(output, packed([0, 1], masks))
    expected = 2 * math.log(3) + AttentionMaskLoss('bce')(maps.float(), masks)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    """Each process takes half of the batch, with more masks, or all of them, in the first half."""
    cases = [(1, 5, 6, 7), (4, 5, 6, 7), range(8)]
    both = gradients_of_two(tmp_path, model_without_batch_statistics, loss_of, cases)
    for missing, first, second in zip(cases, *both, strict=True):
        model = model_without_batch_statistics()
        loss_of(model, None, missing).backward()
        for name, parameter in model.named_parameters():
            assert torch.equal(first[name], second[name]), name
            torch.testing.assert_close(first[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def model_without_batch_statistics():
    model = tiny_abn('test_resnet', num_classes=5).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return FaithfulTraining(model, None)


def loss_of(model, half, missing):
    part = slice(8) if half is None else slice(4 * half, 4 * half + 4)
    targets = packed(torch.arange(8) % 5, random_masks(8), missing)
    criterion = MaskedTargetLoss(AttentionBranchLoss(nn.CrossEntropyLoss()))
    return criterion(model(tiny_images(8, size=(32, 32))[part]), targets[part])
