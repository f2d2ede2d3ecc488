"""Files that come from elsewhere: fetched, compared with their checksum, and looked at before they are used.

timm's own loaders do the loading, of safetensors or with ``torch.load(weights_only=True)``. This module sees to it that
a damaged download does not stay in the cache, that the file describes the network that it is for, and that what goes
wrong is reported in one line.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import constants, errors, hf_hub_download
from safetensors import safe_open

from ..checkpoint_files import check_header_size
from ..errors import one_line
from ..staging import staged_file
from .config import HubError

__all__ = ['CONFIG_NAME', 'WEIGHTS_NAME', 'fetch_file', 'find_weights', 'one_line_errors', 'read_header']

WEIGHTS_NAME = 'model.safetensors'
CONFIG_NAME = 'config.json'

_WEIGHT_ENDINGS = ('.safetensors', '.bin', '.pth', '.tar')

_LOG_IN = 'log in with hf auth login, or set HF_TOKEN'
_CHECK = f'check the name, and {_LOG_IN}'
# what went wrong -> what we say, the special before the general
_MESSAGES = (
    (
        errors.GatedRepoError,
        f'{{name}} requires users to accept its terms: do so at {{hub}}/{{name}}, and {_LOG_IN}.',
    ),
    (errors.RepositoryNotFoundError, f'there is no repository {{name}} at {{hub}}, or it is private: {_CHECK}.'),
    (errors.RevisionNotFoundError, '{name} has no revision {revision!r}.'),
    (errors.LocalEntryNotFoundError, '{hub} cannot be reached, and {name} is not in the cache: {error}.'),
    (errors.EntryNotFoundError, '{origin} holds no {file}.'),
    (errors.HFValidationError, '{name!r} is not the name of a repository: {error}.'),
    (Exception, '{origin} cannot be {cannot_be}: {error}.'),  # of damaged files a dozen types
)


def find_weights(source: str, place: str, cache_dir: str | Path | None = None) -> Path | None:
    """Return the safetensors file of a folder ('local-dir') or a repository ('hf-hub'), downloaded if need be.

    None if there is none, which leaves timm to look for other formats.

    Raises:
        HubError: It cannot be downloaded, or is damaged; or there is no such folder, or no file behind a name in it.
    """
    if source == 'hf-hub':
        try:
            return fetch_file(place, WEIGHTS_NAME, cache_dir)
        except HubError as error:
            cause = error.__cause__
            if isinstance(cause, errors.EntryNotFoundError) and not isinstance(cause, errors.LocalEntryNotFoundError):
                return None
            raise
    folder = Path(place)
    if not folder.is_dir():
        raise HubError(f'{folder} is not a folder.')
    for path in folder.iterdir():
        if path.name.endswith(_WEIGHT_ENDINGS) and not path.is_file():  # timm would wait for a pipe for ever
            raise HubError(f'{path} is not a file, nor a link to one.')
    return folder / WEIGHTS_NAME if (folder / WEIGHTS_NAME).exists() else None


def fetch_file(hub_id: str, name: str, cache_dir: str | Path | None = None) -> Path:
    """Download a file of a repository (with '@' and a revision if not the newest), and check its checksum.

    Raises:
        HubError: It cannot be downloaded, or is damaged.
    """
    repository, _, revision = hub_id.partition('@')
    with one_line_errors(hub_id):
        path = Path(hf_hub_download(repository, name, revision=revision or None, cache_dir=cache_dir))
    _check_checksum(path, hub_id)
    return path


def _check_checksum(path: Path, hub_id: str) -> None:
    """Compare a file of the cache with its checksum, and remove it from the cache if it is damaged.

    A file that was compared before is not read again until its size or its modification time changes.
    """
    if not path.is_symlink():  # a file system without links: the checksum is not known
        return
    blob = path.resolve()
    if not re.fullmatch('[0-9a-f]{64}', blob.name):
        return  # not a large file: its name is a checksum of git
    status = blob.stat()
    state = f'{blob} {status.st_size} {status.st_mtime_ns} {status.st_ino}'.encode()
    unknown = contextlib.suppress(OSError, RuntimeError)  # no record yet, or no place to keep one: hash each time
    with unknown:
        if _record_of(blob).read_bytes() == state:
            return
    checksum = _checksum_of(blob)
    if checksum != blob.name:
        blob.unlink(missing_ok=True)
        path.unlink()
        raise HubError(
            f'{hub_id}: {path.name} was damaged in transit: its checksum is {checksum[:12]}... instead of '
            f'{blob.name[:12]}...; it was removed from the cache; try again.'
        )
    with unknown, staged_file(_record_of(blob)) as staged:
        staged.write_bytes(state)


def _checksum_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _record_of(blob: Path) -> Path:
    """Return the file that says in which state a file of the cache was compared with its checksum."""
    caches = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    return caches / 'timm_abn' / 'checked' / hashlib.sha256(os.fsencode(blob)).hexdigest()


def read_header(path: Path, origin: str) -> dict[str, torch.Tensor]:
    """Return what a safetensors file says it holds: tensors that have a shape but no values.

    Raises:
        HubError: It is not a safetensors file, is cut off, or states other sizes than it has.
    """
    with one_line_errors(origin):
        check_header_size(path)
        with safe_open(path, framework='pt') as file:
            return {name: torch.empty(file.get_slice(name).get_shape(), device='meta') for name in file.keys()}


@contextlib.contextmanager
def one_line_errors(origin: str, cannot_be: str = 'loaded from') -> Iterator[None]:
    """Turn whatever goes wrong inside into a ``HubError`` of a repository or folder that ``cannot_be`` loaded from."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        name, _, revision = origin.partition('@')
        file = str(getattr(getattr(error, 'response', None), 'url', '')).rpartition('/')[2] or 'such file'
        if file == 'pytorch_model.bin':  # timm's last resort
            file = f'{WEIGHTS_NAME}, nor {file}'
        message = next(message for kind, message in _MESSAGES if isinstance(error, kind))
        said = dict(origin=origin, name=name, revision=revision, hub=constants.ENDPOINT, file=file, cannot_be=cannot_be)
        raise HubError(message.format(**said, error=one_line(error))) from error
