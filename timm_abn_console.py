"""Entry point of the ``timm-abn`` command: the command line is parsed before the models are imported.

It lies beside the package: importing ``timm_abn``, or any module in it, imports torch and timm, which takes seconds.
Here the package is put into ``sys.modules`` without executing its ``__init__.py``; that is done once a
subcommand needs it.
"""

import importlib.util
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

__all__ = ['main']


def main() -> int:
    """Run the command line of the process and return its exit code."""
    signal.signal(signal.SIGTERM, _leave)
    load_package = _put_off_package()
    from timm_abn.cli import main as run_command_line

    return run_command_line(load_package=load_package)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End as after an error, so that what is half written is removed, instead of at once."""
    sys.exit(128 + number)


def _put_off_package() -> Callable[[], None]:
    """Make ``timm_abn`` a package whose modules can be imported, and return what executes its ``__init__.py``."""
    if 'timm_abn' in sys.modules:  # somebody has imported it already
        return lambda: None
    spec = importlib.util.find_spec('timm_abn')
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("No module named 'timm_abn'", name='timm_abn')
    loader = spec.loader
    package = sys.modules['timm_abn'] = importlib.util.module_from_spec(spec)
    return lambda: loader.exec_module(package)
