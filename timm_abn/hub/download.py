"""Files of weights that come from elsewhere: fetched, compared with their checksum, and looked at before they are used.

timm's own loaders do the loading, of safetensors or with ``torch.load(weights_only=True)``. This module sees to it that
a damaged download does not stay in the cache, that the file describes the network that it is for, and that what goes
wrong is said in one line.
"""

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import Dict, Iterator, Optional, Union

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import safe_open

from ..errors import one_line
from ..staging import staged_files
from .config import HubError

__all__ = [
    'CONFIG_NAME',
    'WEIGHTS_NAME',
    'fetch_file',
    'fetch_weights',
    'local_weights',
    'one_line_errors',
    'read_header',
]

WEIGHTS_NAME = 'model.safetensors'
CONFIG_NAME = 'config.json'

_WEIGHT_ENDINGS = ('.safetensors', '.bin', '.pth', '.tar')


def fetch_weights(hub_id: str, cache_dir: Optional[Union[str, Path]] = None) -> Optional[Path]:
    """Download the safetensors file of a repository, or find it in the cache.

    Args:
        hub_id: Repository, with '@' and a revision if not the newest.
        cache_dir: Folder of the cache; that of huggingface_hub by default.

    Returns:
        The file in the cache, or None if the repository holds none, which leaves timm to look for other formats.

    Raises:
        HubError: It cannot be downloaded, or is damaged.
    """
    try:
        return fetch_file(hub_id, WEIGHTS_NAME, cache_dir)
    except _FileNotInRepository:
        return None


class _FileNotInRepository(HubError):
    pass


def fetch_file(hub_id: str, name: str, cache_dir: Optional[Union[str, Path]] = None) -> Path:
    """Download a file of a repository, or find it in the cache, and check its checksum.

    Args:
        hub_id: Repository, with '@' and a revision if not the newest.
        name: Name of the file.
        cache_dir: Folder of the cache; that of huggingface_hub by default.

    Raises:
        HubError: It cannot be downloaded, or is damaged.
    """
    repository, _, revision = hub_id.partition('@')
    with one_line_errors(hub_id):
        path = Path(hf_hub_download(repository, name, revision=revision or None, cache_dir=cache_dir))
    _check_checksum(path, hub_id)
    return path


def _check_checksum(path: Path, hub_id: str) -> None:
    """Compare a file of the cache with its checksum, and take it out of the cache if it is damaged."""
    if not path.is_symlink():  # a file system without links: the checksum is not known
        return
    target = Path(os.readlink(path))
    if not re.fullmatch('[0-9a-f]{64}', target.name):
        return  # not a large file: its name is a checksum of git
    state, record = _state_of(path), _CHECKED_FILES / target.name
    if record.is_file() and record.read_text() == state:
        return  # hashed when it was fetched, and not changed since
    checksum = _checksum_of(path)
    if checksum != target.name:
        (path.parent / target).unlink(missing_ok=True)
        path.unlink()
        raise HubError(
            f'{hub_id}: {path.name} was damaged on the way: its checksum is {checksum[:12]}... instead of '
            f'{target.name[:12]}...; it was removed from the cache, so that another attempt downloads it again.'
        )
    with contextlib.suppress(OSError), staged_files(record.parent) as staging:  # where it cannot be kept, hash again
        (staging / record.name).write_text(state)


def _checksum_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


_CHECKED_FILES = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'timm_abn' / 'checked'


def _state_of(path: Path) -> str:
    status = path.stat()
    return f'{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}'


def local_weights(folder: Union[str, Path]) -> Optional[Path]:
    """Return the safetensors file of a folder, or None, which leaves timm to look for other formats.

    Args:
        folder: The folder.

    Raises:
        HubError: It is no folder, or something in it has the name of a file of weights but is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise HubError(f'{folder} is not a folder.')
    for path in folder.iterdir():
        if path.name.endswith(_WEIGHT_ENDINGS) and not path.is_file():  # timm would wait for a pipe for ever
            raise HubError(f'{path} is not a file, nor a link to one.')
    path = folder / WEIGHTS_NAME
    return path if path.exists() else None


def read_header(path: Path, origin: str) -> Dict[str, torch.Tensor]:
    """Return what a safetensors file says it holds: tensors that have a shape but no values.

    Args:
        path: The file.
        origin: Where it comes from, for messages.

    Raises:
        HubError: It is not a safetensors file, is cut off, or says other sizes than it has.
    """
    with one_line_errors(origin), safe_open(path, framework='pt') as file:
        return {name: torch.empty(file.get_slice(name).get_shape(), device='meta') for name in file.keys()}


@contextlib.contextmanager
def one_line_errors(origin: str, cannot_be: str = 'loaded from') -> Iterator[None]:
    """Turn whatever goes wrong inside into a ``HubError``.

    Args:
        origin: Repository or folder, for messages.
        cannot_be: What cannot be done with it if something unforeseen happens.
    """
    repository, _, revision = origin.partition('@')
    try:
        yield
    except HubError:
        raise
    except GatedRepoError as error:
        raise HubError(
            f'{repository} asks its users to agree to its terms: do so at {constants.ENDPOINT}/{repository}, and log '
            'in with hf auth login, or set HF_TOKEN.'
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f'there is no repository {repository} at {constants.ENDPOINT}, or it is private: check the name, and log '
            'in with hf auth login, or set HF_TOKEN.'
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f'{repository} has no revision {revision!r}.') from error
    except LocalEntryNotFoundError as error:
        raise HubError(
            f'{constants.ENDPOINT} cannot be reached, and {repository} is not in the cache: {one_line(error)}.'
        ) from error
    except EntryNotFoundError as error:
        name = str(getattr(getattr(error, 'response', None), 'url', '')).rpartition('/')[2]
        # timm's last resort
        missing = f'{WEIGHTS_NAME}, nor pytorch_model.bin' if name == 'pytorch_model.bin' else name or 'such file'
        raise _FileNotInRepository(f'{origin} holds no {missing}.') from error
    except HFValidationError as error:
        raise HubError(f'{repository!r} is not the name of a repository: {one_line(error)}.') from error
    except Exception as error:  # on damaged files torch and safetensors raise errors of a dozen types
        raise HubError(f'{origin} cannot be {cannot_be}: {one_line(error)}.') from error
