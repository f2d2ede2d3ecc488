"""The metrics give what Quantus 0.6, torch-cam 0.5 and SciPy give, where the definitions agree.

Where they do not:

- Quantus' pixel flipping counts each channel of a pixel as a feature of its own, orders equal values at random, and
  leaves out the whole image; its area is that over the number of steps. Compared: images of one channel, our curves
  from the first step on.
- Quantus' pointing game counts a hit if any of several equal maxima lies on the mask; ours looks at the first.
- Quantus' relevance mass accuracy adds up negative values too; ours counts positive ones. Maps that are not negative.
- Quantus divides maps by their largest value first (``normalise``), on which none of our scores depends, and takes
  absolute values for some (``abs``).
- Quantus gives all modules of one shape the same random weights, and does not restore PyTorch's random numbers. The
  randomised models compared are ours in both.
- torch-cam's deletion and insertion have one baseline for both, steps of ``ceil(H * W / steps)`` pixels, the last one
  smaller: the same as ours where ``steps`` divides H * W. It returns means over images.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from tiny_models import tiny_abn, tiny_images

from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import (
    deletion,
    energy,
    insertion,
    pointing_game,
    random_head,
    rank_correlation,
    replacement_curves,
)

SIZE = 12


def network(channels=1):
    torch.manual_seed(0)
    layers = nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)).eval()


def data(channels=1, batch_size=4):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch_size, channels, SIZE, SIZE, generator=generator)
    maps = torch.rand(batch_size, 1, SIZE, SIZE, generator=generator)
    masks = torch.rand(batch_size, 1, SIZE, SIZE, generator=generator) > 0.6
    return images, maps, masks


def quantus_scores(metric, model, images, maps, targets, masks=None, **kwargs):
    arrays = dict(x_batch=images.numpy(), y_batch=targets.numpy(), a_batch=maps.numpy().copy())
    if masks is not None:
        arrays['s_batch'] = masks.numpy()
    return metric(model=model, channel_first=True, device='cpu', **arrays, **kwargs)


@pytest.fixture
def quantus():
    return pytest.importorskip('quantus')


@pytest.mark.parametrize('features_in_step', [1, 6])
def test_pixel_flipping_of_quantus(quantus, features_in_step):
    model, (images, maps, _) = network(), data()
    targets = torch.tensor([0, 1, 2, 3])
    metric = quantus.PixelFlipping(
        features_in_step=features_in_step, perturb_baseline=0.0, disable_warnings=True, normalise=False
    )
    theirs = torch.tensor(quantus_scores(metric, model, images, maps, targets, softmax=True))
    ours = replacement_curves(model, images, maps, targets, SIZE * SIZE // features_in_step)
    torch.testing.assert_close(ours.deleted[:, 1:], theirs.float(), atol=1e-5, rtol=0)


def test_localisation_of_quantus(quantus):
    model, (images, maps, masks) = network(), data(batch_size=24)
    targets = torch.zeros(len(images), dtype=torch.long)
    for metric, ours in (
        (quantus.PointingGame(disable_warnings=True), pointing_game(maps, masks)),
        (quantus.RelevanceMassAccuracy(disable_warnings=True), energy(maps, masks)),
    ):
        theirs = quantus_scores(metric, model, images, maps, targets, masks)
        torch.testing.assert_close(ours, torch.tensor(np.array(theirs, dtype=np.float32)), atol=1e-5, rtol=0)
    assert 0 < pointing_game(maps, masks).mean() < 1


@torch.enable_grad()
def saliency(model, images, targets):
    """Return the absolute gradient, the sum over channels, of the logits of targets."""
    images = images.clone().requires_grad_()
    logits = model(images).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(logits, images)[0].abs().sum(dim=1, keepdim=True)


def test_randomisation_of_quantus(quantus, monkeypatch):
    from quantus.helpers.model.pytorch_model import PyTorchModel

    model, (images, _, _) = network(), data()
    targets = torch.tensor([0, 1, 2, 3])
    maps = saliency(model, images, targets)
    with random_head(model, seed=5):
        ours = rank_correlation(maps, saliency(model, images, targets))

    def explain(model, inputs, targets, **kwargs):
        return saliency(model, torch.as_tensor(inputs), torch.as_tensor(targets)).numpy()

    def with_random_head(self, order, seed):
        with random_head(self.model, seed=5):
            yield 'head', self.model

    monkeypatch.setattr(PyTorchModel, 'get_random_layer_generator', with_random_head)
    metric = quantus.MPRT(disable_warnings=True, abs=False)
    theirs = quantus_scores(metric, model, images, maps, targets, explain_func=explain)
    assert list(theirs) == ['original', 'head']
    torch.testing.assert_close(ours, torch.tensor(theirs['head']).double(), atol=1e-5, rtol=0)


def test_rank_correlation_of_scipy():
    stats = pytest.importorskip('scipy.stats')
    _, maps, _ = data()
    others = ((maps + torch.rand(maps.shape, generator=torch.Generator().manual_seed(2))) * 8).round()  # with ties
    theirs = [stats.spearmanr(a.flatten(), b.flatten())[0] for a, b in zip(maps.numpy(), others.numpy())]
    torch.testing.assert_close(rank_correlation(maps, others), torch.tensor(theirs), atol=1e-12, rtol=0)


def test_deletion_and_insertion_of_torchcam():
    metrics, methods = pytest.importorskip('torchcam.metrics'), pytest.importorskip('torchcam.methods')
    model, (images, _, _) = network(3), data(3)
    with methods.GradCAM(model, target_layer=model[3]) as extractor:
        probabilities = model(images).softmax(dim=1)  # their metric explains these, not the logits
        (maps,) = extractor(probabilities.argmax(dim=1).tolist(), probabilities)
        assert maps.shape[1:] != images.shape[2:]  # both upsample
        for baseline in (None, torch.rand(1, 3, 1, 1)):
            metric = metrics.DeletionInsertionMetric(
                extractor, partial(torch.softmax, dim=-1), steps=36, baseline=baseline, batch_size=7
            )
            metric.update(images)
            theirs = metric.summary()
            ours = 'mean' if baseline is None else baseline
            with torch.no_grad(), extractor._hooks_off():
                areas = [score(model, images, maps[:, None], None, 36, ours).mean() for score in (deletion, insertion)]
            assert areas[0].item() == pytest.approx(theirs['deletion_auc'], abs=1e-5)
            assert areas[1].item() == pytest.approx(theirs['insertion_auc'], abs=1e-5)


def test_our_explainers_go_into_quantus_as_the_tutorial_says(quantus):
    page = Path(__file__).parents[3] / 'docs' / 'tutorials' / 'scores.md'
    (code,) = re.findall(r'^```py\n(.*?)^```', page.read_text(encoding='utf-8'), re.MULTILINE | re.DOTALL)
    names = dict(torch=torch, create_explainer=create_explainer, model=tiny_abn('test_resnet'), images=tiny_images(2))
    exec(code, names)
    assert len(names['scores']) == 2 and all(score > 0 for score in names['scores'])
