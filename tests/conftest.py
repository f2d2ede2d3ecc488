"""Fixtures of several modules."""

import pytest
from hub_server import TOKEN, running_hub
from huggingface_hub import constants, file_download


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Yield a Hub on this machine, which huggingface_hub asks in the place of the real one; nobody is logged in."""
    with running_hub() as server:
        monkeypatch.setattr(constants, 'ENDPOINT', server.endpoint)
        template = f'{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
        for module in (constants, file_download):  # older versions have it by name
            monkeypatch.setattr(module, 'HUGGINGFACE_CO_URL_TEMPLATE', template, raising=False)
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
        monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'token'))
        monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True, raising=False)  # there is none before 0.32
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
        monkeypatch.delenv('HF_TOKEN', raising=False)
        yield server


@pytest.fixture
def logged_in(monkeypatch):
    """Log in to the Hub."""
    monkeypatch.setenv('HF_TOKEN', TOKEN)
