"""What a run of a model computes, as an expression: the means by which cuts are proven to be exact."""

import functools
from typing import Any, Dict, Hashable, List, Optional, Sequence, Set, Tuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ['Expressions']


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
        self._numbers: Dict[Hashable, int] = {}
        self._of_tensor: Dict[int, int] = {}
        self._permuted: Dict[int, Tuple[int, List[int]]] = {}  # number -> what it is a permutation of
        self._kept: List[torch.Tensor] = []  # an id is only unique as long as its tensor lives
        self._forms: Dict[Hashable, Any] = {}  # expression -> size, stride and type of its tensor; None in place
        self.activations: Set[int] = set()
        self.reads: List[Tuple[int, int, str]] = []

    def name(self, tensor: torch.Tensor, key: Hashable) -> int:
        """Let ``tensor`` stand for the expression ``key``, and return its number."""
        number = self._numbers.setdefault(key, len(self._numbers))
        self._of_tensor[id(tensor)] = number
        self._kept.append(tensor)
        return number

    def name_input(self, tensor: torch.Tensor, key: str) -> int:
        """Let ``tensor`` stand for the input ``key``, whatever computed it, and return its number."""
        number = self.name(tensor, key)
        self.activations.add(number)
        return number

    def number(self, tensor: torch.Tensor) -> int:
        """Return the number of the expression that ``tensor`` stands for."""
        if id(tensor) not in self._of_tensor:
            # the model's tensors are on the meta device; one with values is a constant, an index written as a list
            value = id(tensor) if tensor.is_meta else (str(tensor.dtype), str(tensor.tolist()))
            self.name(tensor, ('leaf', value))
        return self._of_tensor[id(tensor)]

    def readers(self, number: int) -> Set[str]:
        """Return the operators that read the expression ``number``, in whatever order of dimensions."""
        same = {number, *(other for other, (base, _) in self._permuted.items() if base == number)}
        layouts = {'aten.permute.default', 'aten.transpose.int'}
        return {operator for _, read, operator in self.reads if read in same} - layouts

    def _key(self, values: Sequence[Any], operator: str, seen: List[int]) -> Hashable:
        parts: List[Hashable] = []  # one loop for what recursion could say: this runs for every argument of a network
        for value in values:
            if isinstance(value, torch.Tensor):
                number = self.number(value)
                seen.append(number)
                self.reads.append((id(value), number, operator))
                parts.append(number)
            elif isinstance(value, (list, tuple)) and any(isinstance(v, (torch.Tensor, list, tuple)) for v in value):
                parts.append(self._key(value, operator, seen))
            else:
                parts.append(repr(value))
        return tuple(parts)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator, written_positions = _describe(func)
        seen: List[int] = []
        key = (operator, self._key(args, operator, seen))  # type: Hashable
        if kwargs:
            names = sorted(kwargs)
            key = (key, tuple(names), self._key([kwargs[name] for name in names], operator, seen))
        result = self._compute(func, key, args, kwargs, writes=bool(written_positions))
        written = [args[i] for i in written_positions if i < len(args) and isinstance(args[i], torch.Tensor)]
        outputs = [*written, *(result if isinstance(result, (list, tuple)) else [result])]
        depends = any(number in self.activations for number in seen)
        for position, tensor in enumerate(outputs):
            if isinstance(tensor, torch.Tensor):
                number = self._name_permuted(func, args, tensor)
                if number is None:
                    number = self.name(tensor, (key, position))
                if depends:
                    self.activations.add(number)
        return result

    def _compute(self, func: Any, key: Hashable, args: Any, kwargs: Any, writes: bool) -> Any:
        if func is torch.ops.aten.native_batch_norm.default:
            # by far the slowest operator on the meta device, which decomposes it in Python
            return (args[0].detach(), args[0].new_empty(0), args[0].new_empty(0))
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

    def _name_permuted(self, func: Any, args: Any, result: torch.Tensor) -> Optional[int]:
        # a change of layout and its way back (NCHW to NHWC for a norm, and back) is no change
        if func is torch.ops.aten.permute.default:
            order = [dim % result.ndim for dim in args[1]]
        elif func is torch.ops.aten.transpose.int:
            order = list(range(result.ndim))
            order[args[1]], order[args[2]] = order[args[2]], order[args[1]]
        else:
            return None
        source = self.number(args[0])
        base, base_order = self._permuted.get(source, (source, list(range(result.ndim))))
        order = [base_order[dim] for dim in order]
        if order == sorted(order):
            self._of_tensor[id(result)] = base
            self._kept.append(result)
            return base
        number = self.name(result, ('permuted', base, tuple(order)))
        self._permuted[number] = (base, order)
        return number


@functools.cache
def _describe(func: Any) -> Tuple[str, Tuple[int, ...]]:
    """Return the name of an operator, and which of its arguments it writes to; both take long to ask for."""
    arguments = enumerate(func._schema.arguments)
    return str(func), tuple(i for i, arg in arguments if arg.alias_info is not None and arg.alias_info.is_write)
