"""Finding, checking and running timm's scripts, which are not in its wheel but at the root of its repository."""

import os
import re
import runpy
import sys
import urllib.error
import urllib.request
from pathlib import Path

import timm

from ..errors import one_line
from ..staging import staged_folder
from .errors import TrainingError

__all__ = ['DOWNLOAD', 'SCRIPTS', 'check_version', 'find_scripts', 'knows_multi_label', 'run_script']

_NAMES = ('train', 'validate', 'benchmark', 'inference', 'onnx_export', 'avg_checkpoints', 'clean_checkpoint')
SCRIPTS = tuple(f'{name}.py' for name in _NAMES)
DOWNLOAD = 'download'
_FILES = (*SCRIPTS, 'timm/version.py')
_URL = 'https://raw.githubusercontent.com/huggingface/pytorch-image-models/v{version}/{name}'
_FIRST_WITH_TASKS = '1.0.23'
_FIRST_WITH_BRANCH_ACCURACY = '1.0.27'  # validates what the task hands out, not the model itself


def find_scripts(folder: str | None = None) -> Path:
    """Return the folder that holds timm's scripts: the given one, or 'download' to fetch those of the installed timm.

    Else it is looked for in ``$TIMM_SCRIPTS``, beside an editable install of timm, and in the cache.

    Raises:
        TrainingError: They are not there, or could not be downloaded.
    """
    if folder == DOWNLOAD:
        return _download(timm.__version__)
    said = folder or os.environ.get('TIMM_SCRIPTS')
    if said:
        if not (Path(said) / 'train.py').is_file():
            source = '--timm-scripts' if folder else '$TIMM_SCRIPTS'
            raise TrainingError(
                f"{source} is {said!r}, where there is no train.py; it must be a checkout of timm's repository, tag "
                f'v{timm.__version__}.'
            )
        return Path(said).resolve()
    for place in (Path(timm.__file__).parents[1], _cache(timm.__version__)):
        if (place / 'train.py').is_file() and (place / 'validate.py').is_file():
            return place
    raise TrainingError(
        f"timm's scripts were not found; they are not in its wheel. Check out tag v{timm.__version__} of "
        'https://github.com/huggingface/pytorch-image-models and name the folder by --timm-scripts or $TIMM_SCRIPTS, '
        f'or pass --timm-scripts {DOWNLOAD} once.'
    )


def check_version(folder: Path, needs_tasks: bool) -> str | None:
    """Return a remark about the version of the scripts, or None if they are those of the installed timm.

    A script that trains needs ``timm.task``.

    Raises:
        TrainingError: The scripts do not go with the installed timm.
    """
    found = _version_in(folder)
    if found is None:
        return f'{folder} has no timm/version.py: it is unknown whether its scripts fit timm {timm.__version__}.'
    if needs_tasks and _release(found) < _release(_FIRST_WITH_TASKS):
        raise TrainingError(
            f'the scripts in {folder} are of timm {found}, whose train.py would leave out the loss of the attention '
            f'branch; use those of {_FIRST_WITH_TASKS} or newer, best v{timm.__version__}.'
        )
    if _release(found) > _release(timm.__version__):
        raise TrainingError(
            f'the scripts in {folder} are of timm {found}, but timm {timm.__version__} is installed; use the scripts '
            f'of tag v{timm.__version__}, or pip install timm=={found}.'
        )
    if _release(found) == _release(timm.__version__):
        return None
    remark = f'the scripts in {folder} are of timm {found}, older than the installed {timm.__version__}'
    if needs_tasks and _release(found) < _release(_FIRST_WITH_BRANCH_ACCURACY):
        remark += f"; those before {_FIRST_WITH_BRANCH_ACCURACY} do not show the attention branch's accuracy"
    return f'{remark}.'


def knows_multi_label(script: Path) -> bool:
    """Return whether a script of timm has ``--task multilabel``, as those of 1.0.31 have."""
    return not script.is_file() or "'--task'" in script.read_text()


def run_script(folder: Path, name: str, arguments: list[str]) -> None:
    """Run a script as if Python had been started with it.

    Raises:
        TrainingError: There is no such script, a package that it needs is not installed, or images are broken.
    """
    script = folder / name
    if not script.is_file():
        raise TrainingError(f'there is no {name} in {folder}.')
    # at the end: the checkout's own timm/ must not hide the installed one
    sys.path.append(str(folder))
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name='__main__')
    except ModuleNotFoundError as error:
        package = (error.name or '').partition('.')[0]
        if package in ('', 'timm', 'timm_abn'):  # not for pip to mend
            raise
        raise TrainingError(
            f'{name} of timm needs {package}, which is not installed: pip install {package}.'
        ) from error


def _version_in(folder: Path) -> str | None:
    path = folder / 'timm' / 'version.py'
    match = re.search(r"__version__ = '([^']+)'", path.read_text()) if path.is_file() else None
    return match and match.group(1)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r'\d+', version)[:3])


def _cache(version: str) -> Path:
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(root) / 'timm_abn' / 'scripts' / f'v{version}'


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read()


def _download(version: str) -> Path:
    """Download the scripts of a version of timm, once, all or nothing."""
    target = _cache(version)
    if target.is_dir():
        return target
    try:
        with staged_folder(target) as partial:
            for name in _FILES:
                url = _URL.format(version=version, name=name)
                try:
                    content = _fetch(url)
                    compile(content, url, 'exec')
                except (urllib.error.URLError, OSError) as error:
                    raise TrainingError(f'{url} could not be downloaded: {one_line(error)}.') from error
                except (SyntaxError, ValueError) as error:
                    raise TrainingError(f'{url} is not a Python script.') from error
                path = partial / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            came = _version_in(partial)
            if came != version:
                raise TrainingError(
                    f'requested the scripts of timm {version}, but received those of {came}; nothing was kept.'
                )
    except OSError:
        if not target.is_dir():  # else another process was faster
            raise
    return target
