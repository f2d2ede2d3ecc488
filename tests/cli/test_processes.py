import socket

import pytest
import torch.distributed as dist

from timm_abn_cli.processes import process_group

needs_gloo = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason='PyTorch is built without gloo'
)


@pytest.fixture
def torchrun(monkeypatch):
    """The environment of the only process of torchrun."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    variables = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_without_torchrun_there_is_one_process_and_no_group(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with process_group() as processes:
        assert processes == (0, 1) and not dist.is_initialized()


@needs_gloo
def test_a_group_is_left_whatever_happens(torchrun):
    with pytest.raises(KeyError), process_group() as processes:
        assert processes == (0, 1) and dist.get_world_size() == 1
        with process_group() as same:
            assert same == processes
        assert dist.is_initialized()  # of the outer block
        raise KeyError
    assert not dist.is_initialized()
