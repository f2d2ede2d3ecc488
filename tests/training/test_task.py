"""The training loss, against steps written by hand."""

import copy
import logging

import pytest
import timm
import timm.task
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.loss import JsdCrossEntropy, SoftTargetCrossEntropy

from timm_abn.training.map_settings import MapLossSettings
from timm_abn.training.task import AttentionBranchLoss, TrainingError, extend_timm_tasks

BATCH, CLASSES = 6, 5


@pytest.fixture
def abn():
    torch.manual_seed(0)
    return timm.create_model('abn', backbone='test_resnet', num_classes=CLASSES).double()


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return timm.create_model('test_resnet', num_classes=CLASSES).double()


def batch(soft=False):
    torch.manual_seed(1)
    images = torch.randn(BATCH, 3, 32, 32, dtype=torch.float64)
    target = torch.randint(0, CLASSES, (BATCH,))
    return images, F.one_hot(target, CLASSES).double() * 0.8 + 0.04 if soft else target


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_step(model, task_loss, by_hand):
    untouched = copy.deepcopy(model)
    loss = task_loss()
    got = gradients(model, loss)
    model.load_state_dict(untouched.state_dict())
    expected_loss = by_hand(*model(batch()[0]))
    expected = gradients(model, expected_loss)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    assert len(got) == len(list(model.parameters())) and got['perception_branch.fc.weight'].abs().sum() > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-6, atol=1e-12, msg=name)


@pytest.mark.parametrize('weight', [1.0, 0.25])
def test_step_equals_a_step_by_hand(abn, weight):
    extend_timm_tasks(weight)
    images, target = batch()
    task = timm.task.ClassificationTask(abn, nn.CrossEntropyLoss())

    def by_hand(logits, attention_logits):
        return -(
            logits.log_softmax(1)[range(BATCH), target].mean()
            + weight * attention_logits.log_softmax(1)[range(BATCH), target].mean()
        )

    assert_same_step(abn, lambda: task(images, target)['loss'], by_hand)


@pytest.mark.parametrize(
    'criterion_kwargs',
    [
        dict(smoothing=0.1),
        dict(loss_type='bce', smoothing=0.1),
        dict(soft_targets=True),
        dict(loss_type='jsd', jsd_splits=2),
    ],
)
def test_every_criterion_of_timm_applies_to_both_branches(abn, criterion_kwargs):
    images, target = batch(soft=criterion_kwargs.get('soft_targets', False))
    task = timm.task.ClassificationTask(abn, criterion_kwargs=criterion_kwargs)
    criterion = timm.task.create_classification_loss(**criterion_kwargs)
    by_hand = lambda first, second: criterion(first, target) + criterion(second, target)  # noqa: E731
    assert_same_step(abn, lambda: task(images, target)['loss'], by_hand)
    both = AttentionBranchLoss(criterion)  # in a loop of one's own
    assert_same_step(abn, lambda: both(abn(images), target), by_hand)


def test_loss_of_logits_alone_is_the_perception_loss(abn):
    images, target = batch()
    logits = abn.eval()(images)
    loss = AttentionBranchLoss(SoftTargetCrossEntropy())(logits, batch(soft=True)[1])
    torch.testing.assert_close(loss, SoftTargetCrossEntropy()(logits, batch(soft=True)[1]))
    assert AttentionBranchLoss(JsdCrossEntropy(2), 0.5).attention_loss_weight == 0.5


def test_result_holds_the_logits_of_each_branch(abn):
    images, target = batch()
    logits, attention_logits = copy.deepcopy(abn)(images)
    result = timm.task.ClassificationTask(abn, nn.CrossEntropyLoss())(images, target)
    torch.testing.assert_close(result['output'], logits)
    torch.testing.assert_close(result['attention_output'], attention_logits)


@pytest.mark.parametrize('weight', [-1.0, float('nan'), float('inf')])
def test_meaningless_weight_is_refused(weight):
    with pytest.raises(TrainingError, match='attention_loss_weight must be a finite number'):
        AttentionBranchLoss(nn.CrossEntropyLoss(), weight)
    with pytest.raises(TrainingError, match='attention_loss_weight must be a finite number'):
        extend_timm_tasks(weight)


def test_other_models_have_no_maps_to_train(plain):
    extend_timm_tasks(map_loss=MapLossSettings(dict(masked=1.0, area=0.0, smoothness=0.0, consistency=0.0)))
    with pytest.raises(TrainingError, match='ResNet is not an Attention Branch Network: it has no map to train'):
        timm.task.ClassificationTask(plain, nn.CrossEntropyLoss())


def test_extending_again_changes_nothing(abn):
    methods = dict(vars(timm.task.ClassificationTask))
    extend_timm_tasks()
    assert dict(vars(timm.task.ClassificationTask)) == methods
    task = timm.task.ClassificationTask(abn, nn.CrossEntropyLoss())
    assert isinstance(task.criterion.criterion, nn.CrossEntropyLoss)


def test_other_models_train_as_in_timm_and_that_is_said_once(plain, caplog):
    images, target = batch()
    with caplog.at_level(logging.INFO):
        task = timm.task.ClassificationTask(plain, nn.CrossEntropyLoss())
        result = task(images, target)
    torch.testing.assert_close(result['loss'], F.cross_entropy(result['output'], target))
    assert set(result) == {'loss', 'output'} and task.get_eval_model() is plain
    assert caplog.text.count('not an Attention Branch Network') == 1


@pytest.fixture
def multi_task_abn():
    torch.manual_seed(0)
    return timm.create_model('abn', backbone='test_resnet', num_classes=CLASSES, multi_task=True).double()


def bce_by_hand(logits, target):
    probability = 1 / (1 + (-logits).exp())
    return -(target * probability.log() + (1 - target) * (1 - probability).log()).mean()


@pytest.mark.parametrize('weight', [1.0, 0.25])
@pytest.mark.parametrize('model', ['abn', 'multi_task_abn'])
def test_multi_label_task_trains_both_branches(model, weight, request):
    model = request.getfixturevalue(model)
    extend_timm_tasks(weight)
    images, _ = batch()
    target = (torch.rand(BATCH, CLASSES) < 0.4).double()
    task = timm.task.MultiLabelClassificationTask(model)
    assert_same_step(
        model,
        lambda: task(images, target)['loss'],
        lambda first, second: bce_by_hand(first, target) + weight * bce_by_hand(second, target),
    )


def test_multi_task_model_needs_the_multi_label_task(multi_task_abn):
    with pytest.raises(TrainingError, match='needs --task multilabel'):
        timm.task.ClassificationTask(multi_task_abn)


@pytest.mark.parametrize(
    'target, message',
    [
        (torch.zeros(BATCH, 40), r'has 5 attributes, but the targets have shape \(6, 40\); expected \(6, 5\)'),
        (torch.zeros(BATCH), r'the targets have shape \(6,\); expected \(6, 5\)'),
        (torch.zeros(BATCH + 1, CLASSES), r'the targets have shape \(7, 5\); expected \(6, 5\)'),
        (torch.full((BATCH, CLASSES), -1.0), 'targets must be 0 or 1, .* got -1'),
        (torch.full((BATCH, CLASSES), float('nan')), 'targets must be 0 or 1, .* got nan'),
    ],
)
def test_targets_that_do_not_fit_are_refused(multi_task_abn, target, message):
    task = timm.task.MultiLabelClassificationTask(multi_task_abn)
    with pytest.raises(TrainingError, match=message):
        task(batch()[0], target)


def test_logit_distillation_teaches_the_perception_branch(abn, plain):
    images, target = batch()
    weights = dict(task_loss_weight=0.7, distill_loss_weight=0.4, temperature=3.0)
    task = timm.task.LogitDistillationTask(abn, plain, nn.CrossEntropyLoss(), **weights, dtype=torch.float64)

    def by_hand(logits, attention_logits):
        with torch.no_grad():
            teacher = plain(images)  # both normalise alike
        logs = (logits / 3).log_softmax(1), (teacher / 3).log_softmax(1)
        distillation = 9 * F.kl_div(*logs, reduction='batchmean', log_target=True)
        both = F.cross_entropy(logits, target) + F.cross_entropy(attention_logits, target)
        return 0.7 * both + 0.4 * distillation

    plain.eval()
    assert_same_step(abn, lambda: task(images, target)['loss'], by_hand)
    assert set(task(images, target)) == {'loss', 'output', 'attention_output', 'task_loss', 'kd_loss'}


@pytest.mark.parametrize('task_class', [timm.task.FeatureDistillationTask, timm.task.TokenDistillationTask])
def test_distillation_that_would_drop_the_attention_loss_is_refused(abn, plain, task_class):
    with pytest.raises(TrainingError, match='--kd-distill-type logit'):
        task_class(abn, plain)
    with pytest.raises(TrainingError, match='--kd-distill-type logit'):
        task_class(student_model=abn, teacher_model=plain)


def test_an_abn_can_be_the_teacher(abn, plain):
    images, target = batch()
    task = timm.task.LogitDistillationTask(plain, abn, nn.CrossEntropyLoss(), dtype=torch.float64)
    assert task(images, target)['kd_loss'] > 0
    assert task.get_eval_model() is plain


@pytest.mark.filterwarnings('ignore:.*torch.jit.script.*')
def test_scripted_and_attached_networks_are_refused(abn, multi_task_abn):
    with pytest.raises(TrainingError, match='--torchscript cannot train'):
        timm.task.ClassificationTask(torch.jit.script(abn), nn.CrossEntropyLoss())
    with pytest.raises(TrainingError, match='--torchscript cannot train'):
        timm.task.MultiLabelClassificationTask(torch.jit.script(multi_task_abn))
    attached = timm.create_model('attached', backbone='test_resnet', num_classes=CLASSES)
    with pytest.raises(TrainingError, match='timm-abn attach trains attached networks'):
        timm.task.ClassificationTask(attached, nn.CrossEntropyLoss())


def test_moving_average_and_checkpoint_have_the_names_of_the_model(abn):
    images, target = batch()
    task = timm.task.ClassificationTask(abn, nn.CrossEntropyLoss(), dtype=torch.float64)
    task.setup_ema(decay=0.5)
    before = {name: tensor.clone() for name, tensor in abn.state_dict().items()}
    optimizer = torch.optim.SGD(abn.parameters(), lr=1.0)
    task(images, target)['loss'].backward()
    optimizer.step()
    task.update_ema()
    averaged = task.get_checkpoint_state(ema=True)['state_dict_ema']
    assert list(averaged) == list(task.get_checkpoint_state()['state_dict']) == list(before)
    for name in ('attention_branch.class_conv.weight', 'perception_branch.fc.weight'):
        torch.testing.assert_close(averaged[name], (before[name] + abn.state_dict()[name]) / 2)
    task.load_checkpoint_state(before)
    torch.testing.assert_close(abn.state_dict()['perception_branch.fc.weight'], before['perception_branch.fc.weight'])


def test_distributed_on_the_cpu(abn, tmp_path):
    images, target = batch()
    expected = timm.task.ClassificationTask(copy.deepcopy(abn), nn.CrossEntropyLoss())(images, target)['loss']
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        task = timm.task.ClassificationTask(abn, nn.CrossEntropyLoss(), device=torch.device('cpu'))
        task.prepare_distributed(device_ids=[torch.device('cpu')])  # as timm's train.py calls it
        loss = task(images, target)['loss']
        loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(loss, expected)


@pytest.mark.slow  # torch.compile; in the quick tier tests/networks/test_network_contract.py compiles a network
def test_compiled_model_trains_and_validates(abn):
    images, target = batch()
    reference = copy.deepcopy(abn)
    expected = timm.task.ClassificationTask(reference, nn.CrossEntropyLoss())(images, target)['loss']
    task = timm.task.ClassificationTask(abn, nn.CrossEntropyLoss())
    task.compile(backend='eager')
    torch.testing.assert_close(task(images, target)['loss'], expected)
    torch.testing.assert_close(task.get_eval_model().eval()(images), reference.eval()(images))
