"""Training transforms of timm that move a mask exactly as they move its image.

Each step that moves pixels is done once more on the mask, with the random numbers that it drew for the image; so a mask
is cropped, resized, padded and flipped like a channel of the image. Steps that change colours leave masks alone.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from timm.data import transforms as timm_transforms
from timm.data.random_erasing import RandomErasing
from torchvision import transforms

from ..errors import TrainingError
from .transforms import AsRead

__all__ = ['PairedTransform']

_MOVING = (
    timm_transforms.CenterCropOrPad,
    timm_transforms.RandomCropOrPad,
    timm_transforms.RandomResizedCropAndInterpolation,
    timm_transforms.ResizeKeepRatio,
    transforms.CenterCrop,
    transforms.RandomCrop,
    transforms.RandomHorizontalFlip,
    transforms.RandomVerticalFlip,
    transforms.Resize,
)
_COLOURING = (
    AsRead,  # a mask was fitted to what is read
    RandomErasing,  # what is erased is still where it was
    timm_transforms.MaybePILToTensor,
    timm_transforms.MaybeToTensor,
    transforms.ColorJitter,
    transforms.GaussianBlur,
    transforms.Normalize,
    transforms.RandomGrayscale,
)


class PairedTransform:
    """Applies a training transform of timm's ``create_transform`` to an image and its masks (mode 'L')."""

    def __init__(self, transform: Any) -> None:
        """
        Raises:
            TrainingError: It has a step of which it is not known what it would do to a mask.
        """
        self.transform = transform
        self.steps = _steps(transform)
        for step in self.steps:
            at_random = step.transforms if isinstance(step, transforms.RandomApply) else [None]
            if not isinstance(step, (*_MOVING, *_COLOURING)) and not all(isinstance(s, _COLOURING) for s in at_random):
                raise TrainingError(f'masks cannot follow the transform {type(step).__name__} of the training images.')

    def __call__(self, image: Image.Image, masks: Sequence[Image.Image]) -> tuple[Any, list[Image.Image]]:
        """Return what became of an image, and of its masks."""
        moved = list(masks)
        for step in self.steps:
            if not masks or not isinstance(step, _MOVING):
                image = step(image)
                continue
            before = random.getstate(), torch.get_rng_state()
            image = step(image)
            after = random.getstate(), torch.get_rng_state()
            for index, mask in enumerate(moved):
                _set_random_state(before)
                moved[index] = step(mask)
            _set_random_state(after)
        return image, moved


def _steps(transform: Any) -> list[Any]:
    if not isinstance(transform, transforms.Compose):
        return [transform]
    return [inner for step in transform.transforms for inner in _steps(step)]


def _set_random_state(state: tuple[Any, torch.Tensor]) -> None:
    random.setstate(state[0])
    torch.set_rng_state(state[1])
