"""The scripts of this repository, as modules."""

import importlib.util
import sys

from timm_scripts import ROOT


def load_script(name):
    """Return a new module of a script; those that it imports by name are found beside it."""
    folder = str(ROOT / 'scripts')
    spec = importlib.util.spec_from_file_location(name, f'{folder}/{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module
