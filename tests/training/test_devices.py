"""Where a run computes if nobody says so: on the CPU if there is no GPU, channels last where that is faster."""

import argparse

import pytest
import timm
import torch
from timm_scripts import MODEL, SMALL

from timm_abn.training.devices import choose_device, choose_memory_format

SAID = 'torch finds no GPU: running on the CPU.'


@pytest.fixture
def gpu(monkeypatch):
    return lambda is_there: monkeypatch.setattr(torch.cuda, 'is_available', lambda: is_there)


def settings(*said, **changes):
    values = dict(device='cuda', resume=None, recorded={}, channels_last=False)
    return argparse.Namespace(**{**values, **changes}, said=set(said))


@pytest.mark.parametrize('script', ['train.py', 'validate.py', 'benchmark.py', 'inference.py'])
def test_the_cpu_where_there_is_no_gpu(gpu, script):
    gpu(False)
    run = settings()
    assert choose_device(script, run) == ['--device', 'cpu'] and run.device == 'cpu'
    assert choose_device('clean_checkpoint.py', settings()) == []  # which has no such flag
    gpu(True)
    assert choose_device(script, settings()) == []


def test_it_is_said_once_and_trains(launch, gpu, image_folder, tmp_path, capfd):
    gpu(False)
    place = SMALL.index('--device')
    run = [*MODEL, *SMALL[:place], *SMALL[place + 2 :], '--data-dir', image_folder, '--output', tmp_path]
    assert launch('train.py', *run) == 0
    assert capfd.readouterr().err.splitlines().count(f'timm-abn-train: {SAID}') == 1
    checkpoint = torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=False)
    assert checkpoint['args'].device == 'cpu' and checkpoint['args'].channels_last
    # in the file safetensors could take them
    assert all(tensor.is_contiguous() for tensor in checkpoint['state_dict'].values())


def test_a_gpu_that_was_asked_for_is_not_replaced(launch, gpu, capfd):
    gpu(False)
    assert launch('train.py', '--model', 'abn_resnet18', '--device', 'cuda', '--data-dir', '.') == 2
    (error,) = capfd.readouterr().err.splitlines()
    assert error == 'timm-abn-train: error: --device cuda: torch finds no such GPU; leave it out to use the CPU.'


def model(name='abn', **kwargs):
    return timm.create_model(name, num_classes=3, device=torch.device('meta'), **kwargs)


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (dict(backbone='test_resnet'), True),
        (dict(backbone='tf_efficientnet_lite0'), True),
        (dict(backbone='test_vit'), False),
        (dict(backbone='test_resnet', multi_task=True), False),
    ],
)
def test_channels_last_where_it_is_faster(arguments, expected):
    found = choose_memory_format('train.py', settings(device='cpu'), model(**arguments))
    assert found == (['--channels-last'] if expected else [])


@pytest.mark.parametrize(
    ('said', 'changes', 'expected'),
    [
        (['channels_last'], dict(device='cpu'), []),  # its own flag, or "channels_last: false" in a config
        ([], dict(device='cuda'), []),
        ([], dict(device='cpu', resume='last.pth.tar'), []),  # as the run was begun
        ([], dict(device='cpu', resume='last.pth.tar', recorded=dict(channels_last=True)), ['--channels-last']),
    ],
)
def test_what_was_said_or_begun_stays(said, changes, expected):
    assert choose_memory_format('train.py', settings(*said, **changes), model(backbone='test_resnet')) == expected
    assert choose_memory_format('train.py', settings(device='cpu'), None) == []  # not of this package
