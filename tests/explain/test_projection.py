"""Features before and after attention: they are what the network computes, and numbers are those of small cases."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import tiny_abn, tiny_attached, tiny_backbone, tiny_images

from timm_abn import TimmAbnError
from timm_abn.data.samples import Sample
from timm_abn.explain.projection import AttendedFeatures, aligned, attended_features, project, separation


def samples_of(images, labels=None):
    labels = labels or [None] * len(images)
    return [Sample(f'{i}.png', x, labels[i]) for i, x in enumerate(images)]


def features_of(before, after, labels):
    names = [str(index) for index in range(len(before))]
    return AttendedFeatures(names, labels, torch.tensor(before), torch.tensor(after), [])


@pytest.mark.parametrize('backbone', ['test_resnet', 'test_vit', 'swin_tiny_patch4_window7_224'])
@pytest.mark.parametrize('mechanism', ['residual', 'product'])
def test_features_are_those_of_the_network(backbone, mechanism):
    model = tiny_abn(backbone, mechanism=mechanism).eval()
    images = tiny_images(5)
    seen = {}
    model.feature_extractor.register_forward_hook(lambda module, args, output: seen.update(before=output))
    model.gate.register_forward_hook(lambda module, args, output: seen.update(after=output.x))
    found = attended_features(model, samples_of(images, [0, 1, None, 2, 1]), batch_size=2)
    assert found.names == [f'{index}.png' for index in range(5)] and found.labels == [0, 1, None, 2, 1]
    with torch.no_grad():
        model(images)
    for name in ('before', 'after'):
        expected = model.layout.to_maps(seen[name], images).mean(dim=(2, 3))
        torch.testing.assert_close(getattr(found, name), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found.before, found.after, atol=1e-3)


def test_an_image_that_cannot_be_read_is_a_problem_of_its_own():
    class Broken(list):
        def __getitem__(self, index):
            if super().__getitem__(index) is None:
                raise ValueError('x.png cannot be read. Really')
            return super().__getitem__(index)

    model = tiny_abn('test_resnet').eval()
    samples = samples_of(tiny_images(4))
    found = attended_features(model, Broken([*samples[:2], None, *samples[2:]]), batch_size=2)
    assert len(found.before) == 4 and found.problems == ['x.png cannot be read']
    with pytest.raises(
        TimmAbnError, match='^a picture of features needs 4 images or more, got 3 .x.png cannot be read'
    ):
        attended_features(model, Broken([*samples[:3], None]))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (
            lambda: tiny_backbone('test_resnet').eval(),
            '^only an Attention Branch Network has features before and after',
        ),
        (lambda: tiny_abn('test_resnet', multi_task=True), 'for each of its 5 tasks; only networks with one'),
        (lambda: tiny_attached('test_resnet'), '^only an Attention Branch Network .* the model is a AttachedNet'),
        (lambda: tiny_abn('test_resnet').train(), '^features need a model in evaluation mode'),
    ],
)
def test_models_that_are_refused(make, message):
    with pytest.raises(TimmAbnError, match=message):
        attended_features(make(), samples_of(tiny_images(4)))


def test_separation_of_a_small_case():
    pytest.importorskip('sklearn')
    # before: both classes mixed on a line; after: far from each other, one point of class 1 among those of class 0
    before = [[0.0], [2.0], [4.0], [6.0], [1.0], [3.0], [5.0], [7.0]]
    after = [[0.0], [1.0], [2.0], [3.0], [100.0], [101.0], [102.0], [103.0]]
    labels = [0, 0, 0, 0, 1, 1, 1, 1]
    found = separation(features_of(before, after, labels))
    assert list(found) == ['silhouette', '5-NN accuracy']
    accuracy = found['5-NN accuracy']
    # three of the five nearest are the others of the class
    assert accuracy.after.mean == 1.0 and accuracy.before.mean < 0.5
    assert accuracy.difference.mean == pytest.approx(1.0 - accuracy.before.mean)
    # of the first point: mean distance to its class 2, to the other 101.5
    silhouettes = [1 - 2 / 101.5, 1 - (4 / 3) / 100.5, 1 - (4 / 3) / 99.5, 1 - 2 / 98.5]
    assert found['silhouette'].after.mean == pytest.approx(np.mean(silhouettes))
    assert found['silhouette'].after.number == 8


def test_ties_go_to_the_nearest():
    pytest.importorskip('sklearn')
    points = [[0.0], [1.0], [3.0], [3.5], [10.0]]
    # four neighbours: of the last there are two of each class, and the nearest is of its own
    found = separation(features_of(points, points, [0, 0, 1, 1, 1]))
    assert found['5-NN accuracy'].before.mean == pytest.approx(3 / 5)


def test_images_of_no_known_class_do_not_count():
    pytest.importorskip('sklearn')
    points = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).tolist()
    labels = [0, 1] * 5
    known = separation(features_of(points[:10], points[:10], labels))
    assert separation(features_of(points, points, [*labels, None, None])) == known
    assert known['silhouette'].before.number == 10


@pytest.mark.parametrize('labels', [[None] * 4, [1] * 4, [0, 1, 2, 3], [0, 1, None, None]])
def test_classes_that_say_nothing(labels):
    pytest.importorskip('sklearn')
    assert separation(features_of([[0.0]] * 4, [[0.0]] * 4, labels)) == {}


def test_projection_keeps_groups_apart_and_is_the_same_again():
    pytest.importorskip('sklearn')
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    features[20:] += 30
    points = project(features)
    assert points.shape == (40, 2) and np.isfinite(points).all()
    assert np.array_equal(points, project(features)) and not np.array_equal(points, project(features, seed=1))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert distances[:20, :20].mean() < distances[:20, 20:].mean()


def test_projection_of_features_that_are_all_alike_or_not_finite():
    pytest.importorskip('sklearn')
    for shape in ((4, 1), (5, 3), (40, 2)):
        assert np.isfinite(project(torch.ones(shape))).all()
    with pytest.raises(TimmAbnError, match='^features contain NaN or infinity'):
        project(torch.full((5, 2), float('nan')))


def test_alignment_turns_and_mirrors():
    reference = np.random.default_rng(0).normal(size=(20, 2))
    turned = reference @ np.array([[0.6, 0.8], [0.8, -0.6]]) + 5
    expected = reference - reference.mean(axis=0)
    np.testing.assert_allclose(aligned(turned, reference), expected, atol=1e-12)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    features = features_of([[0.0]] * 4, [[0.0]] * 4, [0, 0, 1, 1])
    for call in (lambda: project(features.before), lambda: separation(dataclasses.replace(features))):
        with pytest.raises(TimmAbnError, match=r"^this needs scikit-learn: pip install 'timm-abn\[plot\]'"):
            call()
