"""Checkpoints as files: what they hold, read without running code, whoever wrote them."""

import argparse
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict

from .errors import TimmAbnError, one_line
from .timm_private import torch_load

__all__ = ['CheckpointError', 'check_header_size', 'read_checkpoint', 'read_checkpoint_file', 'training_settings']

MAX_HEADER_BYTES = 2**22  # of safetensors; the 10,000 tensors of the deepest models take a quarter of it
# where scripts put weights, averaged ones first, in timm's order; then that of PyTorch's tutorials
_PLACES = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'model_state_dict')
# what parallel, compiled and Lightning's modules put before each name
_WRAPPERS = ('module.', '_orig_mod.', 'model.', 'net.')


class CheckpointError(TimmAbnError):
    """A checkpoint does not hold what was expected; the message names the keys.

    Attributes:
        num_differences: How many keys differ, where the checkpoint was compared with a model.
    """

    def __init__(self, message: str, num_differences: int = 0) -> None:
        super().__init__(message)
        self.num_differences = num_differences


def check_header_size(path: Path) -> None:
    """Raise CheckpointError if a safetensors file, or one of torch, lists more tensors than any real one."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            pickled = sum(entry.file_size for entry in archive.infolist() if entry.filename.endswith('data.pkl'))
        if pickled > 2 * MAX_HEADER_BYTES:  # beside the weights, optimizers and averages of them
            raise CheckpointError(
                f'{path.name} lists its tensors in {pickled} bytes, more than {2 * MAX_HEADER_BYTES}.'
            )
        return
    if path.suffix != '.safetensors':
        return
    with path.open('rb') as file:
        length = int.from_bytes(file.read(8), 'little')
    if MAX_HEADER_BYTES < length < path.stat().st_size:  # else safetensors says that it is none
        raise CheckpointError(f'{path.name} lists its tensors in {length} bytes, more than {MAX_HEADER_BYTES}.')


def read_checkpoint_file(path: Path) -> Mapping[str, Any]:
    """Return all that a checkpoint holds, as it was written, without running code from it.

    Raises:
        CheckpointError: It is not there, damaged, or holds other things than tensors and plain values.
    """
    if not path.is_file():
        folder = path.is_dir() and (path / 'config.json').is_file()
        hint = f': it is a folder, which --model local-dir:{path} loads' if folder else ''
        raise CheckpointError(f'there is no checkpoint {path}{hint}')
    try:
        check_header_size(path)
        if path.suffix == '.safetensors':
            checkpoint: Any = load_file(path)
        else:
            with torch.serialization.safe_globals(_numpy_scalars()):
                checkpoint = torch_load(str(path))
    except Exception as error:  # on damaged files torch.load raises errors of a dozen types
        raise CheckpointError(f'{path} is not a checkpoint, or is damaged: {one_line(error)}') from None
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f'{path} is not a checkpoint of a model: it holds a {type(checkpoint).__name__}')
    return checkpoint


def _numpy_scalars() -> list[Any]:
    """Return what a pickled number of NumPy, such as the best accuracy, is made of: plain values, no code."""
    scalar = np.float64(0).__reduce__()[0]
    types = {type(np.dtype(code)) for code in '?bBhHiIlLqQefdFD'}
    named = [(scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')]  # by NumPy 1 and 2
    return [*named, np.dtype, *types]


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, Any]]:
    """Return the weights of a checkpoint, averaged ones if there are some, and what is stored with them.

    Names are those of the model itself, without what wrappers put before all of them.

    Raises:
        CheckpointError: See ``read_checkpoint_file``; or it holds no weights.
    """
    checkpoint = read_checkpoint_file(path)
    weights = next((checkpoint[place] for place in _PLACES if isinstance(checkpoint.get(place), Mapping)), checkpoint)
    strangers = [key for key, value in weights.items() if not (isinstance(key, str) and torch.is_tensor(value))]
    if strangers or not weights:
        found = ', '.join(map(str, strangers[:3])) or 'nothing'
        raise CheckpointError(f'{path} is not a checkpoint of a model: it holds {found}')
    metadata = {} if path.suffix == '.safetensors' else checkpoint
    return _without_wrappers(clean_state_dict(dict(weights))), metadata


def _without_wrappers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in weights):
            return _without_wrappers({name.removeprefix(prefix): tensor for name, tensor in weights.items()})
    return weights


def training_settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of timm's training script that are stored with the weights of a checkpoint, if any."""
    settings = metadata.get('args')
    return vars(settings) if isinstance(settings, argparse.Namespace) else {}
