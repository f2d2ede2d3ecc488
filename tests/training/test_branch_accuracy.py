"""Accuracy of the attention branch on validation data, against counting by hand."""

import csv
from collections import OrderedDict

import pytest
import timm
import timm.task
import timm.utils
import torch
import torch.nn as nn

import timm_abn.task  # noqa: F401  extends timm's tasks

CLASSES = 7


@pytest.fixture
def task():
    torch.manual_seed(0)
    model = timm.create_model('abn', backbone='test_resnet', num_classes=CLASSES)
    return timm.task.ClassificationTask(model, nn.CrossEntropyLoss(), verbose=False)


def batches():
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(size, 3, 32, 32, generator=generator), torch.randint(0, CLASSES, (size,), generator=generator))
        for size in (8, 8, 5)
    ]


def by_hand(task):
    """Return the top-1 accuracies of both branches, in percent."""
    model = task.get_trainable_module().eval()
    correct = torch.zeros(2)
    for images, target in batches():
        explanation = model.explain(images)
        for index, logits in enumerate((explanation.logits, explanation.attention_logits)):
            correct[index] += (logits.argmax(1) == target).sum()
    return (correct / 21 * 100).tolist()


def test_evaluator_of_timm_counts_both(task):
    model, evaluator = task.get_eval_model(), task.create_evaluator()
    model.eval()
    for images, target in batches():
        evaluator.update(model(images), target)
    metrics = evaluator.compute()
    perception, attention = by_hand(task)
    assert metrics['top1'] == pytest.approx(perception) and metrics['attention_top1'] == pytest.approx(attention)
    assert perception != attention
    assert list(metrics)[:3] == ['loss', 'top1', 'top5'] and evaluator.summary() == metrics
    assert evaluator.default_metric == 'top1'


def test_multi_label_evaluator_counts_both(task):
    task = timm.task.MultiLabelClassificationTask(task.get_trainable_module(), verbose=False)
    model, evaluator = task.get_eval_model(), task.create_evaluator()
    model.eval()
    for images, target in batches():
        evaluator.update(model(images), nn.functional.one_hot(target, CLASSES).float())
    assert {'map', 'attention_map', 'attention_macro_f1'} <= set(evaluator.compute())


def test_script_that_counts_itself_gets_both_in_its_summary(task, tmp_path, caplog):
    caplog.set_level('INFO')
    model, top1 = task.get_eval_model(), timm.utils.AverageMeter()
    for _ in range(2):  # a second validation, of an EMA for example, counts anew
        model.eval()
        top1.reset()
        with torch.inference_mode():
            for images, target in batches():
                top1.update(timm.utils.accuracy(model(images), target, topk=(1, 5))[0].item(), len(images))
    metrics = OrderedDict(loss=1.0, top1=top1.avg)
    timm.utils.update_summary(
        0, OrderedDict(loss=2.0), metrics, filename=str(tmp_path / 'summary.csv'), write_header=True
    )
    row = next(csv.DictReader((tmp_path / 'summary.csv').open()))
    perception, attention = by_hand(task)
    assert float(row['eval_top1']) == pytest.approx(perception)
    assert float(row['eval_attention_top1']) == pytest.approx(attention)
    assert f'top1 {perception:.2f}, attention_top1 {attention:.2f}' in caplog.text


def test_evaluation_returns_the_logits_of_the_model(task):
    images = batches()[0][0]
    model = task.get_eval_model()
    expected = task.get_trainable_module().eval()(images)
    torch.testing.assert_close(model.eval()(images), expected, rtol=0, atol=0)
    assert isinstance(model.train()(images), tuple)


def test_batches_of_other_models_are_not_mixed_in(task):
    model = task.get_eval_model().eval()
    images, target = batches()[0]
    model(images)
    timm.utils.accuracy(torch.randn(3, CLASSES), target[:3])  # not the batch above
    metrics = OrderedDict(top1=1.0)
    timm.utils.update_summary(0, {}, metrics, filename='/dev/null')
    assert 'attention_top1' not in metrics
