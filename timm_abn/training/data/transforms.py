"""The crops of the paper's training, beside those of timm's ``--train-crop-mode``."""

from collections.abc import Callable, Sequence
from typing import Any

import timm.data.transforms_factory as factory
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torchvision import transforms

from ..replacing import replace

__all__ = ['CROP_MODES', 'extend_timm_transforms']

Size = int | Sequence[int]


def _pad(size: Size, interpolation: Any) -> Callable:
    """Black border of 4 pixels, random crop (paper, section 4.1: CIFAR and SVHN)."""
    return transforms.RandomCrop(size, padding=4)


def _resize(size: Size, interpolation: Any) -> Callable:
    """Resize to 256 / 224 of the size, random crop (paper, section 4.1: ImageNet)."""
    shorter = size if isinstance(size, int) else min(size)
    return transforms.Compose(
        [transforms.Resize(round(shorter * 256 / 224), interpolation=interpolation), transforms.RandomCrop(size)]
    )


def _squash(size: Size, interpolation: Any) -> Callable:
    """Resize to the size whatever the proportions, no crop (paper, section 4.3: CompCars)."""
    return transforms.Resize((size, size) if isinstance(size, int) else tuple(size), interpolation)


CROP_MODES: dict[str, Callable[[Size, Any], Callable]] = dict(pad=_pad, resize=_resize, squash=_squash)


def extend_timm_transforms() -> None:
    """Add the modes of ``CROP_MODES`` to timm's training transforms."""
    replace(factory, 'transforms_imagenet_train', _transforms_imagenet_train)


def _transforms_imagenet_train(timm_transforms: Callable, img_size: Size = 224, **kwargs: Any) -> Any:
    mode = kwargs.get('train_crop_mode')
    if mode not in CROP_MODES:
        return timm_transforms(img_size, **kwargs)
    built = timm_transforms(img_size, **dict(kwargs, train_crop_mode='rrc'))
    name = kwargs.get('interpolation', 'bilinear')
    crop = CROP_MODES[mode](img_size, str_to_interp_mode('bilinear' if name == 'random' else name))
    steps = (built[0] if isinstance(built, tuple) else built).transforms
    steps[:] = [crop if isinstance(step, RandomResizedCropAndInterpolation) else step for step in steps]
    return built
