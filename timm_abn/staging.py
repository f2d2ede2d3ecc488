"""Writing files so that either all of them exist or none."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ['check_new_folder', 'check_output_folder', 'staged_files', 'staged_folder']


@contextlib.contextmanager
def staged_files(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder to write into; its files appear in ``folder`` when the block ends without an error.

    Files of the same name are replaced. If the block fails, ``folder`` is left as it was.

    Args:
        folder: Where the files go. It is made, with its parents, if it does not exist.
    """
    folder = Path(folder)
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix='.partial-', dir=folder) as staging:
            yield Path(staging)
            for path in sorted(Path(staging).iterdir()):
                os.replace(path, folder / path.name)
    except BaseException:
        with contextlib.suppress(OSError):  # somebody else wrote there in the meantime
            for parent in missing:
                parent.rmdir()
        raise


@contextlib.contextmanager
def staged_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder to write into, which becomes ``folder`` when the block ends without an error.

    Args:
        folder: The new folder; its parents are made if they do not exist.

    Raises:
        FileExistsError: ``folder`` exists and is not an empty folder.
    """
    folder = Path(folder).absolute()
    check_new_folder(folder)
    with staged_files(folder.parent) as staging:
        (staging / folder.name).mkdir()
        yield staging / folder.name


def check_new_folder(folder: str | Path) -> None:
    """Raise FileExistsError if ``folder`` exists, unless it is an empty folder.

    Args:
        folder: The folder.

    Raises:
        OSError: It cannot be made: see ``check_output_folder``.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f'{folder} is not empty; choose a new folder')
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f'{folder} is a file; choose a new folder')
    check_output_folder(folder)


def check_output_folder(folder: str | Path) -> None:
    """Check that files can be written into a folder, which need not exist, before long work.

    Args:
        folder: The folder.

    Raises:
        NotADirectoryError: It, or what should be a parent of it, is a file.
        PermissionError: Writing there is not allowed.
    """
    folder = Path(folder).absolute()
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not place.is_dir():
        raise NotADirectoryError(f'{place} is a file, not a folder to write into')
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f'{place} must not be written to')
