"""Loaders of timm's scripts: training data that a resumed run repeats exactly, human masks, crops of validation.

timm draws order and augmentation from generators that run on through the epochs, and a checkpoint does not hold their
state. Here each epoch begins from its own seed, and each image is augmented from a seed of its own, whatever worker
process reads it.
"""

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import timm.data
import torch
from timm.utils import random_seed
from torch.utils.data import Dataset, IterableDataset, RandomSampler, Sampler
from torch.utils.data.distributed import DistributedSampler

from ..errors import TrainingError
from ..map_settings import MaskSettings
from ..replacing import replace
from .masked import MaskedDataset

__all__ = ['EpochSampler', 'SeededDataset', 'extend_timm_loader', 'seed_of']


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


class SeededDataset(Dataset):
    """Seeds the random number generators of its process before it reads an image."""

    def __init__(self, dataset: Any, seed: int, rank: int = 0) -> None:
        self.dataset, self.seed, self.rank = dataset, seed, rank
        # read by workers, which may live through many epochs
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.announced: int | None = None

    @property
    def transform(self) -> Any:
        """Transform of the data set."""
        return self.dataset.transform

    @transform.setter
    def transform(self, transform: Any) -> None:
        self.dataset.transform = transform

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # not there yet while a copy is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        seed = seed_of(self.seed, self.rank, int(self.epoch), index)
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # not those of devices, which belong to the model
        return self.dataset[index]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that comes next; timm's script calls this."""
        self.announced = epoch

    def begin_epoch(self, epoch: int | None) -> int:
        """Begin an epoch, by default the announced one or that after the last, seed this process, and return it."""
        if epoch is None:
            epoch = int(self.epoch) + 1 if self.announced is None else self.announced
        self.announced = None
        self.epoch.fill_(epoch)
        random_seed(seed_of(self.seed, self.rank, epoch))
        return epoch


class EpochSampler(Sampler):
    """Lets each pass over a sampler begin an epoch of a ``SeededDataset``."""

    def __init__(self, sampler: Sampler, dataset: SeededDataset) -> None:
        self.sampler, self.dataset = sampler, dataset

    def __iter__(self) -> Iterator[int]:
        epoch = self.dataset.begin_epoch(getattr(self.sampler, 'epoch', None))
        if isinstance(self.sampler, RandomSampler):
            self.sampler.generator = torch.Generator().manual_seed(seed_of(self.dataset.seed, 0, epoch))
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Pass the number of the epoch on."""
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)


def seed_of(*numbers: int) -> int:
    """Return a seed of 32 bits that changes with every bit of the numbers, and with their order."""
    # SeedSequence fills up with zeros and takes no negative numbers
    entropy = [len(numbers), *(number % 2**64 for number in numbers)]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
