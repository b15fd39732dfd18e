"""Gathering, scattering and sequences of their own length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rubicc.ir.ops.registry import KernelError
from rubicc.training.ops.registry import Run, Site, op

_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _wrapped(index: Tensor, n: int) -> Tensor:
    """Indices from 0, of the type torch indexes with."""
    index = index.long()
    return torch.where(index < 0, index + n, index)


@op("Gather")
def gather(site: Site) -> Run:
    """Take along ``axis``; negative indices count from the end."""
    x, index = site.tensor_of(0), site.tensor_of(1)
    axis = site.attr("axis", 0) % max(x.ndim, 1)
    n, known, picked = x.shape[axis], site.known(1), tuple(index.shape)
    if known is not None:
        if known.size and (known.max() >= n or known.min() < -n):
            raise KernelError(f"index outside [-{n}, {n})")
        if known.ndim == 0:
            at = int(known) % n
            return lambda x, _: x.select(axis, at)
        flat = torch.from_numpy(np.asarray(known, np.int64).reshape(-1) % max(n, 1)).to(x.device)
        shape = (*x.shape[:axis], *picked, *x.shape[axis + 1 :])
        return lambda x, _: x.index_select(axis, flat).view(shape)
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return lambda x, index: functional.embedding(_wrapped(index, n), x)
    shape = (*x.shape[:axis], *picked, *x.shape[axis + 1 :])
    return lambda x, index: x.index_select(axis, _wrapped(index, n).reshape(-1)).view(shape)


@op("GatherElements")
def gather_elements(site: Site) -> Run:
    """Take one element per index position along ``axis``."""
    axis = site.attr("axis", 0) % site.rank
    n = site.tensor_of(0).shape[axis]
    return lambda x, index: torch.gather(x, axis, _wrapped(index, n))


@op("GatherND")
def gather_nd(site: Site) -> Run:
    """Gather by index tuples, with leading batch axes."""
    lead, x, index = site.attr("batch_dims", 0), site.tensor_of(0), site.tensor_of(1)
    rows, depth = int(np.prod(x.shape[:lead], dtype=np.int64)), index.shape[-1]
    sizes = x.shape[lead : lead + depth]
    shape = (*x.shape[:lead], *index.shape[lead:-1], *x.shape[lead + depth :])

    def run(x: Tensor, index: Tensor) -> Tensor:
        flat, picked = x.reshape(rows, *x.shape[lead:]), index.reshape(rows, -1, depth)
        batch = torch.arange(rows, device=x.device)[:, None].expand(rows, picked.shape[1])
        where = [_wrapped(picked[..., axis], n) for axis, n in enumerate(sizes)]
        return flat[(batch, *where)].reshape(shape)

    return run


@op("ScatterND")
def scatter_nd(site: Site) -> Run:
    """A copy with slices replaced or added to at index tuples."""
    mode, sizes = site.attr("reduction", "none"), site.tensor_of(0).shape
    if mode not in ("none", "add"):
        raise KernelError(f"ScatterND with reduction {mode} has no gradient here")
    depth = site.tensor_of(1).shape[-1]

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        where = tuple(_wrapped(index[..., axis], sizes[axis]) for axis in range(depth))
        return x.index_put(where, updates, accumulate=mode == "add")

    return run


@op("ScatterElements")
def scatter_elements(site: Site) -> Run:
    """A copy with single elements replaced or combined along ``axis``."""
    axis, mode = site.attr("axis", 0) % site.rank, site.attr("reduction", "none")
    n = site.tensor_of(0).shape[axis]
    put: Callable[..., Tensor]
    if mode == "none":
        put = torch.scatter
    else:
        kind = _REDUCE[mode]
        put = lambda x, axis, index, src: torch.scatter_reduce(x, axis, index, src, kind)  # noqa: E731
    return lambda x, index, updates: put(x, axis, _wrapped(index, n), updates)


@op("OneHot")
def one_hot(site: Site) -> Run:
    """One-hot encoding with given off and on values; an index outside the depth gives a row of off."""
    depth, axis = int(site[1].reshape(-1)[0]), site.attr("axis", -1)
    index = site.tensor_of(0)
    axis = axis + index.ndim + 1 if axis < 0 else axis
    places = torch.arange(depth, device=index.device).reshape(-1, *[1] * (index.ndim - axis))

    def run(index: Tensor, _: Tensor, values: Tensor) -> Tensor:
        hot = _wrapped(index, depth).unsqueeze(axis) == places
        return torch.where(hot, values[1], values[0])

    return run


@op("EyeLike")
def eye_like(site: Site) -> Run:
    """Ones on a diagonal of a matrix shaped like the input."""
    x, declared = site.tensor_of(0), site.attr("dtype")
    kind = x.dtype if declared is None else site.torch_dtype(declared)
    eye = torch.ones(tuple(x.shape), dtype=kind, device=x.device)
    offset = site.attr("k", 0)
    eye = torch.triu(torch.tril(eye, offset), offset)
    return lambda _: eye


@op("ReverseSequence")
def reverse_sequence(site: Site) -> Run:
    """Reverse the first ``len`` steps of every batch entry."""
    time, batch = site.attr("time_axis", 0), site.attr("batch_axis", 1)

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        y = x.movedim((time, batch), (0, 1))
        return turned(y, lengths.long()).movedim((0, 1), (time, batch))

    return run


def turned(x: Tensor, lengths: Tensor) -> Tensor:
    """``x`` (T, N, ...) with the first ``lengths[n]`` steps of every sequence in reverse order."""
    steps = torch.arange(x.shape[0], device=x.device)[:, None]
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return torch.gather(x, 0, index.reshape(*index.shape, *[1] * (x.ndim - 2)).expand(x.shape))
