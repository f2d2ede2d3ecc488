"""Several methods on one prediction: maps, ranges and scores are those of each method alone."""

import math

import pytest
import torch
from tiny_models import tiny_abn, tiny_images

from timm_abn import TimmAbnError
from timm_abn.explain.comparison import compare_methods
from timm_abn.explain.methods import create_explainers
from timm_abn.explain.metrics import deletion, insertion, symmetric_relevance_gain

METHODS = ['attention', 'class_map', 'grad_cam']


@pytest.fixture(scope='module')
def model():
    return tiny_abn('test_resnet').eval()


@pytest.mark.parametrize('targets', [None, [1, 3]])
def test_equal_to_each_method_alone(model, targets):
    images = tiny_images()
    explainers = create_explainers(METHODS, model)
    comparisons = compare_methods(model, images, explainers, targets, steps=6)
    with torch.no_grad():
        probabilities = model(images).softmax(dim=1)
    own = torch.tensor(targets) if targets else probabilities.argmax(dim=1)
    for index, comparison in enumerate(comparisons):
        assert comparison.predicted == probabilities[index].argmax()
        assert comparison.probability == pytest.approx(probabilities[index].max().item())
        assert comparison.target == own[index]
        assert comparison.target_probability == pytest.approx(probabilities[index, own[index]].item())
        assert [result.method for result in comparison.results] == METHODS
    for column, (name, explainer) in enumerate(explainers.items()):
        maps = explainer(images, own)
        scores = [
            metric(model, images, maps, own, steps=6) for metric in (symmetric_relevance_gain, deletion, insertion)
        ]
        for index, comparison in enumerate(comparisons):
            result = comparison.results[column]
            assert torch.equal(result.map, maps[index : index + 1]), name
            assert (result.low, result.high) == (maps[index].min().item(), maps[index].max().item())
            own_scores = (result.gain, result.deletion, result.insertion)
            assert own_scores == pytest.approx([score[index].item() for score in scores], abs=1e-6)
            assert result.problem == ''


def test_maps_that_say_nothing_have_no_scores(model):
    images = tiny_images(3)
    maps = torch.rand(3, 1, 4, 4)
    maps[1] = 0.5
    maps[2, 0, 0, 0] = float('nan')
    results = [row.results[0] for row in compare_methods(model, images, {'own': lambda x, y: maps}, steps=2)]
    assert [result.problem for result in results] == ['', 'flat map', 'NaN or infinity in the map']
    for name in ('gain', 'deletion', 'insertion'):
        assert [math.isnan(getattr(result, name)) for result in results] == [False, True, True]
    assert (results[1].low, results[1].high) == (0.5, 0.5) and math.isnan(results[2].low)


def test_of_several_tasks_the_most_probable_is_explained():
    model = tiny_abn('test_resnet', multi_task=True).eval()
    images = tiny_images()
    comparisons = compare_methods(model, images, create_explainers(METHODS, model), steps=2)
    explanation = model.explain(images)
    for index, comparison in enumerate(comparisons):
        task = explanation.logits[index].argmax().item()
        assert comparison.predicted == comparison.target == task
        assert comparison.probability == pytest.approx(explanation.logits[index, task].sigmoid().item())
        expected = explanation.attention_map[index, task]
        torch.testing.assert_close(comparison.results[0].map[0, 0], expected, atol=1e-6, rtol=0)


def test_targets_that_are_no_classes(model):
    with pytest.raises(TimmAbnError, match=r'^targets must be in \[0, 4\], got 1 to 5'):
        compare_methods(model, tiny_images(), {}, [1, 5])
