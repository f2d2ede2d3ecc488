"""The packages that ONNX export needs besides PyTorch."""

import importlib.util

from .errors import ExportError

__all__ = ['check_onnx_packages']

_ONNX_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')


def check_onnx_packages() -> None:
    """Raise ExportError unless the packages for ONNX are installed."""
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f'ONNX needs {" and ".join(missing)}: pip install {" ".join(_ONNX_PACKAGES)}')
