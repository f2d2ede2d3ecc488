import os
import socket
import subprocess
import sys
import time

import pytest
import torch.distributed as dist

from timm_abn import TimmAbnError
from timm_abn.explain import processes
from timm_abn.explain.processes import local_rank, process_group

needs_gloo = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason='PyTorch is built without gloo'
)


@pytest.fixture
def torchrun(monkeypatch):
    """Set what torchrun sets, of two processes with a free port, and what a test says."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    names = dict(RANK='0', WORLD_SIZE='2', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))

    def torchrun(**given):
        for name, value in {**names, **given}.items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)

    return torchrun


@pytest.mark.parametrize(
    'left',
    [
        dict(RANK=''),
        dict(WORLD_SIZE=''),
        dict(WORLD_SIZE='1'),
        dict(RANK='3', LOCAL_RANK='x', WORLD_SIZE='1', MASTER_ADDR='', MASTER_PORT=''),
    ],
)
def test_one_process_is_alone_whatever_is_left_in_the_environment(torchrun, left):
    torchrun(**left)
    with process_group() as processes:
        assert processes == (0, 1) and not dist.is_initialized() and local_rank() == 0


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (
            dict(MASTER_ADDR=''),
            'WORLD_SIZE is 2, but MASTER_ADDR, where the processes connect, is not set; start them with t',
        ),
        (dict(MASTER_PORT=''), 'but MASTER_PORT'),
        (dict(RANK='x'), "RANK must be a number, got 'x'"),
        (dict(RANK='2'), 'RANK is 2, but WORLD_SIZE is 2'),
        (dict(MASTER_PORT='-1'), "MASTER_PORT must be a number, got '-1'"),
        (dict(MASTER_ADDR='nowhere.invalid'), 'cannot connect at nowhere.invalid'),
        ({}, 'not all processes connected to 127.0.0.1'),
    ],
)
def test_several_without_each_other_are_one_line(torchrun, monkeypatch, wrong, message):
    torchrun(**wrong)
    monkeypatch.setattr(processes, '_PATIENCE', 0.2)
    monkeypatch.setattr(dist, 'init_process_group', lambda *_: time.sleep(60))  # as it does where nobody comes
    with pytest.raises(TimmAbnError, match=message) as raised, process_group():
        pass
    assert '\n' not in str(raised.value)


OTHER = 'from timm_abn.explain.processes import process_group\nwith process_group() as found: assert found == (1, 2)'


@needs_gloo
@pytest.mark.slow
def test_a_group_is_left_whatever_happens(torchrun):
    torchrun()
    paths = os.pathsep.join(filter(None, sys.path))
    other = subprocess.Popen([sys.executable, '-c', OTHER], env=dict(os.environ, RANK='1', PYTHONPATH=paths))
    with pytest.raises(KeyError), process_group() as found:
        assert found == (0, 2) and dist.get_world_size() == 2
        with process_group() as same:
            assert same == found
        assert dist.is_initialized()  # of the outer block
        raise KeyError
    assert not dist.is_initialized() and other.wait() == 0
