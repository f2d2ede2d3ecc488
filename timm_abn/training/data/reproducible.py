"""Training data whose order and augmentation depend on nothing but seed and epoch, so that a resumed run is exact.

timm draws both from generators that run on through the epochs, and a checkpoint does not hold their state. Here each
epoch begins from its own seed, and each image is augmented from a seed of its own, whatever worker process reads it.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from timm.utils import random_seed
from torch.utils.data import Dataset, RandomSampler, Sampler

__all__ = ['EpochSampler', 'SeededDataset', 'seed_of']


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
