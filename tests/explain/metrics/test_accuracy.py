"""Scores of uneven classes, counted by hand and by scikit-learn."""

import pytest
import torch

from timm_abn.explain.metrics.accuracy import are_uneven, area_under_roc, balanced_accuracy, uneven_scores


def test_one_class_is_always_said():
    labels = [0] * 280 + [1] * 20
    probabilities = torch.tensor([[0.9, 0.1]]).repeat(300, 1)
    assert uneven_scores(labels, probabilities) == dict(balanced_accuracy=0.5, area_under_roc=0.5)
    assert not uneven_scores([0, 1, 0, 1], probabilities[:4])
    assert are_uneven([0, 0, 3]) and not are_uneven([0, 0, 0, 3, 3]) and not are_uneven([2, 2]) and not are_uneven([])


def test_pairs_are_counted():
    # of the pairs (a positive, a negative) .4 > .1, .2 and = .4; .8 > all three
    probabilities = torch.tensor([0.1, 0.2, 0.4, 0.4, 0.8])
    both = torch.stack([1 - probabilities, probabilities], dim=1)
    assert area_under_roc([0, 0, 0, 1, 1], both) == pytest.approx(5.5 / 6)
    assert balanced_accuracy([0, 0, 0, 1, 1], (probabilities > 0.3).long()) == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.slow
def test_as_scikit_learn():
    metrics = pytest.importorskip('sklearn.metrics')
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (200,), generator=generator)
    probabilities = (torch.randn(200, 4, generator=generator) + 2 * torch.eye(4)[labels]).softmax(dim=1)
    predicted = probabilities.argmax(dim=1)
    assert balanced_accuracy(labels.tolist(), predicted) == pytest.approx(
        metrics.balanced_accuracy_score(labels, predicted)
    )
    assert area_under_roc(labels.tolist(), probabilities) == pytest.approx(
        metrics.roc_auc_score(labels, probabilities, multi_class='ovr', average='macro'), abs=1e-6
    )
