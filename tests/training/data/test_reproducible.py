"""Training data depends on seed and epoch alone, and a run that was killed and resumed ends as if it had not been."""

import os
import random
import signal

import numpy as np
import pytest
import timm.data
import torch
from timm_scripts import BOTH, MODEL, STAND_IN, finish, start_training
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from timm_abn.training.data.loader import EpochSampler, SeededDataset, extend_timm_loader, seed_of


class Draws(Dataset):
    """Each sample tells its index and one draw of every random number generator."""

    transform = property(lambda self: None, lambda self, value: None)  # timm's loader sets one

    def __len__(self):
        return 10

    def __getitem__(self, index):
        draws = [index, random.random(), np.random.rand(), torch.rand(()).item()]
        return np.array(draws, dtype=np.float64).reshape(1, 1, 4), index


PLAIN = dict(input_size=(1, 1, 4), batch_size=4, use_prefetcher=False, device=torch.device('cpu'))


def make_loader(seed=1, workers=0, **options):
    extend_timm_loader(seed)
    run = dict(PLAIN, is_training=True, no_aug=True, num_workers=workers)
    return timm.data.create_loader(Draws(), **run, **options)


def epoch_of(loader, epoch=None):
    if epoch is not None:
        loader.dataset.set_epoch(epoch)
    return torch.cat([images for images, _ in loader]).flatten(1)


def test_an_epoch_is_the_same_whatever_came_before():
    loader = make_loader()
    epochs = [epoch_of(loader, number) for number in range(3)]
    torch.rand(7), np.random.rand(7), random.random()
    assert torch.equal(epoch_of(make_loader(), 2), epochs[2])
    assert torch.equal(epoch_of(loader, 1), epochs[1])


@pytest.mark.parametrize('workers', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_epoch_is_the_same_with_any_number_of_workers(workers):
    loader, other = make_loader(), make_loader(workers=workers)
    for epoch in (0, 1, 5):
        assert torch.equal(epoch_of(loader, epoch), epoch_of(other, epoch))


def test_order_and_draws_differ_between_epochs_samples_and_seeds():
    first, second, other = (epoch_of(make_loader(seed), epoch) for seed, epoch in ((1, 0), (1, 1), (2, 0)))
    for this, that in ((first, second), (first, other)):
        assert not torch.equal(this[:, 0], that[:, 0])
        assert not set(this[:, 1:].flatten().tolist()) & set(that[:, 1:].flatten().tolist())
    assert len(set(first[:, 1:].flatten().tolist())) == first[:, 1:].numel()


def test_epochs_differ_for_scripts_that_do_not_say_which_it_is():
    loader = make_loader()
    assert not torch.equal(epoch_of(loader), epoch_of(loader))


def test_the_process_itself_is_seeded_too():
    """For dropout, and for mixup and erasing outside of workers."""
    draws = []
    for before in (0, 3):
        loader = make_loader(workers=1)
        torch.rand(before)
        epoch_of(loader, 4)
        draws.append((torch.rand(()).item(), np.random.rand(), random.random()))
    assert draws[0] == draws[1]


def test_images_of_scheduled_sizes_are_the_same_too(image_folder):
    def epoch(number, workers):
        extend_timm_loader(1)
        dataset = timm.data.create_dataset('', root=str(image_folder), split='train')
        images = dict(input_size=(3, 32, 32), input_size_choices=[24, 32], scale=(0.5, 1.0), device=torch.device('cpu'))
        loader = timm.data.create_loader(dataset, batch_size=4, is_training=True, num_workers=workers, **images)
        for place in (loader.dataset, loader.batch_sampler):  # as timm's script
            place.set_epoch(number)
        return [images for images, _ in loader]

    first, again, another = epoch(2, workers=0), epoch(2, workers=2), epoch(1, workers=0)
    assert {images.shape[-1] for images in first} == {24, 32}
    assert all(torch.equal(one, other) for one, other in zip(first, again))
    assert not all(torch.equal(one, other) for one, other in zip(first, another))


def test_each_process_of_several_draws_its_own():
    def epoch(rank):
        dataset = SeededDataset(Draws(), seed=1, rank=rank)
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank)
        sampler.set_epoch(3)
        return [dataset[index][0].ravel().tolist() for index in EpochSampler(sampler, dataset)]

    first, second = epoch(0), epoch(1)
    assert {sample[0] for sample in first} | {sample[0] for sample in second} == set(range(10))
    assert not {sample[1] for sample in first} & {sample[1] for sample in second}
    assert epoch(0) == first


@pytest.mark.slow
def test_a_number_for_each_tuple_of_numbers():
    seeds = {seed_of(seed, epoch, index) for seed in range(3) for epoch in range(5) for index in range(200)}
    assert len(seeds) == 3000 and all(0 <= seed < 2**32 for seed in seeds)
    assert len({seed_of(1, 2), seed_of(2, 1), seed_of(1, 2, 0), seed_of(3, 0)}) == 4
    bits = np.array([[seed >> bit & 1 for bit in range(32)] for seed in seeds])
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.05


def test_what_cannot_be_seeded_stays_as_in_timm():
    assert not isinstance(make_loader(use_multi_epochs_loader=True).dataset, SeededDataset)
    extend_timm_loader(1)
    assert isinstance(timm.data.create_loader(Draws(), num_workers=0, **PLAIN).dataset, Draws)


RUN = (
    '--num-classes 3 --img-size 32 --batch-size 2 --epochs 4 --device cpu --opt momentum --lr 0.05 --warmup-epochs 0 '
    '--experiment run --model-ema --mixup 0.3 --reprob 0.2'
).split()


def kill_in_epoch(process, epoch):
    """Kill a training run, and all its processes, as soon as it is in the middle of an epoch."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if f'Train: {epoch} [' in line and '[   0/' not in line and '[1/' not in line:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
    raise AssertionError('it ended first:\n' + ''.join(seen))


@pytest.mark.parametrize('scripts', BOTH)
@pytest.mark.parametrize(
    'processes', [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.nightly)]
)
def test_killed_and_resumed(image_folder, tmp_path, scripts, processes):
    flags = ['--workers', 2 if processes == 1 else 0, '--timm-scripts', scripts, '--data-dir', image_folder]
    if scripts != STAND_IN:
        flags += ['--log-interval', 1, *(['--drop', 0.1] if processes == 1 else [])]

    def started(name, *more):
        return start_training(*MODEL, *RUN, *flags, '--output', tmp_path / name, *more, processes=processes)

    finish(started('whole'))
    kill_in_epoch(started('killed'), epoch=1)
    last = tmp_path / 'killed' / 'run' / 'last.pth.tar'
    assert torch.load(last, weights_only=False)['epoch'] < 3  # whole, and not the last one
    finish(started('killed', '--resume', last))
    whole, resumed = (
        torch.load(tmp_path / name / 'run' / 'last.pth.tar', weights_only=False) for name in ('whole', 'killed')
    )
    assert whole['epoch'] == resumed['epoch'] == 3
    for weights in ('state_dict', 'state_dict_ema'):
        for name, tensor in whole[weights].items():
            assert torch.equal(tensor, resumed[weights][name]), f'{name} of {weights}'
