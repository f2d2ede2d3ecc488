"""The scripts of this repository, as modules."""

import importlib.util
import sys

from timm_scripts import ROOT


def load_script(name):
    """Return a new module of a script such as 'scripts/demo'; those that it imports by name are found beside it."""
    path = ROOT / f'{name}.py'
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
