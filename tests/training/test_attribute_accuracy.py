"""Metrics of multi-label training, against loops over images and attributes."""

import pytest
import timm
import timm.task
import torch
import torch.distributed

import timm_abn.task  # noqa: F401
from timm_abn.training.branch_accuracy import AttributeEvaluator

TASKS = 4


@pytest.fixture
def predictions():
    torch.manual_seed(0)
    return torch.randn(25, TASKS), torch.randint(0, 2, (25, TASKS)).float()


def accuracy_by_hand(logits, targets, threshold=0.5):
    right = [
        sum((1 / (1 + 2.718281828459045**-logit) >= threshold) == (target == 1) for logit, target in zip(*column))
        for column in zip(logits.T.tolist(), targets.T.tolist())
    ]
    return [100 * count / len(logits) for count in right]


def average_precision_by_hand(logits, targets):
    """Mean over attributes of the mean precision at the rank of each positive."""
    values = []
    for scores, truth in zip(logits.T.tolist(), targets.T.tolist()):
        ranked = [target for _, target in sorted(zip(scores, truth), reverse=True)]
        at_positives = [sum(ranked[: rank + 1]) / (rank + 1) for rank, target in enumerate(ranked) if target]
        values.append(sum(at_positives) / len(at_positives))
    return 100 * sum(values) / len(values)


@pytest.mark.parametrize('threshold', [0.5, 0.8])
def test_evaluator_over_batches_of_different_size(predictions, threshold):
    logits, targets = predictions
    evaluator = AttributeEvaluator(threshold=threshold)
    for batch in zip(logits.split(9), targets.split(9)):
        evaluator.update(*batch)
    metrics = evaluator.compute()
    assert metrics['accuracy'] == pytest.approx(sum(accuracy_by_hand(logits, targets, threshold)) / TASKS)
    assert metrics['map'] == pytest.approx(average_precision_by_hand(logits, targets))
    assert set(metrics) == set(evaluator.metric_names)
    evaluator.reset()
    assert evaluator.compute()['accuracy'] == 0


def test_evaluator_leaves_out_padding(predictions):
    logits, targets = predictions
    evaluator = AttributeEvaluator(max_samples=20)
    for batch in zip(logits.split(9), targets.split(9)):
        evaluator.update(*batch)
    expected = sum(accuracy_by_hand(logits[:20], targets[:20])) / TASKS
    assert evaluator.compute()['accuracy'] == pytest.approx(expected)


def test_evaluator_sums_over_processes(predictions, tmp_path):
    evaluator = AttributeEvaluator()
    evaluator.update(*predictions)
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        assert evaluator.compute(distributed=True) == pytest.approx(evaluator.compute())
    finally:
        torch.distributed.destroy_process_group()


def test_multi_label_task_reports_both_branches(predictions):
    torch.manual_seed(1)
    model = timm.create_model('abn', backbone='test_resnet', num_classes=TASKS, multi_task=True)
    images, targets = torch.randn(25, 3, 32, 32), predictions[1]
    task = timm.task.MultiLabelClassificationTask(model, verbose=False)
    eval_model, evaluator = task.get_eval_model().eval(), task.create_evaluator()
    for batch, truth in zip(images.split(9), targets.split(9)):
        evaluator.update(eval_model(batch), truth)
    metrics = evaluator.compute()
    explanation = model.explain(images)
    for prefix, logits in (('', explanation.logits), ('attention_', explanation.attention_logits)):
        assert metrics[f'{prefix}map'] == pytest.approx(average_precision_by_hand(logits, targets))
        assert metrics[f'{prefix}accuracy'] == pytest.approx(sum(accuracy_by_hand(logits, targets)) / TASKS)
    assert metrics['map'] != metrics['attention_map']


def test_baseline_reports_the_same_metrics():
    task = timm.task.MultiLabelClassificationTask(timm.create_model('test_resnet', num_classes=TASKS), verbose=False)
    assert isinstance(task.create_evaluator(), AttributeEvaluator)
    assert task.create_evaluator(max_samples=3).max_samples == 3


@pytest.mark.parametrize('module', [timm.task, timm.task.evaluator])
def test_scripts_without_a_task_find_it_under_the_names_of_timm(module):
    assert module.MultiLabelClassificationEvaluator is AttributeEvaluator
    assert AttributeEvaluator.__mro__[1].__name__ == 'MultiLabelClassificationEvaluator'  # timm's own, not itself
