"""What outputs mean: one logit is a no and a yes, labels are sigmoids, in everything that reads a probability."""

import dataclasses

import pytest
import timm
import torch
from tiny_models import tiny_abn, tiny_attached, tiny_backbone, tiny_images

import timm_abn
from timm_abn.explain.comparison import compare_methods
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import predict, replacement_curves
from timm_abn.explain.metrics.reliance import reliance
from timm_abn.export.graph import export_metadata
from timm_abn.records import EXPLAINED_BY, Record, answers, explained_by, num_answers, record_of, set_record

METHODS = ('grad_cam', 'recipro_cam', 'class_map')


def flattest(model, images):
    """Return the images in the order of the model's only logit, of which some are below 0 and some above."""
    with torch.no_grad():
        classifier = model.get_classifier()
        classifier.bias.data -= model(images).mean()
    return images


@pytest.mark.parametrize('make', [tiny_abn, tiny_attached, tiny_backbone])
def test_one_logit_is_a_no_and_a_yes(make):
    model = make('test_resnet', num_classes=1).eval()
    images = flattest(model, tiny_images(6))
    with torch.no_grad():
        logits = model(images)
    assert logits.min() < 0 < logits.max() and logits.shape == (6, 1)
    p = 1 / (1 + (-logits.double()).exp())
    expected = torch.cat([1 - p, p], dim=1).float()
    torch.testing.assert_close(predict(model, images, 4), expected)
    assert (num_answers(model), record_of(model).probabilities) == (2, 'sigmoid')
    assert export_metadata(model, 'it')['probabilities'] == 'sigmoid'
    # the score is the probability of the predicted answer, p or 1 - p, or of the one that is asked for
    maps = torch.rand(6, 1, 4, 4)
    for targets, scores in ((None, expected.max(dim=1).values), ([0] * 6, expected[:, 0])):
        curves = replacement_curves(model, images, maps, targets, steps=4)
        torch.testing.assert_close(curves[0][:, 0], scores)
        torch.testing.assert_close(curves[1][:, -1], scores)
        assert curves[0].unique().numel() > 6
    results = compare_methods(model, images, {'maps': lambda *_: maps}, steps=2)
    assert [comparison.predicted for comparison in results] == (logits[:, 0] > 0).long().tolist()


def test_explanation_of_one_logit():
    model = tiny_abn('test_resnet', num_classes=1)
    explanation = model.explain(flattest(model, tiny_images(6)))
    yes = explanation.logits[:, 0] > 0
    probabilities, classes = explanation.top_k(5)
    assert (
        classes.shape == (6, 2) and torch.equal(classes[:, 0], yes.long()) and bool((probabilities[:, 0] > 0.5).all())
    )
    # what speaks for the answer that is given
    sign = torch.where(yes, 1.0, -1.0).view(-1, 1, 1, 1)
    torch.testing.assert_close(explanation.contrast_map(), sign * explanation.class_maps)
    with pytest.raises(timm_abn.TimmAbnError, match='from 0 to 1'):
        explanation.contrast_map(torch.full((6,), 2))


@pytest.mark.parametrize('method', METHODS)
def test_methods_explain_either_answer(method):
    model = tiny_abn('test_resnet', num_classes=1)
    images = flattest(model, tiny_images(6))
    explainer = create_explainer(method, model)
    predicted = (model(images)[:, 0] > 0).long()
    no, yes = (explainer(images, torch.full((6,), target)) for target in (0, 1))
    assert torch.equal(explainer(images), torch.where(predicted.view(-1, 1, 1, 1) == 1, yes, no))
    assert not torch.allclose(no, yes)
    with pytest.raises(timm_abn.TimmAbnError, match='from 0 to 1'):
        explainer(images, torch.full((6,), 2))


def test_grad_cam_of_a_no_is_that_of_the_opposite_logit():
    model = tiny_backbone('test_resnet', num_classes=1).eval()
    images = tiny_images(3)
    no = create_explainer('grad_cam', model)(images, torch.zeros(3, dtype=torch.long))
    with torch.no_grad():
        model.get_classifier().weight.neg_()
    yes = create_explainer('grad_cam', model)(images, torch.ones(3, dtype=torch.long))
    torch.testing.assert_close(no, yes)
    assert no.max() > 0


def test_labels_are_sigmoids():
    model = tiny_abn('test_resnet')
    images, softmax = tiny_images(3), model.explain(tiny_images(3)).probabilities
    torch.testing.assert_close(softmax.sum(dim=1), torch.ones(3))
    set_record(model, Record('sigmoid'))
    explanation = model.explain(images)
    expected = 1 / (1 + (-explanation.logits).exp())
    torch.testing.assert_close(explanation.probabilities, expected)
    torch.testing.assert_close(explanation[0].probabilities, expected[:1])
    torch.testing.assert_close(predict(model, images, 2), expected)
    right = (explanation.logits > 0).float()
    assert reliance(model, images, right).accuracy == 1 and reliance(model, images, 1 - right).accuracy == 0
    with pytest.raises(timm_abn.TimmAbnError, match=r'labels must have shape \(3, 5\)'):
        reliance(model, images, torch.zeros(3, dtype=torch.long))
    assert record_of(model).entries() == dict(probabilities='sigmoid')


@pytest.mark.parametrize('kind', EXPLAINED_BY)
def test_the_map_that_explains_best_is_that_of_the_record(kind):
    model, images = tiny_abn('test_resnet'), tiny_images(2)
    assert explained_by(model) == explained_by(tiny_attached('test_resnet', refined=True)) == 'attention'
    assert explained_by(tiny_attached('test_resnet')) == 'class_map'
    set_record(model, Record(explained_by=kind))
    explanation = model.explain(images)
    attention_map, class_map, contrast = explanation.attention_map, explanation.class_map(), explanation.contrast_map()
    low, high = (getattr(class_map, name)(dim=(2, 3), keepdim=True) for name in ('amin', 'amax'))
    centred = class_map - class_map.mean(dim=(2, 3), keepdim=True)
    expected = attention_map, centred, contrast, attention_map * (class_map - low) / (high - low)
    found = explanation.explaining_map()
    torch.testing.assert_close(found, expected[EXPLAINED_BY.index(kind)])
    pixels = torch.rand(2, 3, *images.shape[2:])
    drawn = found.clamp(min=0) if kind in ('class_map', 'contrast') else found
    assert torch.equal(explanation.overlay(pixels), explanation.overlay(pixels, maps=drawn))
    assert export_metadata(model, 'it')['explained_by'] == kind
    assert Record.take(record_of(model).entries()).explained_by == kind


def test_packaged_weights_say_what_explains_them():
    name = 'abn_resnet20_cifar.fashion_mnist'
    kinds = {tag: explained_by(timm_abn.load_model(f'{name}{tag}')) for tag in ('', '_faithful')}
    assert kinds == {'': 'product', '_faithful': 'class_map'}
    assert explained_by(timm.create_model(f'{name}_faithful')) == 'attention'  # without the weights
    assert explained_by(timm.create_model('cam_resnet110_cifar', num_blocks=1)) == 'class_map'


def test_a_single_task_keeps_its_probability_of_a_yes():
    model = tiny_abn('test_resnet', num_classes=1, multi_task=True)
    explanation = model.explain(tiny_images(2))
    torch.testing.assert_close(explanation.probabilities, explanation.logits.sigmoid())
    assert num_answers(model) == 1 and dataclasses.asdict(record_of(model))['probabilities'] == 'sigmoid'


def test_the_softmax_of_both_answers_is_the_sigmoid_of_the_logit():
    logits = torch.tensor([[-200.0], [-3.0], [0.0], [80.0]], dtype=torch.float64)
    torch.testing.assert_close(answers(logits, True).softmax(dim=1)[:, 1:], logits.sigmoid())
    assert answers(logits, False) is logits
    assert not answers(torch.zeros(1, 1), True).signbit().any()  # '-0' in tables


@pytest.mark.parametrize('kwargs', [dict(num_classes=1), dict(multi_task=True)])
def test_contradictions(kwargs):
    model = tiny_abn('test_resnet', **kwargs)
    with pytest.raises(timm_abn.TimmAbnError, match="^probabilities='softmax' needs classes that exclude each other"):
        set_record(model, Record('softmax'))
    for record, said in ((dict(probabilities='logistic'), "'logistic'"), (dict(explained_by='heat'), "'heat'")):
        with pytest.raises(timm_abn.TimmAbnError, match=f'^{next(iter(record))} must be one of .*, got {said}'):
            Record(**record)
    if kwargs.get('multi_task'):
        with pytest.raises(timm_abn.TimmAbnError, match="^explained_by='contrast' needs classes that exclude"):
            set_record(model, Record(explained_by='contrast'))
