"""Fingerprints of what an evaluation is made of: a model, methods with their options and code, images."""

import contextlib
import dis
import hashlib
import logging
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
import torch.nn as nn

from ...data.samples import Sample

__all__ = ['fingerprint', 'sample_fingerprint']

_PLAIN = (type(None), bool, int, float, complex, str, bytes, PurePath, torch.dtype, torch.device, type(...))


class _UnknownError(TypeError):
    """Nothing says what an object does, or holds."""


def fingerprint(*values: object) -> str | None:
    """Return a fingerprint of values, of functions with their bytecode, closures and the globals that they use.

    Code of installed packages is known by its name and version. None where nothing says what an object does or holds,
    such as a generator of random numbers, or an object of an extension in C.
    """
    description = _Description()
    try:
        for value in values:
            description.add(value)
    except _UnknownError:
        return None
    return description.digest.hexdigest()[:16]


def sample_fingerprint(sample: Sample) -> str:
    """Return a fingerprint of all that a sample holds: about a millisecond of a photo of 224 x 224 pixels."""
    return str(fingerprint(sample.name, sample.image, sample.label, sample.mask, sample.target))


class _Description:
    """Walks over a value, and all that it refers to, each object once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[int, tuple[int, object]] = {}  # the objects are kept, so that no other one gets their id

    def say(self, *words: object) -> None:
        self.digest.update(repr(words).encode('utf-8', 'backslashreplace'))

    def add(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN or isinstance(value, PurePath):
            return self.say(kind.__name__, str(value) if isinstance(value, PurePath) else value)
        if not isinstance(value, (tuple, types.CodeType)):  # Python may merge equal constants, or not
            if id(value) in self.seen:
                return self.say('again', self.seen[id(value)][0])
            self.seen[id(value)] = len(self.seen), value
        if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
            self.add_array(value)
        elif isinstance(value, (set, frozenset)):
            self.add([kind.__name__, *sorted(str(fingerprint(entry)) for entry in value)])
        elif isinstance(value, (types.FunctionType, types.CodeType, types.ModuleType, type)):
            self.add_code(value)
        elif isinstance(value, logging.Logger):
            self.say('logger', value.name)
        else:
            self.say(kind.__module__, kind.__qualname__)
            for part in _parts_of(value):
                self.add(part)
        return None

    def add_array(self, value: Any) -> None:
        if not isinstance(value, torch.Tensor):
            if value.dtype.hasobject:
                raise _UnknownError
            self.say(str(value.dtype), value.shape)
            value = torch.from_numpy(np.ascontiguousarray(value).view(np.uint8))
        self.say(str(value.dtype), tuple(value.shape))
        self.digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)

    def add_code(self, value: Any) -> None:
        name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, '__module__', '')
        module = sys.modules.get(name)
        self.say(getattr(module, '__name__', ''), getattr(value, '__qualname__', ''))
        if module is not None and _is_installed(module):
            self.say(getattr(sys.modules[module.__name__.partition('.')[0]], '__version__', ''))
        elif isinstance(value, types.ModuleType):
            file = getattr(value, '__file__', None)
            self.say(Path(file).read_bytes() if file else '')
        elif isinstance(value, types.CodeType):
            self.add((value.co_code, value.co_names, value.co_consts))
        elif isinstance(value, types.FunctionType):
            names = set(_globals_of(value.__code__)) & value.__globals__.keys()
            self.add([value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__])
            self.add({name: value.__globals__[name] for name in sorted(names)})
        else:
            own = {
                key: entry for key, entry in vars(value).items() if not isinstance(entry, types.GetSetDescriptorType)
            }
            ours = {key: entry for key, entry in own.items() if callable(entry) or not key.startswith('__')}
            self.add([list(value.__bases__), ours])


def _parts_of(value: Any) -> Iterator[Any]:
    """Yield what makes an object what it is, beside its class."""
    if isinstance(value, nn.Module):
        # options of layers stand in what is printed of them
        yield type(value)
        yield re.sub(' at 0x[0-9a-f]+', '', repr(value))
        yield [value.training, getattr(value, 'config', None), dict(value.state_dict())]
    elif isinstance(value, Mapping):
        yield [[key, value[key]] for key in value]
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    elif isinstance(value, types.CellType):
        with contextlib.suppress(ValueError):  # nothing is in it yet
            yield value.cell_contents
    elif isinstance(value, property):
        yield [value.fget, value.fset, value.fdel]
    else:
        try:
            reduced = value.__reduce_ex__(2)
        except Exception:  # of objects that cannot be pickled, whatever it is
            raise _UnknownError from None
        # after a function: its arguments, the state, and iterators over what a list or dictionary holds
        yield reduced if isinstance(reduced, str) else [*reduced[1:3], *(list(items or ()) for items in reduced[3:5])]


def _is_installed(module: types.ModuleType) -> bool:
    """Return whether a module is of Python, of this package, or was installed: not code that its user writes."""
    top = module.__name__.partition('.')[0]
    if top in sys.stdlib_module_names or top == __name__.partition('.')[0]:
        return True
    return bool({'site-packages', 'dist-packages'} & set(Path(getattr(module, '__file__', None) or '').parts))


def _globals_of(code: types.CodeType) -> Iterator[str]:
    """Yield the names of the globals that code uses, and code within it."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ('LOAD_GLOBAL', 'LOAD_NAME'):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_of(constant)
