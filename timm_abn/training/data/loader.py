"""Loaders of timm's scripts: training data that a resumed run repeats exactly, and the crop of validation images."""

import os
from collections.abc import Callable
from typing import Any

import timm.data
from torch.utils.data import IterableDataset, RandomSampler
from torch.utils.data.distributed import DistributedSampler

from ..errors import TrainingError
from ..map_settings import MaskSettings
from ..replacing import replace
from .masked import MaskedDataset
from .reproducible import EpochSampler, SeededDataset

__all__ = ['extend_timm_loader']


def extend_timm_loader(seed: int, crop_mode: str | None = None, mask_settings: MaskSettings | None = None) -> None:
    """Extend ``timm.data.create_loader`` by a seed of each epoch, the crop of validation images, and human masks.

    timm's ``train.py`` has no flag for that crop. Data that is streamed, repeated augmentation and timm's multi-epochs
    loader stay as they are in timm.
    """

    def create_loader(timm_create: Callable, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get('is_training'):
            if crop_mode:
                kwargs['crop_mode'] = crop_mode
            return timm_create(dataset, *args, **kwargs)
        is_plain = not (isinstance(dataset, IterableDataset) or kwargs.get('num_aug_repeats'))
        if is_plain and not kwargs.get('input_size_choices'):
            _check_size(dataset, kwargs)
        if mask_settings is not None:
            dataset = MaskedDataset(dataset, mask_settings, seed)
        if not is_plain or kwargs.get('use_multi_epochs_loader'):
            return timm_create(dataset, *args, **kwargs)
        seeded = SeededDataset(dataset, seed, rank=int(os.environ.get('RANK', 0)))
        loader = timm_create(seeded, *args, **kwargs)
        # a loader's own sampler cannot be exchanged, but that of its batches can; it is the one that is asked
        batches = loader.batch_sampler
        if isinstance(batches.sampler, (RandomSampler, DistributedSampler)):
            batches.sampler = EpochSampler(batches.sampler, seeded)
        return loader

    replace(timm.data, 'create_loader', create_loader)


def _check_size(dataset: Any, options: dict[str, Any]) -> None:
    """Refuse fewer images than a batch, which timm leaves out: an epoch would be empty."""
    processes = int(os.environ.get('WORLD_SIZE', 1)) if options.get('distributed') else 1
    share, batch_size = -(-len(dataset) // processes), options.get('batch_size', 1)
    if share < batch_size:
        each = f', {share} in each of {processes} processes,' if processes > 1 else ''
        raise TrainingError(
            f'{len(dataset)} images{each} are fewer than a batch of {batch_size}: pass --batch-size {share} or less.'
        )
