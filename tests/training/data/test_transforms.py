"""The crops of the paper, against what they must do to a picture whose pixels tell where they came from."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision import transforms

from timm_abn.training.data.transforms import extend_timm_transforms


def picture(height, width):
    """Red tells the row, green the column, both counted from 1; blue is full."""
    rows, columns = np.mgrid[1 : height + 1, 1 : width + 1]
    return Image.fromarray(np.stack([rows, columns, np.full_like(rows, 255)], axis=2).astype(np.uint8))


def train_transform(size, mode, **options):
    extend_timm_transforms()  # again and again, which changes nothing
    return create_transform(
        size, is_training=True, train_crop_mode=mode, hflip=0.0, color_jitter=None, use_prefetcher=True, **options
    )


def test_pad():
    crop = train_transform((3, 32, 32), 'pad')
    corners = set()
    for seed in range(200):
        torch.manual_seed(seed)
        image = crop(picture(32, 32))
        assert image.shape == (3, 32, 32)
        inside = image[2] > 0
        rows, columns = torch.where(inside)
        first = image[:, rows[0], columns[0]]
        top, left = int(rows[0] - first[0] + 1), int(columns[0] - first[1] + 1)
        assert abs(top) <= 4 and abs(left) <= 4
        assert image[:, ~inside].eq(0).all()  # black, before normalisation
        expected = torch.arange(32) + 1 - top
        assert (image[0].max(dim=1).values == torch.where((expected > 0) & (expected <= 32), expected, 0)).all()
        corners.add((top, left))
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(-4, 5))


def test_resize():
    built = train_transform((3, 224, 224), 'resize', interpolation='bilinear')
    crop = built.transforms[0]
    assert crop.transforms[0](picture(100, 200)).size == (512, 256)
    assert built(picture(100, 200)).shape == (3, 224, 224)
    torch.manual_seed(0)
    first = {built(picture(100, 200))[1, 0, 0].item() for _ in range(20)}
    assert len(first) > 3  # crops at random


def test_squash():
    image = train_transform((3, 24, 36), 'squash', interpolation='bicubic')(picture(100, 200))
    assert image.shape == (3, 24, 36)
    assert image[0, 0].max() < 8 and image[0, -1].min() > 92  # nothing was cut away
    assert image[1, :, 0].max() < 8 and image[1, :, -1].min() > 192


def test_modes_of_timm_and_the_other_steps_stay():
    kinds = [type(step).__name__ for step in train_transform((3, 32, 32), None).transforms]
    assert kinds == ['RandomResizedCropAndInterpolation', 'MaybePILToTensor']
    assert type(train_transform((3, 32, 32), 'rkrr').transforms[0]).__name__ == 'ResizeKeepRatio'
    assert len(train_transform((3, 32, 32), 'pad').transforms) == 2
    steps = dict(train_crop_mode='pad', hflip=0.5, color_jitter=0.4, auto_augment='rand-m9')
    built = create_transform((3, 32, 32), is_training=True, use_prefetcher=True, separate=True, **steps)
    assert [type(step) for step in built[0].transforms] == [transforms.RandomCrop, transforms.RandomHorizontalFlip]
    assert len(built) == 3
    with pytest.raises(AssertionError):
        train_transform((3, 32, 32), 'unknown')
