"""Writing files so that either all of them exist or none, whatever ends the process."""

import contextlib
import csv
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what a killed process left stays
    fcntl = None  # type: ignore[assignment]

__all__ = [
    'check_new_folder',
    'check_output_file',
    'check_output_folder',
    'disk_errors',
    'staged_file',
    'staged_files',
    'staged_folder',
    'synchronise',
    'write_csv',
]

_PARTIAL = '.timm-abn-partial-'


@contextlib.contextmanager
def staged_files(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder to write into; its files appear in ``folder`` when the block ends without an error.

    They may lie in sub-folders. Files of the same name are replaced, in the order of their names; where there is a
    link, the file that it leads to. They are on the disk before they appear. If the block fails, ``folder`` is left as
    it was. A folder that does not exist is made, with its parents.

    Raises:
        OSError: A file cannot be written, whatever error the package that writes it has for that.
    """
    folder = Path(folder)
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _partial_folder(folder) as staging:
            with disk_errors(staging):
                yield staging
                written = sorted(path for path in staging.rglob('*') if path.is_file())
                for path in written:
                    synchronise(path)
            for path in written:
                _put(path, folder / path.relative_to(staging))
            for parent in {folder / path.relative_to(staging).parent for path in written}:
                synchronise(parent)
    except BaseException:
        with contextlib.suppress(OSError):  # somebody else wrote there in the meantime
            for parent in missing:
                parent.rmdir()
        raise


@contextlib.contextmanager
def staged_file(path: str | Path) -> Iterator[Path]:
    """Yield where to write a file, which appears as ``path`` when the block ends without an error.

    A link stays, and leads to the new file; what is no regular file, such as a pipe or /dev/stdout, gets the content.

    Its folder is made if it does not exist. If it cannot be written, an ``OSError`` says why.
    """
    path = Path(path)
    if _is_stream(path):
        with tempfile.TemporaryDirectory(prefix='timm-abn-') as scratch:
            yield Path(scratch) / path.name
            _stream(Path(scratch) / path.name, path)
        return
    path = Path(os.path.realpath(path))
    with staged_files(path.parent) as staging:
        yield staging / path.name


@contextlib.contextmanager
def staged_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder to write into, which becomes ``folder`` when the block ends without an error.

    Raises:
        FileExistsError: ``folder`` exists and is not an empty folder.
        OSError: See ``staged_files``.
    """
    folder = Path(os.path.realpath(folder))
    check_new_folder(folder)
    check_output_folder(folder.parent)
    with staged_files(folder.parent) as staging:
        (staging / folder.name).mkdir()
        yield staging / folder.name
        for path in staging.rglob('*'):
            synchronise(path)
        os.replace(staging / folder.name, folder)
        synchronise(folder.parent)


def check_new_folder(folder: str | Path) -> None:
    """Raise FileExistsError if ``folder`` exists, unless it is an empty folder; see ``check_output_folder``."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f'{folder} is a file; choose a new folder')
    check_output_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f'{folder} is not empty; choose a new folder')


def check_output_folder(folder: str | Path) -> None:
    """Check that files can be written into a folder, which need not exist, before long work.

    What a process that was killed left half-written there is removed; what a living one writes stays.

    Raises:
        NotADirectoryError: It, or what should be a parent of it, is a file, or a broken link.
        PermissionError: Writing there is not allowed.
    """
    folder = Path(folder).absolute()
    place = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if not place.is_dir():
        what = 'a file' if place.exists() else 'a broken link'
        raise NotADirectoryError(f'{place} is {what}, not a folder to write into')
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f'{place} is not writable')
    for left in place.glob(f'{_PARTIAL}*'):
        with contextlib.suppress(OSError), _locked(left) as is_ours:
            if is_ours:
                shutil.rmtree(left, ignore_errors=True)


def check_output_file(path: str | Path) -> None:
    """Check that ``staged_file`` can write a file, which need not exist, before long work; else an ``OSError``."""
    if not _is_stream(path):
        check_output_folder(Path(os.path.realpath(path)).parent)
    elif not os.access(path, os.W_OK):
        raise PermissionError(f'{path} is not writable')


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what is raised, by safetensors and torch too, where a file cannot be written, into an ``OSError``.

    It says why, and names the folder that ``folder`` is in.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or not (error.filename is None or str(error.filename).startswith(str(folder))):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(folder.parent)) from error
    except Exception as error:
        code = re.search(r'os error (\d+)', str(error))  # safetensors
        if code:
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder.parent)) from error
        if not re.search('inline_container|PytorchStreamWriter', str(error)):
            raise
        with tempfile.TemporaryFile(dir=folder) as probe:  # torch does not say why: the disk does
            probe.write(bytes(2**20))
        raise OSError(f'{folder.parent}: a file could not be fully written ({" ".join(str(error).split())})') from error


@contextlib.contextmanager
def _partial_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder, removed at the end; a lock on it, which ends with the process, says that it is in use."""
    with contextlib.ExitStack() as stack:
        while True:
            path = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
            with contextlib.suppress(FileNotFoundError):  # before the lock, another process took it for one left behind
                stack.enter_context(_locked(path))
                if path.exists():
                    break
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, if it can be had; yields whether it is."""
    if fcntl is None:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = True
        except OSError:  # held by another process, or a file system without locks
            is_ours = False
        yield is_ours
    finally:
        os.close(descriptor)


def _put(path: Path, target: Path) -> None:
    """Move a file to where it belongs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or _is_stream(target):
        with staged_file(target) as copy:
            shutil.copyfile(path, copy)
        return
    if target.is_file():
        shutil.copymode(target, path)
    os.replace(path, target)


def _is_stream(path: str | Path) -> bool:
    """Return whether a path is no regular file that could be replaced, such as a pipe, or is what is printed to."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return not stat.S_ISREG(found.st_mode) or _printed_to(found) is not None


def _printed_to(found: os.stat_result) -> int | None:
    """Return the descriptor of standard output or error, if the file is that."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # closed
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None


def _stream(path: Path, target: Path) -> None:
    """Write the content of a file to one that cannot be replaced; to standard output after what was printed."""
    sys.stdout.flush()
    descriptor = _printed_to(os.stat(target))
    with path.open('rb') as content, open(target if descriptor is None else os.dup(descriptor), 'wb') as file:
        shutil.copyfileobj(content, file)


def synchronise(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_csv(path: Path, rows: Iterable[Mapping[str, object]], columns: Iterable[str]) -> None:
    """Write a table; names of files in it need not be UTF-8."""
    with path.open('w', newline='', encoding='utf-8', errors='backslashreplace') as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
