"""Deletion, insertion and their difference against curves by hand, and against plain loops over real networks."""

import pytest
import timm
import torch
import torch.nn as nn
import torchvision.transforms.functional as TF
from tiny_models import tiny_abn, tiny_images

from timm_abn.errors import TimmAbnError
from timm_abn.explain.metrics import (
    deletion,
    gaussian_blur,
    insertion,
    make_baseline,
    replaced_fractions,
    replacement_curves,
    symmetric_relevance_gain,
)
from timm_abn.explain.metrics.replacement import pixel_ranks
from timm_abn.explain.statistics import bootstrap_mean
from timm_abn.maps.operations import upsample_maps


class Corner(nn.Module):
    """Class 1 with certainty while the pixel at the upper left is 1, class 0 while it is 0, undecided at a half."""

    def forward(self, images):
        light = images[:, 0, 0, 0]
        return torch.stack([torch.zeros_like(light), 2000 * (light - 0.5)], dim=1)


class Share(nn.Module):
    """The probability of class 1 is the mean of the image."""

    def forward(self, images):
        light = images.mean(dim=(1, 2, 3)).clamp(1e-30, 1 - 1e-7)
        return torch.stack([(1 - light).log(), light.log()], dim=1)


def falling(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype).view(1, 1, 2, 2)


ones = torch.ones(1, 1, 2, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    'maps, curve, area',
    [
        (falling(4, 3, 2, 1), [1, 0, 0, 0, 0], 1 / 8),
        (falling(3, 4, 2, 1), [1, 1, 0, 0, 0], 3 / 8),
        (falling(1, 2, 3, 4), [1, 1, 1, 1, 0], 7 / 8),
        (falling(5, 5, 5, 6), [1, 1, 0, 0, 0], 3 / 8),  # equal values in the order of their index
        (falling(5, 5, 5, 5), [1, 0, 0, 0, 0], 1 / 8),
        (falling(-1, -2, -3, -4), [1, 0, 0, 0, 0], 1 / 8),
    ],
)
def test_deletion_by_hand(maps, curve, area):
    black = torch.zeros(1, 1, 1, 1)
    curves = replacement_curves(Corner().eval(), ones, maps, steps=4, baseline=black)
    assert [curves.deleted.tolist(), curves.inserted.tolist()] == [[curve], [[1 - value for value in curve]]]
    assert deletion(Corner().eval(), ones, maps, steps=4).tolist() == [area]
    assert insertion(Corner().eval(), ones, maps, steps=4, baseline=black).tolist() == [1 - area]


def test_steps_that_do_not_divide_the_pixels():
    # after step k of 3, k * 4 // 3 pixels: 1, 2, 4
    assert replaced_fractions(3, (2, 2)).tolist() == [0, 1 / 4, 2 / 4, 1]
    given = Share().eval(), ones, falling(4, 3, 2, 1), [1], 3
    curve = replacement_curves(*given).deleted
    torch.testing.assert_close(curve, torch.tensor([[1, 0.75, 0.5, 0]]), atol=1e-6, rtol=0)
    # the mean is linear in the fraction, so that the area is a half only if the true fractions are the axis
    assert deletion(*given).item() == pytest.approx(0.5, abs=1e-6)
    # more steps than pixels: none is replaced in some
    assert replaced_fractions(8, (2, 2)).tolist() == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1]


def test_each_step_replaces_exactly_these_pixels():
    torch.manual_seed(0)
    images, maps = torch.rand(3, 2, 7, 5), torch.rand(3, 1, 3, 2)
    baseline = torch.rand(1, 2, 7, 5)
    seen = []

    class Recorder(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return x.flatten(1)

    deletion(Recorder().eval(), images, maps, steps=6, baseline=baseline, batch_size=4)
    assert [len(batch) for batch in seen] == [3, *[4] * 4, 2, *[4] * 3, 3]  # whole, deleted, inserted
    order = upsample_maps(maps, (7, 5)).flatten(1).argsort(dim=1, descending=True, stable=True)
    changed = torch.cat(seen[1:6]).view(3, 6, 2, 35)
    for index in range(3):
        for step in range(1, 7):
            expected = images[index].flatten(1).clone()
            replaced = order[index, : step * 35 // 6]
            expected[:, replaced] = baseline[0].flatten(1)[:, replaced]
            assert torch.equal(changed[index, step - 1], expected)


def test_equal_values_follow_each_other_in_the_order_of_their_index():
    maps = torch.randint(3, (2, 1, 40, 40), generator=torch.Generator().manual_seed(0)).float()
    ranks = pixel_ranks(maps, (40, 40)).flatten(1)
    for row, values in zip(ranks.tolist(), maps.flatten(1).tolist()):
        order = sorted(range(1600), key=lambda index: (-values[index], index))
        assert [row[index] for index in order] == list(range(1600))


def test_targets_are_the_predicted_classes_by_default():
    model, images = Corner().eval(), torch.cat([ones, ones * 0])
    maps = torch.cat([falling(4, 3, 2, 1)] * 2)
    assert deletion(model, images, maps, steps=4).tolist() == [1 / 8, 1]  # class 1, class 0
    assert deletion(model, images, maps, targets=torch.tensor([0, 0]), steps=4).tolist() == [7 / 8, 1]
    with pytest.raises(TimmAbnError, match=r'^targets must be in \[0, 1\], got 0 to 2\.$'):
        deletion(model, images, maps, targets=[0, 2], steps=4)
    with pytest.raises(
        TimmAbnError, match=r'^targets must be 2 whole numbers, one per image, got \(1,\) of torch.int64'
    ):
        deletion(model, images, maps, targets=[0], steps=4)


def counted(probability_of, image, replacement, values, steps):
    """Return deletion and insertion of one image in plain loops; the cells of ``values`` are its pixels or patches."""
    cells, patch = values.size, image.shape[1] // values.shape[0]
    flat = values.flatten().tolist()
    order = sorted(range(cells), key=lambda cell: (-flat[cell], cell))
    areas = []
    for start, other in ((image, replacement), (replacement, image)):
        current, scores, fractions = start.clone(), [], []
        for step in range(steps + 1):
            for cell in order[: step * cells // steps]:
                row, column = (patch * place for place in divmod(cell, values.shape[1]))
                place = (slice(None), slice(row, row + patch), slice(column, column + patch))
                current[place] = other[place]
            scores.append(probability_of(current))
            fractions.append((step * cells // steps) / cells)
        pieces = zip(fractions, fractions[1:], scores, scores[1:])
        areas.append(sum((right - left) * (before + after) / 2 for left, right, before, after in pieces))
    return areas


@pytest.mark.parametrize(
    'baseline, patch_size, kind',
    [
        ('mean', 1, {}),
        ('black', 4, {}),
        ('blur', 1, dict(multi_task=True)),
        ('tensor', 2, dict(multi_task=True)),
        ('mean', 4, dict(num_classes=1)),
        ('blur', 2, dict(num_classes=1)),
    ],
)
def test_equal_to_a_count_in_plain_loops(baseline, patch_size, kind):
    model, images = tiny_abn('test_resnet', **kind), tiny_images(size=(24, 16))
    maps = torch.rand(2, 1, 6, 3, generator=torch.Generator().manual_seed(2))
    config = model.pretrained_cfg
    given = {
        'mean': torch.zeros_like(images),
        'black': (-torch.tensor(config['mean']) / torch.tensor(config['std'])).view(1, 3, 1, 1).expand_as(images),
        'blur': TF.gaussian_blur(images, [11, 11], [5.0, 5.0]),
        'tensor': torch.rand(1, 3, 24, 16).expand_as(images),
    }[baseline]
    targets = [1, 0]
    chosen = given if baseline == 'tensor' else baseline
    curves = replacement_curves(model, images, maps, targets, 5, chosen, patch_size, batch_size=3)
    upsampled = nn.functional.interpolate(maps, (24, 16), mode='bilinear')[:, 0].double().numpy()
    cells = upsampled.reshape(2, 24 // patch_size, patch_size, 16 // patch_size, patch_size).mean(axis=(2, 4))
    for index, target in enumerate(targets):

        @torch.no_grad()
        def probability_of(image, target=target):
            logits = model(image[None])[0].double()
            if len(logits) == 1:
                return (logits[0] if target else -logits[0]).sigmoid().item()
            return (logits.sigmoid() if kind else logits.softmax(dim=0))[target].item()

        deleted, inserted = counted(probability_of, images[index], given[index], cells[index], 5)
        assert curves.deletion[index].item() == pytest.approx(deleted, abs=1e-6)
        assert curves.insertion[index].item() == pytest.approx(inserted, abs=1e-6)
        assert curves.gain[index].item() == pytest.approx(inserted - deleted, abs=1e-6)
    arguments = (model, images, maps, targets, 5, chosen, patch_size)
    areas = curves.deletion, curves.insertion, curves.gain
    for score, expected in zip((deletion, insertion, symmetric_relevance_gain), areas):
        torch.testing.assert_close(score(*arguments), expected)


def test_by_default_the_most_probable_task_is_scored():
    model, images, maps = tiny_abn('test_resnet', multi_task=True), tiny_images(), torch.rand(2, 1, 4, 4)
    deleted = replacement_curves(model, images, maps, steps=3).deleted
    torch.testing.assert_close(deleted[:, 0], model(images).sigmoid().max(dim=1).values)


@pytest.mark.parametrize('baseline', ['mean', 'blur', 'linear'])
def test_the_opposite_map_has_the_opposite_gain(baseline):
    model, images = tiny_abn('test_resnet'), tiny_images(size=(16, 16))
    maps = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))  # all values differ
    there, back = (replacement_curves(model, images, sign * maps, [0, 1], 8, baseline) for sign in (1, -1))
    torch.testing.assert_close(there.deleted, back.inserted.flip(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(there.gain, -back.gain, atol=1e-6, rtol=0)
    assert there.gain.abs().min() > 1e-5


def test_noise_has_no_gain_and_the_true_order_has():
    images = 1 + tiny_images(40, size=(16, 16))
    weights = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([0 * weights.flatten(), weights.flatten()]))
    noise = torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    truth = (images * weights).sum(dim=1, keepdim=True)
    for baseline in ('mean', 'linear'):
        gains = [symmetric_relevance_gain(model, images, maps, [1] * 40, 8, baseline) for maps in (noise, truth)]
        of_noise, of_truth = (bootstrap_mean(gain.tolist()) for gain in gains)
        assert of_noise.low < 0 < of_noise.high and of_noise.high - of_noise.low < 0.3
        assert of_truth.low > 0.3


@pytest.mark.parametrize('baseline', ['mean', 'blur', 'linear'])
def test_nothing_depends_on_the_batch_size_or_the_memory_format(baseline):
    model, images = tiny_abn('test_resnet'), tiny_images(3, size=(32, 32))
    maps = torch.rand(3, 1, 4, 4)
    both = [replacement_curves(model, images, maps, None, 5, baseline, batch_size=size) for size in (1, 4, 64)]
    for pair in both[1:]:
        torch.testing.assert_close(pair, both[0])
    channels_last = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(replacement_curves(model, channels_last, maps, None, 5, baseline), both[0])


def test_a_map_with_a_nan_has_no_score():
    maps = torch.cat([falling(4, 3, 2, 1), falling(4, float('nan'), 2, 1), falling(4, float('inf'), 2, 1)])
    images = ones.expand(3, -1, -1, -1)
    scores = deletion(Corner().eval(), images, maps, steps=4)
    assert scores.isnan().tolist() == [False, True, True] and scores[0] == 1 / 8


def test_baselines():
    images = tiny_images(2, size=(12, 14))
    model = timm.create_model('test_resnet')
    mean, std = torch.tensor(model.pretrained_cfg['mean']), torch.tensor(model.pretrained_cfg['std'])
    black = make_baseline('black', model, images)
    torch.testing.assert_close(black * std[:, None, None] + mean[:, None, None], torch.zeros_like(images))
    assert torch.equal(make_baseline('mean', model, images), torch.zeros_like(images))
    torch.testing.assert_close(make_baseline('blur', model, images), TF.gaussian_blur(images, [11, 11], [5.0, 5.0]))
    torch.testing.assert_close(gaussian_blur(images.double()), TF.gaussian_blur(images.double(), [11, 11], [5.0, 5.0]))
    other = torch.rand(1, 3, 12, 14)
    assert torch.equal(make_baseline(other, model, images), other.expand(2, -1, -1, -1))


SHAPE = 'baseline must have a shape that can be broadcast to that of the images'


@pytest.mark.parametrize(
    'baseline, message',
    [
        ('blurr', "There is no baseline 'blurr'; did you mean blur?."),
        ('noise', "There is no baseline 'noise'; there are 'mean', 'black', 'blur', 'linear', or pass a tensor."),
        (
            'black',
            "baseline 'black' needs a model with a pretrained_cfg, which gives its normalisation; pass a tensor.",
        ),
        ('blur', "baseline 'blur' needs images of more than 5 pixels in height and width, got 2 x 2."),
        (torch.zeros(3, 1, 2, 2), f'{SHAPE}, (1, 1, 2, 2), got (3, 1, 2, 2).'),
    ],
)
def test_refused_baselines(baseline, message):
    with pytest.raises(TimmAbnError) as error:
        deletion(Corner().eval(), ones, falling(4, 3, 2, 1), steps=4, baseline=baseline)
    assert str(error.value) == message


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(steps=0), 'steps must be a whole number of 1 or more, got 0.'),
        (dict(steps=10**9), 'steps must be 1000 or fewer for images of 4 pixels, got 1000000000.'),
        (dict(patch_size=3), 'patch_size must divide the size of the images, 2 x 2, got 3.'),
        (dict(batch_size=2.0), 'batch_size must be a whole number of 1 or more, got 2.0.'),
        (dict(maps=torch.rand(1, 2, 2, 2)), 'maps must be floats of shape (1, 1, h, w), one per image, got (1, 2, 2, '),
        (dict(images=torch.ones(1, 2, 2)), 'images must be floats of shape (B, C, H, W), at least one, got (1, 2, 2)'),
        (dict(model=Corner().train()), 'metrics need a model in evaluation mode; call model.eval() first.'),
    ],
)
def test_refused_arguments(changes, message):
    arguments = dict(model=Corner().eval(), images=ones, maps=falling(4, 3, 2, 1), steps=4) | changes
    with pytest.raises(TimmAbnError) as error:
        deletion(**arguments)
    assert str(error.value).startswith(message)
