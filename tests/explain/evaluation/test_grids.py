"""GridPG over a data set: equal to calling the metric on all images at once."""

import pytest
import torch
from tiny_models import tiny_abn

from timm_abn import Sample, TimmAbnError, evaluate
from timm_abn.explain.evaluation import grids
from timm_abn.explain.metrics import explain_mosaics, grid_pointing_game, make_mosaics, predict


def samples_of(model):
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    classifier = model.get_classifier()
    with torch.no_grad():  # sure of itself, and of several classes
        classifier.bias -= model(images).mean(dim=0)
        classifier.weight *= 3000
        classifier.bias *= 3000
    predicted = predict(model, images, 8).argmax(dim=1).tolist()
    return images, [Sample(f'{place}', *pair) for place, pair in enumerate(zip(images, predicted))]


def test_grid_pointing_game_is_the_metric(tmp_path):
    model = tiny_abn('test_resnet')
    images, samples = samples_of(model)

    def mine(batch, targets):
        return batch[:, :1] * (targets + 1).view(-1, 1, 1, 1) + batch[:, 1:2]

    evaluation = evaluate(model, samples, dict(mine=mine), tmp_path, steps=2, grid=2)
    labels = torch.tensor([sample.label for sample in samples])
    mosaics = make_mosaics(model, images, labels, cells=2)
    shares = grid_pointing_game(explain_mosaics(mine, mosaics), mosaics.images.shape[2:])
    rows = [row for row in evaluation.rows if row['method'] == 'mine']
    for place, row in enumerate(rows):
        shown = shares[mosaics.members == place]
        expected = shown.mean().item() if len(shown) else float('nan')
        assert row['grid_pointing_game'] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    found = evaluation.scores['mine']['grid_pointing_game']
    assert found.number == len(mosaics.members.unique()) and 'random' in evaluation.scores
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / 'mosaics').iterdir()}
    again = evaluate(model, samples, dict(mine=mine), tmp_path, steps=2, grid=2)
    assert again.scores['mine']['grid_pointing_game'] == found
    assert parts == {path: path.stat().st_mtime_ns for path in (tmp_path / 'mosaics').iterdir()}


def test_too_few_classes_are_a_finding():
    evaluation = evaluate(tiny_abn('test_resnet'), [Sample('a', torch.zeros(3, 32, 32))], ['centre'], steps=2, grid=2)
    assert [line[:44] for line in evaluation.findings if 'GridPG' in line] == [
        'no GridPG: Mosaics of 2 x 2 need images of 4'
    ]
    assert 'grid_pointing_game' not in evaluation.metrics


@pytest.mark.parametrize(
    ('arguments', 'grid', 'message'),
    [
        (
            dict(backbone='swin_tiny_patch4_window7_224'),
            2,
            r'a grid of 2 x 2 needs a network that takes images of \d+ x \d+',
        ),
        (dict(backbone='test_resnet', multi_task=True), 2, 'a grid shows one class in each cell'),
        (dict(backbone='test_resnet'), 1, 'grid must be a whole number of 2 or more, got 1'),
    ],
)
def test_a_network_without_a_grid_is_refused(arguments, grid, message):
    with pytest.raises(TimmAbnError, match=message):
        grids.check_grid(tiny_abn(**arguments), grid)
