"""What a run of a model computes, as an expression: how cuts are proven to be exact."""

import functools
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ['Expressions']

# for each dimension, from outer to inner, the parts of the original that it runs over: (size, row-major stride)
Layout = tuple[tuple[tuple[int, int], ...], ...]

_COPIES = frozenset((torch.ops.aten.clone.default, torch.ops.aten.alias.default, torch.ops.aten.detach.default))
_LAYOUT_CHANGES = _COPIES | {
    torch.ops.aten.permute.default,
    torch.ops.aten.transpose.int,
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten._reshape_alias.default,
    torch.ops.aten.unsqueeze.default,
    torch.ops.aten.squeeze.dim,
}


class Expressions(TorchDispatchMode):
    """Reduces runs to the expressions that they compute.

    Every tensor is given a number that stands for an operator applied to the numbers of its arguments; equal
    expressions have equal numbers, in every run under the same instance. Tensors made outside (parameters, buffers)
    are leaves and known by identity, constants by their values.

    Attributes:
        activations: The numbers that depend on an input.
        reads: What operators read, in order of execution: id of the tensor, its number, name of the operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[Hashable, int] = {}
        self._of_tensor: dict[int, int] = {}
        self._layouts: dict[int, tuple[int, Layout]] = {}  # number -> what it is another layout of, and which
        self._shapes: dict[int, tuple[int, ...]] = {}
        # number -> what it is a slice of, along which dimension, from where to where
        self._slices: dict[int, tuple[int, int, int, int]] = {}
        self._leaves: dict[int, frozenset[int]] = {}  # number of a constant -> ids of the tensors it is made of
        self._kept: list[torch.Tensor] = []  # an id is only unique as long as its tensor lives
        self._forms: dict[Hashable, Any] = {}  # expression -> size, stride and type of its tensor; None in place
        self.activations: set[int] = set()
        self.reads: list[tuple[int, int, str]] = []

    def name(self, tensor: torch.Tensor, key: Hashable) -> int:
        """Let ``tensor`` stand for the expression ``key``, and return its number."""
        number = self._numbers.setdefault(key, len(self._numbers))
        self._shapes[number] = tuple(tensor.shape)
        return self._stand_for(tensor, number)

    def _stand_for(self, tensor: torch.Tensor, number: int) -> int:
        self._of_tensor[id(tensor)] = number
        self._kept.append(tensor)
        return number

    def name_input(self, tensor: torch.Tensor, key: str) -> int:
        """Let ``tensor`` stand for the input ``key``, whatever computed it, and return its number."""
        number = self.name(tensor, key)
        self.activations.add(number)
        return number

    def name_like(self, tensor: torch.Tensor, other: torch.Tensor) -> None:
        """Let ``tensor`` stand for what ``other`` stands for."""
        self._stand_for(tensor, self.number(other))

    @property
    def known(self) -> set[int]:
        """The numbers of all that was computed so far."""
        return set(self._of_tensor.values())

    def leaves(self, number: int) -> frozenset[int]:
        """Return the ids of the tensors that a constant, which depends on no input, was made of."""
        return self._leaves.get(number, frozenset())

    def number(self, tensor: torch.Tensor) -> int:
        """Return the number of the expression that ``tensor`` stands for."""
        if id(tensor) not in self._of_tensor:
            # the model's tensors are on the meta device; one with values is a constant, an index written as a list
            value = id(tensor) if tensor.is_meta else (str(tensor.dtype), str(tensor.tolist()))
            self._leaves[self.name(tensor, ('leaf', value))] = frozenset((id(tensor),))
        return self._of_tensor[id(tensor)]

    def _key(self, values: Sequence[Any], operator: str, seen: list[int], strides: list[tuple[int, ...]]) -> Hashable:
        parts: list[Hashable] = []  # one loop for what recursion could say: this runs for every argument of a network
        for value in values:
            if isinstance(value, torch.Tensor):
                number = self.number(value)
                seen.append(number)
                strides.append(value.stride())
                self.reads.append((id(value), number, operator))
                parts.append(number)
            elif isinstance(value, (list, tuple)) and any(isinstance(v, (torch.Tensor, list, tuple)) for v in value):
                parts.append(self._key(value, operator, seen, strides))
            else:
                parts.append(repr(value))
        return tuple(parts)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator, written_positions = _describe(func)
        seen: list[int] = []
        strides: list[tuple[int, ...]] = []
        key = (operator, self._key(args, operator, seen, strides))  # type: Hashable
        if kwargs:
            names = sorted(kwargs)
            key = (key, tuple(names), self._key([kwargs[name] for name in names], operator, seen, strides))
        # a copy is the same expression, in another order in memory perhaps
        result = self._compute(func, (key, tuple(strides)), args, kwargs, writes=bool(written_positions))
        written = [args[i] for i in written_positions if i < len(args) and isinstance(args[i], torch.Tensor)]
        outputs = [*written, *(result if isinstance(result, (list, tuple)) else [result])]
        depends = any(number in self.activations for number in seen)
        for position, tensor in enumerate(outputs):
            if isinstance(tensor, torch.Tensor):
                number = self._name_rejoined(func, args, tensor)
                number = self._name_layout(func, args, tensor) if number is None else number
                if number is None:
                    number = self.name(tensor, (key, position))
                    if func is torch.ops.aten.slice.Tensor:
                        self._note_slice(args, tensor, number)
                if depends:
                    self.activations.add(number)
                else:
                    self._leaves[number] = frozenset().union(*map(self.leaves, seen), self.leaves(number))
        return result

    def _compute(self, func: Any, key: Hashable, args: Any, kwargs: Any, writes: bool) -> Any:
        # by far the slowest operators on the meta device, which decomposes them in Python
        if func is torch.ops.aten.native_batch_norm.default:
            return (torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0))
        if func is torch.ops.aten.native_layer_norm.default:  # its kernels write row by row
            return (args[0].new_empty(args[0].shape), args[0].new_empty(0), args[0].new_empty(0))
        if func is torch.ops.aten.gelu.default:
            return torch.empty_like(args[0])
        # equal expressions have equal forms: the halves need not compute those that the backbone has computed
        if key in self._forms:
            form = self._forms[key]
            return args[0] if form is None else torch.empty_strided(*form[:2], dtype=form[2], device='meta')
        result = func(*args, **kwargs)
        if args and result is args[0] and torch.Tag.inplace_view not in func.tags:
            self._forms[key] = None
        elif not writes and isinstance(result, torch.Tensor) and result.is_meta and result.layout is torch.strided:
            self._forms[key] = (result.size(), result.stride(), result.dtype)
        return result

    def _note_slice(self, args: Any, result: torch.Tensor, number: int) -> None:
        source, dim, start = (*args, 0, 0)[:3]
        start = (start or 0) % source.shape[dim]
        if len(args) < 5:  # of all, not of every other
            self._slices[number] = (self.number(source), dim % source.ndim, start, start + result.shape[dim])

    def _name_rejoined(self, func: Any, args: Any, result: torch.Tensor) -> int | None:
        # slices that are joined again are what they were taken from, and so is a slice of everything
        if func is torch.ops.aten.slice.Tensor and args[0].shape == result.shape:
            whole = self.number(args[0])
        elif func is torch.ops.aten.cat.default:
            dim, end = (*args, 0)[1] % result.ndim, 0
            for part in map(self.number, args[0]):
                whole, *place = self._slices.get(part, (-1, -1, -1, -1))
                if (whole, place[:2]) != (self._slices.get(self.number(args[0][0]), (-2,))[0], [dim, end]):
                    return None
                end = place[2]
            if self._shapes[whole] != tuple(result.shape):
                return None
        else:
            return None
        return self._stand_for(result, whole)

    def _name_layout(self, func: Any, args: Any, result: torch.Tensor) -> int | None:
        # a change of layout and its way back (NCHW to NHWC for a norm, tokens to maps and back) is no change
        if func not in _LAYOUT_CHANGES:
            return None
        source = args[0]
        number = self.number(source)
        base, layout = self._layouts.get(number, (number, row_major(source.shape)))
        changed = layout if func in _COPIES else _changed(layout, func, args, result)
        if changed is None:
            return None
        original = self._shapes[base]
        if tuple(result.shape) == original and changed == row_major(original):
            return self._stand_for(result, base)
        number = self.name(result, ('layout', base, tuple(result.shape), changed))
        self._layouts[number] = (base, changed)
        return number


def row_major(shape: Iterable[int]) -> Layout:
    """Return the layout of a contiguous tensor."""
    layout: list[tuple[tuple[int, int], ...]] = []
    stride = 1
    for size in reversed(list(shape)):
        layout.insert(0, ((size, stride),) if size != 1 else ())
        stride *= size
    return tuple(layout)


def _changed(layout: Layout, func: Any, args: Any, result: torch.Tensor) -> Layout | None:
    if func is torch.ops.aten.permute.default:
        return tuple(layout[dim % result.ndim] for dim in args[1])
    if func is torch.ops.aten.transpose.int:
        order = list(range(result.ndim))
        order[args[1]], order[args[2]] = order[args[2]], order[args[1]]
        return tuple(layout[dim] for dim in order)
    return _regrouped([part for dim in layout for part in dim], result.shape)


def _regrouped(parts: list[tuple[int, int]], shape: Iterable[int]) -> Layout | None:
    """Return the parts as the dimensions of a view of this shape; None where a part cannot be divided so."""
    regrouped = []
    for size in shape:
        dim: list[tuple[int, int]] = []
        while size > 1:
            length, stride = parts.pop(0)
            taken = min(size, length)
            if length % taken or size % taken:
                return None
            if taken < length:
                parts.insert(0, (length // taken, stride))
                stride *= length // taken
            size //= taken
            if dim and dim[-1][1] == taken * stride:  # it goes on where the part before it ends
                taken *= dim.pop()[0]
            dim.append((taken, stride))
        regrouped.append(tuple(dim))
    return tuple(regrouped)


@functools.cache
def _describe(func: Any) -> tuple[str, tuple[int, ...]]:
    """Return the name of an operator, and which of its arguments it writes to; cached, since both are slow to get."""
    arguments = enumerate(func._schema.arguments)
    return str(func), tuple(i for i, arg in arguments if arg.alias_info is not None and arg.alias_info.is_write)
