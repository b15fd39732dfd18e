"""Movement of tensors: reshape, cut, join, pad. Every size is known when the plan is made."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rubicc.ir.ops.registry import KernelError
from rubicc.training.ops.conv import known_pads
from rubicc.training.ops.registry import Run, Site, op

_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@op("Reshape")
def reshape(site: Site) -> Run:
    """New dims; 0 copies the old one unless ``allowzero``, -1 is inferred."""
    shape, wanted = site.tensor_of(0).shape, [int(n) for n in site[1]]
    if not site.attr("allowzero", 0):
        wanted = [shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return lambda x, _: x.reshape(wanted)


@op("Flatten")
def flatten(site: Site) -> Run:
    """Two axes: everything before ``axis``, everything after."""
    shape, axis = site.tensor_of(0).shape, site.attr("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    wanted = math.prod(shape[:axis]), math.prod(shape[axis:])
    return lambda x: x.reshape(wanted)


@op("Squeeze", "Unsqueeze")
def squeeze(site: Site) -> Run:
    """Drop or insert axes of size 1: a view of known dims."""
    known = np.empty(tuple(site.tensor_of(0).shape), np.bool_) if site.tensor_of(0).numel() == 0 else None
    source = known if known is not None else np.broadcast_to(np.False_, tuple(site.tensor_of(0).shape))
    axes = site.ints("axes", 1)
    if site.node.op_type == "Squeeze":
        wanted = np.squeeze(source, axis=axes).shape
    else:
        wanted = np.expand_dims(source, axes or ()).shape
    return lambda x, *_: x.view(wanted) if x.is_contiguous() else x.reshape(wanted)


@op("Transpose")
def transpose(site: Site) -> Run:
    """Permute the axes (all reversed by default)."""
    order = tuple(site.attr("perm") or range(site.rank - 1, -1, -1))
    return lambda x: x.permute(order)


@op("Concat")
def concat(site: Site) -> Run:
    """Join along ``axis``."""
    axis = site.attr("axis", 1)
    return lambda *parts: torch.cat(parts, axis)


@op("Split")
def split(site: Site) -> Run:
    """Cut along ``axis`` into given or equal parts; the last equal part may be smaller."""
    axis = site.attr("axis", 0)
    size = site.tensor_of(0).shape[axis]
    parts = site.ints("split", 1)
    if parts is None:
        count = site.attr("num_outputs", site.outputs)
        each = -(-size // count)
        parts = (*[each] * (count - 1), size - each * (count - 1))
    if sum(parts) != size:
        raise KernelError(f"split {parts} does not sum to {size}")
    sizes = list(parts)
    return lambda x, *_: torch.split(x, sizes, axis)


@op("Slice")
def slice_op(site: Site) -> Run:
    """Strided slices; a negative step turns the axis around first."""
    starts, ends = site.ints("starts", 1), site.ints("ends", 2)
    if starts is None or ends is None:
        raise KernelError("Slice without starts or ends")
    axes = site.ints("axes", 3) or tuple(range(len(starts)))
    steps = site.ints("steps", 4) or (1,) * len(starts)
    shape = site.tensor_of(0).shape
    cuts, turned = [slice(None)] * len(shape), []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        n = shape[axis]
        picked = range(n)[_bound(start, n, step) : _bound(end, n, step, True) : step]
        if step < 0:
            turned.append(axis % len(shape))
            picked = range(n - 1 - picked.start, n - 1 - picked.stop, -step)
        cuts[axis] = slice(picked.start, max(picked.stop, picked.start), picked.step)
    whole = all(cut in (slice(None), slice(0, n, 1)) for cut, n in zip(cuts, shape, strict=True))
    where = tuple(cuts)
    if whole and turned:
        return lambda x, *_: torch.flip(x, turned)
    if turned:
        return lambda x, *_: torch.flip(x, turned)[where]
    return (lambda x, *_: x) if whole else (lambda x, *_: x[where])


def _bound(value: int, n: int, step: int, end: bool = False) -> int | None:
    """A bound as ``range`` takes it; ``None`` is the end before the first element."""
    value = value + n if value < 0 else value
    if step > 0:
        return min(max(value, 0), n)
    value = min(max(value, -1 if end else 0), n - 1)
    return None if value < 0 else value


@op("Expand")
def expand(site: Site) -> Run:
    """Two-way broadcast to a shape, as a view."""
    wanted = np.broadcast_shapes(tuple(site.tensor_of(0).shape), tuple(int(n) for n in site[1]))
    return lambda x, _: x.expand(wanted)


@op("Tile")
def tile(site: Site) -> Run:
    """Repeat along every axis."""
    repeats = [int(n) for n in site[1]]
    return lambda x, _: x.repeat(repeats)


@op("Pad")
def pad(site: Site) -> Run:
    """Constant, reflect, edge or wrap padding; negative amounts crop."""
    rank, amounts, axes = site.rank, site.ints("pads", 1), site.ints("axes", 3)
    if amounts is None:
        raise KernelError("Pad without pads")
    widths = known_pads(amounts, [a % rank for a in axes] if axes else range(rank), rank)
    mode = site.attr("mode", "constant")
    if mode == "constant":
        given = site.scalar("value", 2)
        value = 0 if given is None else float(given)
        return lambda x, *_: functional.pad(x, widths, value=value)
    # torch pads the last one to three axes of a tensor with as many axes and two more
    used = max((axis for axis in range(rank) if any(widths[2 * axis : 2 * axis + 2])), default=0) + 1
    if used > 3 or min(widths) < 0:
        raise KernelError(f"Pad mode {mode} of {used} axes, or with negative amounts, is not implemented")
    flat, kind = (1, -1, *site.tensor_of(0).shape[rank - used :]), _MODES[mode]

    def run(x: Tensor, *_: Tensor) -> Tensor:
        y = functional.pad(x.reshape(flat), widths[: 2 * used], mode=kind)
        return y.reshape(*x.shape[: rank - used], *y.shape[2:])

    return run


@op("DepthToSpace", "SpaceToDepth")
def depth_space(site: Site) -> Run:
    """Channels to 2-D pixels and back."""
    n, c, h, w = site.tensor_of(0).shape
    b = site.attr("blocksize")
    if site.node.op_type == "SpaceToDepth":
        return lambda x: (
            x.reshape(n, c, h // b, b, w // b, b)
            .permute(0, 3, 5, 1, 2, 4)
            .reshape(n, c * b * b, h // b, w // b)
        )
    deep = c // (b * b)
    if site.attr("mode", "DCR") == "DCR":
        shape, order = (n, b, b, deep, h, w), (0, 3, 4, 1, 5, 2)
    else:
        shape, order = (n, deep, b, b, h, w), (0, 1, 4, 2, 5, 3)
    return lambda x: x.reshape(shape).permute(order).reshape(n, deep, h * b, w * b)
