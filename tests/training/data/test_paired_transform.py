"""Masks that follow their images, pixel by pixel: a mask becomes what a channel of the image that holds it becomes."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms

from timm_abn.training.data.paired_transform import PairedTransform
from timm_abn.training.data.transforms import extend_timm_transforms
from timm_abn.training.errors import TrainingError

MODES = ['rrc', 'rkrc', 'rkrr', 'pad', 'resize', 'squash', 'none']
COLOURS = dict(color_jitter=0.4, grayscale_prob=0.5, gaussian_blur_prob=0.5)


def pictures(height=53, width=47):
    """Return two masks, and an image of them and of the columns, whose numbers tell where a pixel came from."""
    drawn = np.random.default_rng(0)
    first = np.zeros((height, width), dtype=np.uint8)
    first[drawn.integers(5, 20) :, 10 : drawn.integers(25, 40)] = 255
    second = (drawn.random((height, width)) < 0.5).astype(np.uint8) * 255
    columns = np.broadcast_to(np.arange(width, dtype=np.uint8) * 5, (height, width))
    image = Image.fromarray(np.stack([first, second, columns], axis=2))
    return image, [Image.fromarray(first), Image.fromarray(second)]


def transform_of(mode, size=32, **options):
    options = dict(dict(color_jitter=None, hflip=0.5, vflip=0.5, use_prefetcher=True), **options)
    extend_timm_transforms()
    kind = dict(no_aug=True) if mode == 'none' else dict(train_crop_mode=mode)
    return create_transform(size, is_training=True, **kind, **options)


def seed(number):
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.mark.parametrize('interpolation', ['random', 'bicubic', 'bilinear'])
@pytest.mark.parametrize('mode', MODES)
def test_masks_become_what_a_channel_becomes(mode, interpolation):
    image, masks = pictures()
    paired = PairedTransform(transform_of(mode, interpolation=interpolation))
    seen = set()
    for number in range(12):
        seed(number)
        moved, moved_masks = paired(image, masks)
        assert moved.shape == (3, 32, 32) and moved.dtype == torch.uint8
        for channel, mask in zip(moved, moved_masks):
            assert np.array_equal(channel.numpy(), np.asarray(mask))
        seen.add(moved.numpy().tobytes())
    assert len(seen) == 1 if mode == 'none' else len(seen) > 2  # the draws differ


@pytest.mark.parametrize('size', [(3, 24, 40), (3, 64, 64)])
@pytest.mark.parametrize('mode', ['rrc', 'rkrc', 'rkrr', 'squash'])
def test_other_sizes(mode, size):
    image, masks = pictures()
    seed(1)
    moved, moved_masks = PairedTransform(transform_of(mode, size))(image, masks)
    assert moved.shape == size
    assert all(np.array_equal(channel, np.asarray(mask)) for channel, mask in zip(moved.numpy(), moved_masks))


@pytest.mark.parametrize('prefetcher', [True, False])
@pytest.mark.parametrize('mode', MODES)
def test_colours_change_the_image_alone_and_masks_do_not_change_its_augmentation(mode, prefetcher):
    image, masks = pictures()
    options = dict(COLOURS, use_prefetcher=prefetcher, re_prob=1.0)
    plain, coloured = transform_of(mode), transform_of(mode, **options)
    for number in range(6):
        seed(number)
        expected = plain(image)
        seed(number)
        without_masks = coloured(image)
        draws = random.random(), torch.rand(()).item(), np.random.rand()
        seed(number)
        moved, moved_masks = PairedTransform(coloured)(image, masks)
        assert torch.equal(moved, without_masks)
        assert draws == (random.random(), torch.rand(()).item(), np.random.rand())
        for channel, mask in zip(expected, moved_masks):
            assert np.array_equal(channel.numpy(), np.asarray(mask))


def test_images_without_masks_are_transformed_as_they_were():
    image, _ = pictures()
    transform = transform_of('rrc', **COLOURS)
    seed(4)
    expected = transform(image)
    seed(4)
    moved, masks = PairedTransform(transform)(image, [])
    assert torch.equal(moved, expected) and masks == []


@pytest.mark.parametrize(
    ('step', 'name'),
    [
        (transforms.RandomRotation(30), 'RandomRotation'),
        (transforms.RandomApply([transforms.RandomPerspective()]), 'RandomApply'),
        (create_transform(32, is_training=True, auto_augment='rand-m9').transforms[2], 'RandAugment'),
    ],
)
def test_unknown_steps_are_refused(step, name):
    with pytest.raises(TrainingError, match=f'masks cannot follow the transform {name} of the training images'):
        PairedTransform(transforms.Compose([transforms.Resize(32), transforms.Compose([step])]))
