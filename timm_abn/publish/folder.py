"""Folders that the Hugging Face Hub takes and ``timm.create_model`` loads: weights, configuration, model card."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from timm.models import save_for_hf

from ..errors import shortened
from ..hub.building import check_folder
from ..hub.config import HubError, read_config
from ..hub.download import CONFIG_NAME, WEIGHTS_NAME, one_line_errors
from ..records import record_of
from .model_card import readdress

__all__ = ['CARD_NAME', 'SPACE_NAMES', 'check_repository_name', 'copy_hub_folder', 'publish_folder', 'save_hub_folder']

CARD_NAME = 'README.md'
SPACE_NAMES = ('app.py', 'requirements.txt')  # what a Space holds besides
MAX_CARD_BYTES = 2**20


def save_hub_folder(
    model: nn.Module,
    folder: str | Path,
    card: str,
    data_config: Mapping[str, Any] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> None:
    """Write ``model.safetensors``, ``config.json`` and ``README.md`` into a folder, which is created if needed.

    ``timm.create_model('local-dir:<folder>', pretrained=True)`` loads the folder, and the Hub accepts it unchanged.

    Args:
        model: A model made by ``timm.create_model``; its arguments are stored.
        folder: The folder.
        card: The model card.
        data_config: Preprocessing of the weights (``input_size``, ``crop_pct``, ``interpolation``, ``mean``, ``std``),
            if it differs from the model's ``pretrained_cfg``.
        pretrained_cfg: Entries of ``pretrained_cfg`` to store instead of the model's.

    Raises:
        HubError: The model has arguments that could not be read back, or weights that are not finite.
    """
    folder = Path(folder)
    wrong = [name for name, tensor in model.named_parameters() if not bool(tensor.isfinite().all())]
    if wrong:
        raise HubError(f'the weights contain NaN or infinity, in {shortened(wrong, 3)}: nothing was written.')
    save_for_hf(
        model,
        str(folder),
        model_config=dict(pretrained_cfg=dict(pretrained_cfg or {}), **record_of(model).entries()),
        data_config=dict(data_config) if data_config else None,
        safe_serialization=True,
    )
    read_config(folder / CONFIG_NAME, 'what would be written')
    # safetensors writes a file that nobody else may read
    (folder / WEIGHTS_NAME).chmod((folder / CONFIG_NAME).stat().st_mode)
    (folder / CARD_NAME).write_text(card, encoding='utf-8')


def copy_hub_folder(source: str | Path, folder: str | Path, address: str) -> dict[str, Any]:
    """Copy what ``save_hub_folder`` wrote, checked, with a card that loads the weights from their new address.

    Other files of ``source`` are left out.

    Returns:
        What the ``config.json`` holds.

    Raises:
        HubError: A file is missing, is a link, or cannot be used; nothing is copied.
    """
    source, folder = Path(source), Path(folder)
    for name in (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME):
        path = source / name
        if path.is_symlink():  # it may lead to anything on this machine
            raise HubError(f'{path} is a link; only regular files are published.')
        if not path.is_file():
            raise HubError(
                f'{source} holds no {name}; timm-abn convert and timm-abn publish --dry-run write such folders.'
            )
    config = check_folder(source)
    card = source / CARD_NAME
    try:
        if card.stat().st_size > MAX_CARD_BYTES:
            raise ValueError(f'it has more than {MAX_CARD_BYTES} bytes.')
        text = readdress(card.read_text(encoding='utf-8'), address)
    except ValueError as error:
        raise HubError(f'{card} is not the model card of an Attention Branch Network: {error}') from None
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        shutil.copyfile(source / name, folder / name)
    (folder / CARD_NAME).write_text(text, encoding='utf-8')
    return config


def check_repository_name(repository: str) -> None:
    """Raise HubError unless ``repository`` could be the name of a repository of the Hub, USER/NAME."""
    if repository.count('/') != 1:
        raise HubError(f'{repository!r} is not the name of a repository: it must be USER/NAME.')
    with one_line_errors(repository):
        validate_repo_id(repository)


def publish_folder(
    folder: str | Path, repository: str, private: bool = False, revision: str | None = None, space: bool = False
) -> str:
    """Publish what ``save_hub_folder`` wrote, and ``make_space`` added, in one commit.

    The repository and the branch ``revision`` are created if they do not exist. A Space is a page, not a model.

    Returns:
        Address of the commit.

    Raises:
        HubError: There is no token, it does not permit this, the repository exists and is public although ``private``
            is set, or the Hub cannot be reached. Then no file is published.
    """
    if not get_token():
        raise HubError(f'{constants.ENDPOINT} needs a token to publish: log in with hf auth login, or set HF_TOKEN.')
    names = (WEIGHTS_NAME, CONFIG_NAME, CARD_NAME, *(SPACE_NAMES if space else ()))
    files = [CommitOperationAdd(name, Path(folder) / name) for name in names]
    repo_type = 'space' if space else 'model'
    api = HfApi(library_name='timm-abn')
    with one_line_errors(repository, 'published to'):
        try:
            is_private = api.repo_info(repository, repo_type=repo_type).private
        except RepositoryNotFoundError:
            api.create_repo(repository, private=private, repo_type=repo_type, space_sdk='gradio' if space else None)
            is_private = private
        if private and not is_private:
            raise HubError(f'{repository} exists and is public; leave out --private, or choose another name.')
        if revision:
            api.create_branch(repository, branch=revision, exist_ok=True, repo_type=repo_type)
        message = 'Publish an Attention Branch Network'
        commit = api.create_commit(repository, files, commit_message=message, revision=revision, repo_type=repo_type)
    return str(commit.commit_url)
