"""Transforms of timm's scripts: images come upright and as RGB; the crops of the paper's training."""

from collections.abc import Callable, Sequence
from typing import Any

import timm.data.loader
import timm.data.transforms_factory as factory
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torchvision import transforms

from ...data.reading import to_rgb, upright
from ..replacing import replace

__all__ = ['CROP_MODES', 'AsRead', 'extend_timm_transforms']

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


class AsRead:
    """Makes of an image that a data set decoded itself what ``read_image`` would have made of it; grey stays grey."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image upright, in RGB or grey."""
        turned = upright(image)
        return turned if turned.mode in ('RGB', 'L') else to_rgb(turned)


def extend_timm_transforms() -> None:
    """Add the modes of ``CROP_MODES`` to timm's training transforms, and ``AsRead`` to all that its loaders apply."""
    replace(factory, 'transforms_imagenet_train', _transforms_imagenet_train)
    replace(timm.data.loader, 'create_transform', _create_transform)


def _create_transform(timm_create: Callable, *args: Any, **kwargs: Any) -> Any:
    created = timm_create(*args, **kwargs)
    first = created[0] if isinstance(created, tuple) else created
    if isinstance(first, transforms.Compose):
        first.transforms.insert(0, AsRead())
    return created


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
