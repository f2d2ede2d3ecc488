"""timm's own model tests, from the source distribution of the installed version (wheels of timm hold no tests)."""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from email import message_from_bytes
from pathlib import Path

__all__ = ['SdistUnavailable', 'timm_tests']

CACHE = Path(__file__).parents[2] / '.conformance'
MEMBERS = ('PKG-INFO', 'pyproject.toml', 'tests/test_models.py')


class SdistUnavailable(RuntimeError):
    """timm's source distribution could not be had; the message says why."""


def timm_tests(cache: Path = CACHE) -> Path:
    """Return the folder with timm's ``tests/test_models.py`` and ``pyproject.toml``, fetched once.

    Raises:
        SdistUnavailable: The package index does not answer, or what it sent is not timm's source distribution.
    """
    version = importlib.metadata.version('timm')
    folder = cache / f'timm-{version}'
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            extracted = _extract(_download(version, Path(scratch)), version, Path(scratch))
            os.replace(extracted, folder)
    return folder


def _download(version: str, folder: Path) -> Path:
    # pip compares the file with the hash in the index
    options = '--no-deps --no-binary timm --quiet --disable-pip-version-check --retries 1 --timeout 15'.split()
    command = [sys.executable, '-m', 'pip', 'download', f'timm=={version}', '--dest', str(folder), *options]
    result = subprocess.run(command, capture_output=True, text=True)
    archives = list(folder.glob('timm-*.tar.gz'))
    if result.returncode or len(archives) != 1:
        lines = [line for line in result.stderr.splitlines() if line.startswith('ERROR')] or ['no archive']
        raise SdistUnavailable(f'pip could not download the source distribution of timm {version}: {lines[-1]}')
    return archives[0]


def _extract(archive: Path, version: str, folder: Path) -> Path:
    root = f'timm-{version}'
    try:
        with tarfile.open(archive) as tar:
            for member in MEMBERS:
                tar.extract(f'{root}/{member}', folder, filter='data')
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        raise SdistUnavailable(f'{archive.name} is not a source distribution of timm {version}: {error}') from error
    metadata = message_from_bytes((folder / root / 'PKG-INFO').read_bytes())
    if (metadata['Name'], metadata['Version']) != ('timm', version):
        raise SdistUnavailable(f'{archive.name} is of {metadata["Name"]} {metadata["Version"]}, not timm {version}.')
    return folder / root
