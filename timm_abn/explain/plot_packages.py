"""Checks for the packages of the extra ``plot``; imports none of them."""

import importlib.util

from ..errors import TimmAbnError

__all__ = ['check_plot_packages']

_NAMES = {'sklearn': 'scikit-learn'}


def check_plot_packages(*modules: str) -> None:
    """Raise TimmAbnError unless the packages of these modules, such as 'matplotlib', are installed."""
    missing = [_NAMES.get(module, module) for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise TimmAbnError(f"this needs {' and '.join(missing)}: pip install 'timm-abn[plot]'.")
