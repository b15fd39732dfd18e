"""Operators that make tensors, order them, or pick places: fill, range, one-hot, sort, lists, state, labels.

Sources: coremltools' definitions iOS15/tensor_operation.py, iOS15/control_flow.py (lists), iOS15/classify.py,
iOS16 and iOS17 tensor_operation.py, iOS18/states.py.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import torch

from rubicc.backends.coreml.run.kernels.registry import Context, axis_of, kernel
from rubicc.backends.coreml.run.program import ListType
from rubicc.backends.coreml.run.states import Cell

Tensor = torch.Tensor


@kernel("fill", host="shape value")
def fill(c: Context, *, shape: list[int], value: float | int | bool = 0.0) -> Tensor:
    """A tensor of one value."""
    c.reserve(shape)
    return torch.full(shape, value, dtype=c.held(c.dtype))


@kernel("fill_like", host="value")
def fill_like(c: Context, *, ref_tensor: Tensor, value: float | int | bool = 0.0) -> Tensor:
    """A tensor of one value with another's shape."""
    return torch.full(ref_tensor.shape, value, dtype=c.held(c.dtype))


@kernel("range_1d", host="start end step")
def range_1d(c: Context, *, start: float, end: float, step: float) -> Tensor:
    """From ``start`` to before ``end``."""
    count = max(0, ceil((end - start) / step))
    c.reserve((count,))
    places = torch.arange(count, dtype=torch.float64 if isinstance(step, float) else torch.int64)
    return (start + places * step).to(c.held(c.dtype))


@kernel("one_hot", host="one_hot_vector_size axis on_value off_value")
def one_hot(
    c: Context,
    *,
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: float | int | bool = 1,
    off_value: float | int | bool = 0,
) -> Tensor:
    """A new axis with ``on_value`` at the index; nowhere for an index out of range."""
    place = axis_of(axis, indices.dim() + 1)
    c.reserve((*indices.shape, one_hot_vector_size))
    shape = [1] * (indices.dim() + 1)
    shape[place] = one_hot_vector_size
    hit = indices.unsqueeze(place) == torch.arange(one_hot_vector_size).reshape(shape)
    held = c.held(c.dtype)
    return torch.where(hit, torch.tensor(on_value, dtype=held), torch.tensor(off_value, dtype=held))


@kernel("non_zero")
def non_zero(c: Context, *, x: Tensor) -> Tensor:
    """Places of the elements that are not zero, one row each."""
    c.reserve((x.numel(), max(1, x.dim())))
    return torch.nonzero(x)


@kernel("cumsum", host="axis exclusive reverse")
def cumsum(c: Context, *, x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sum along an axis, without the element itself when ``exclusive``."""
    axis = axis_of(axis, x.dim())
    turned = x.flip([axis]) if reverse else x
    made = turned.cumsum(axis, dtype=x.dtype)
    if exclusive:
        made = torch.cat(
            [torch.zeros_like(made.narrow(axis, 0, 1)), made.narrow(axis, 0, x.shape[axis] - 1)], axis
        )
    return made.flip([axis]) if reverse else made


@kernel("argsort", host="axis ascending")
def argsort(c: Context, *, x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Places in order of value; equal values keep their order."""
    return torch.sort(x, dim=axis, descending=not ascending, stable=True).indices


@kernel("topk", host="k axis ascending sort return_indices output_indices_dtype", moves=True)
def topk(
    c: Context,
    *,
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, Tensor]:
    """The largest (smallest) ``k`` values along an axis and their places; -1 takes all."""
    axis = axis_of(axis, x.dim())
    values, places = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    count = x.shape[axis] if k == -1 else k
    values = values.narrow(axis, 0, count).clone()
    return (values, places.narrow(axis, 0, count).clone()) if return_indices else values


class Elements(list[Any]):
    """A list of tensors, ``None`` where nothing was written; knows its size in bytes.

    Attributes:
        nbytes: of the tensors, and 8 for every place.
    """

    nbytes = 0


@kernel("make_list", host="init_length dynamic_length elem_shape dtype", many="elem_shape", moves=True)
def make_list(
    c: Context,
    *,
    init_length: int = 1,
    dynamic_length: bool = True,
    elem_shape: list[int | str] | None = None,
    dtype: str = "fp32",
) -> Elements:
    """A list whose elements have not been written yet."""
    c.reserve((init_length,))
    return extended(Elements(), init_length)


@kernel("list_length", moves=True)
def list_length(c: Context, *, ls: Elements) -> Tensor:
    """Number of elements."""
    return torch.tensor(len(ls), dtype=torch.int32)


@kernel("list_read", host="index", moves=True)
def list_read(c: Context, *, ls: Elements, index: int) -> Tensor:
    """One element."""
    return written(ls, index)


@kernel("list_write", host="index", moves=True)
def list_write(c: Context, *, ls: Elements, index: int, value: Tensor) -> Elements:
    """The list with one element replaced; it grows when it is of dynamic length."""
    return replaced(c, ls, [index], [value])


@kernel("list_gather", host="indices", moves=True)
def list_gather(c: Context, *, ls: Elements, indices: list[int]) -> Tensor:
    """Elements stacked on a new first axis."""
    found = [written(ls, index) for index in indices]
    c.reserve((sum(value.numel() for value in found),))
    return torch.stack(found)


@kernel("list_scatter", host="indices", moves=True)
def list_scatter(c: Context, *, ls: Elements, indices: list[int], value: Tensor) -> Elements:
    """The list with rows of ``value`` written at ``indices``."""
    return replaced(c, ls, indices, [row.clone() for row in value.unbind(0)])


def written(ls: Elements, index: int) -> Tensor:
    """An element that exists and was written."""
    if not 0 <= index < len(ls) or ls[index] is None:
        raise IndexError(f"element {index} of a list of {len(ls)} is not there or was not written")
    found: Tensor = ls[index]
    return found


def extended(ls: Elements, length: int) -> Elements:
    """A copy with places added up to a length."""
    made = Elements(ls)
    made.extend([None] * (length - len(made)))
    made.nbytes = ls.nbytes + 8 * (len(made) - len(ls))
    return made


def replaced(c: Context, ls: Elements, places: list[int], values: list[Tensor]) -> Elements:
    """A copy with elements replaced; lists are values, the old one stays as it was."""
    declared = c.types[0]
    fixed = isinstance(declared, ListType) and declared.length is not None and declared.length >= len(ls) > 1
    longest = max([len(ls), *(place + 1 for place in places)])
    if min(places, default=0) < 0 or (fixed and longest > len(ls)):
        raise IndexError(f"elements {places[:8]} of a list of {len(ls)}")
    c.reserve((longest,))
    made = extended(ls, longest)
    for place, value in zip(places, values, strict=True):
        old = made[place]
        made.nbytes += size_of(value) - (0 if old is None else size_of(old))
        made[place] = value
    return made


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor's elements."""
    return tensor.numel() * tensor.element_size()


@kernel("read_state", moves=True)
def read_state(c: Context, *, input: Cell) -> Tensor:
    """What the state holds now."""
    found: Tensor = input.state.tensors[input.name]
    return found


@kernel("write_state", moves=True)
def write_state(c: Context, *, input: Cell, data: Tensor) -> tuple[()]:
    """Replace what the state holds; a tensor of the same shape."""
    held = input.state.tensors[input.name]
    if held.shape != data.shape:
        raise ValueError(f"state {input.name!r} of {tuple(held.shape)} written with {tuple(data.shape)}")
    input.state.tensors[input.name] = c.stored(data, input.dtype)
    return ()


@kernel("coreml_update_state", moves=True)
def update_state(c: Context, *, state: Cell, value: Tensor) -> Tensor:
    """Write a state and give what it holds then."""
    write_state(c, input=state, data=value)
    return read_state(c, input=state)


@kernel("classify", host="classes", moves=True)
def classify(c: Context, *, probabilities: Tensor, classes: tuple[Any, ...]) -> tuple[Any, dict[Any, float]]:
    """The likeliest label, and every label's probability."""
    values = probabilities.reshape(-1).tolist()
    labels = [label if isinstance(label, str) else int(label) for label in classes]
    table = dict(zip(labels, values, strict=True))
    return max(table, key=lambda label: table[label]), table
