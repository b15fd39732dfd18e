"""Gathering and scattering by index.

Sources: coremltools' definitions iOS15/scatter_gather.py, iOS16/scatter_gather.py, iOS17/scatter_gather.py:
up to iOS 16 a negative index counts from the end, from iOS 17 it is out of range. What happens then is left
open by the definition; here it is an error, whatever ``validate_indices`` says.
"""

from __future__ import annotations

from math import prod

import torch

from rubicc.backends.coreml.run.kernels.registry import Context, axis_of, kernel

Tensor = torch.Tensor


def checked(c: Context, indices: Tensor, size: int) -> Tensor:
    """Indices as int64 from the front, all inside ``size``.

    Raises:
        IndexError: one is not.
    """
    found = indices.long()
    if found.numel():
        low, high = int(found.min()), int(found.max())
        lowest = 0 if c.opset >= 7 else -size
        if low < lowest or high >= size:
            raise IndexError(f"index {low if low < lowest else high} for an axis of {size}")
        if low < 0:
            found = torch.where(found < 0, found + size, found)
    return found


@kernel("gather", host="axis batch_dims validate_indices", moves=True)
def gather(
    c: Context,
    *,
    x: Tensor,
    indices: Tensor,
    axis: int = 0,
    batch_dims: int = 0,
    validate_indices: bool = False,
) -> Tensor:
    """``x[..., indices, ...]`` at ``axis``; the first ``batch_dims`` axes of both go together."""
    axis = axis_of(axis, x.dim())
    places = checked(c, indices, x.shape[axis])
    shape = (*x.shape[:axis], *indices.shape[batch_dims:], *x.shape[axis + 1 :])
    c.reserve(shape)
    if batch_dims == 0:
        return x.index_select(axis, places.reshape(-1)).reshape(shape)
    if not 0 < batch_dims <= min(axis, indices.dim()) or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise ValueError(f"batch_dims {batch_dims} for {tuple(x.shape)} and {tuple(indices.shape)}")
    batch = prod(x.shape[:batch_dims])
    middle, rest = prod(x.shape[batch_dims:axis]), prod(x.shape[axis + 1 :])
    wide = x.reshape(batch, middle, x.shape[axis], rest)
    at = places.reshape(batch, 1, -1, 1).expand(batch, middle, -1, rest)
    return wide.gather(2, at).reshape(shape)


@kernel("gather_along_axis", host="axis validate_indices", moves=True)
def gather_along_axis(
    c: Context, *, x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False
) -> Tensor:
    """One index per element of the result, along ``axis``."""
    axis = axis_of(axis, x.dim())
    c.reserve(indices.shape)
    if any(a != b for i, (a, b) in enumerate(zip(x.shape, indices.shape, strict=True)) if i != axis):
        raise ValueError(f"indices {tuple(indices.shape)} for {tuple(x.shape)} along axis {axis}")
    return x.gather(axis, checked(c, indices, x.shape[axis]))


@kernel("gather_nd", host="batch_dims validate_indices", moves=True)
def gather_nd(
    c: Context, *, x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    """Rows of the last axis of ``indices`` are places in ``x``."""
    depth = indices.shape[-1]
    if batch_dims + depth > x.dim() or x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise ValueError(f"indices {tuple(indices.shape)} for {tuple(x.shape)}, batch_dims {batch_dims}")
    batch = prod(x.shape[:batch_dims])
    addressed, rest = x.shape[batch_dims : batch_dims + depth], x.shape[batch_dims + depth :]
    shape = (*indices.shape[:-1], *rest)
    c.reserve(shape)
    flat = linear_index(c, indices, addressed).reshape(batch, -1)
    table = x.reshape(batch, prod(addressed), prod(rest))
    return table.gather(1, flat.unsqueeze(-1).expand(-1, -1, prod(rest))).reshape(shape)


def linear_index(c: Context, indices: Tensor, sizes: torch.Size) -> Tensor:
    """Places given by rows of indices, counted through the axes they address."""
    total = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for axis, size in enumerate(sizes):
        total = total * size + checked(c, indices[..., axis], size)
    return total


REDUCE = {"add": "sum", "sub": "sum", "mul": "prod", "div": "prod", "max": "amax", "min": "amin"}


def scattered(data: Tensor, axis: int, places: Tensor, updates: Tensor, mode: str) -> Tensor:
    """A copy of ``data`` with ``updates`` put at ``places`` along ``axis``, joined to what was there."""
    if mode == "update":
        return data.scatter(axis, places, updates)
    if mode not in REDUCE:
        raise ValueError(f"mode {mode}")
    if mode == "sub":
        updates = -updates
    elif mode == "div":
        updates = updates.reciprocal()
    return data.scatter_reduce(axis, places, updates, REDUCE[mode], include_self=True)


@kernel("scatter", host="axis mode validate_indices", same="data updates")
def scatter(
    c: Context,
    *,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """Slices of ``updates`` put at ``indices`` of one axis."""
    axis = axis_of(axis, data.dim())
    wanted = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    if updates.shape != wanted or indices.dim() > 1:
        raise ValueError(f"updates {tuple(updates.shape)}, expected {wanted}")
    shape = [1] * data.dim()
    shape[axis] = -1
    places = checked(c, indices, data.shape[axis]).reshape(shape)
    rows = updates.reshape(*data.shape[:axis], -1, *data.shape[axis + 1 :])
    return scattered(data, axis, places.expand(rows.shape), rows, mode)


@kernel("scatter_along_axis", host="axis mode validate_indices", same="data updates")
def scatter_along_axis(
    c: Context,
    *,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """One index per element of ``updates``, along ``axis``."""
    axis = axis_of(axis, data.dim())
    if indices.shape != updates.shape:
        raise ValueError(f"indices {tuple(indices.shape)}, updates {tuple(updates.shape)}")
    return scattered(data, axis, checked(c, indices, data.shape[axis]), updates, mode)


@kernel("scatter_nd", host="mode validate_indices", same="data updates")
def scatter_nd(
    c: Context,
    *,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """Rows of the last axis of ``indices`` are places in ``data``."""
    depth = indices.shape[-1]
    addressed, rest = data.shape[:depth], data.shape[depth:]
    wanted = (*indices.shape[:-1], *rest)
    if updates.shape != wanted:
        raise ValueError(f"updates {tuple(updates.shape)}, expected {wanted}")
    places = linear_index(c, indices, addressed).reshape(-1, 1).expand(-1, prod(rest))
    table = data.reshape(prod(addressed), prod(rest))
    return scattered(table, 0, places, updates.reshape(-1, prod(rest)), mode).reshape(data.shape)
