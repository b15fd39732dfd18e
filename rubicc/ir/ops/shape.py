"""Kernels that move, cut, gather and create tensors."""

from __future__ import annotations

import math

import numpy as np

from rubicc.ir.limits import bounded_elements
from rubicc.ir.ops.registry import Array, Call, KernelError, Result, carried, kernel


@kernel("Constant")
def constant(call: Call) -> Result:
    """The constant, from whichever attribute holds it."""
    tensor = call.tensor("value")
    if tensor is not None:
        return tensor
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32)):
        if call.attr(name) is not None:
            return carried(np.asarray(call.attr(name), dtype), call.float_dtype)
    for name in ("value_int", "value_ints"):
        if call.attr(name) is not None:
            return np.asarray(call.attr(name), np.int64)
    raise KernelError("Constant holds a string, a sparse tensor or nothing")


@kernel("ConstantOfShape")
def constant_of_shape(call: Call) -> Result:
    """A tensor filled with one value (float 0 by default), as a view that takes no memory."""
    value = call.tensor("value")
    fill = np.zeros((), call.numpy_dtype(1)) if value is None else value.reshape(-1)[0]
    wanted = tuple(int(n) for n in call[0])
    bounded_elements(wanted, where=call.node.name or "")
    return np.broadcast_to(np.asarray(fill), wanted)


@kernel("Shape")
def shape(call: Call) -> Result:
    """The dims, or a slice of them."""
    return np.asarray(call[0].shape[slice(call.attr("start", 0), call.attr("end"))], np.int64)


@kernel("Size")
def size(call: Call) -> Result:
    """Number of elements."""
    return np.asarray(call[0].size, np.int64)


@kernel("Reshape")
def reshape(call: Call) -> Result:
    """New dims; 0 copies the old one unless ``allowzero``, -1 is inferred."""
    x, wanted = call[0], [int(n) for n in call[1]]
    if not call.attr("allowzero", 0):
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return x.reshape(wanted)


@kernel("Flatten")
def flatten(call: Call) -> Result:
    """Two axes: everything before ``axis``, everything after."""
    x, axis = call[0], call.attr("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@kernel("Squeeze")
def squeeze(call: Call) -> Result:
    """Drop axes of size 1."""
    axes = call.ints("axes", 1)
    return np.squeeze(call[0], axis=axes)


@kernel("Unsqueeze")
def unsqueeze(call: Call) -> Result:
    """Insert axes of size 1."""
    return np.expand_dims(call[0], call.ints("axes", 1) or ())


@kernel("Transpose")
def transpose(call: Call) -> Result:
    """Permute the axes (all reversed by default)."""
    return np.transpose(call[0], call.attr("perm"))


@kernel("Concat")
def concat(call: Call) -> Result:
    """Join along ``axis``."""
    parts = [call[i] for i in range(len(call.inputs))]
    bounded_elements([sum(part.size for part in parts)], where=call.node.name or "")
    return np.concatenate(parts, axis=call.attr("axis", 1))


@kernel("Split")
def split(call: Call) -> Result:
    """Cut along ``axis`` into given or equal parts; the last equal part may be smaller."""
    x, axis = call[0], call.attr("axis", 0)
    parts = call.ints("split", 1)
    if parts is None:
        count = call.attr("num_outputs", len(call.node.outputs))
        each = -(-x.shape[axis] // count)
        parts = (*[each] * (count - 1), x.shape[axis] - each * (count - 1))
    if sum(parts) != x.shape[axis]:
        raise KernelError(f"split {parts} does not sum to {x.shape[axis]}")
    return np.split(x, np.cumsum(parts)[:-1], axis=axis)


@kernel("Slice")
def slice_op(call: Call) -> Result:
    """Strided slices, negative steps included; bounds are clamped as ONNX says."""
    x = call[0]
    starts, ends = call.ints("starts", 1), call.ints("ends", 2)
    if starts is None or ends is None:
        raise KernelError("Slice without starts or ends")
    axes = call.ints("axes", 3) or tuple(range(len(starts)))
    steps = call.ints("steps", 4) or (1,) * len(starts)
    cuts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[axis] = _clamped(start, end, step, x.shape[axis])
    return x[tuple(cuts)]


def _clamped(start: int, end: int, step: int, n: int) -> slice:
    start = start + n if start < 0 else start
    end = end + n if end < 0 else end
    if step > 0:
        return slice(min(max(start, 0), n), min(max(end, 0), n), step)
    last = min(max(end, -1), n - 1)
    return slice(min(max(start, 0), n - 1), None if last < 0 else last, step)


@kernel("Gather")
def gather(call: Call) -> Result:
    """Take along ``axis``; negative indices count from the end."""
    axis = call.attr("axis", 0)
    return np.take(call[0], _checked(call[1], call[0].shape[axis]), axis=axis)


def _checked(index: Array, n: int) -> Array:
    index = index.astype(np.int64, copy=False)
    if index.size and (index.max() >= n or index.min() < -n):
        raise KernelError(f"index outside [-{n}, {n})")
    return index


@kernel("GatherElements")
def gather_elements(call: Call) -> Result:
    """Take one element per index position along ``axis``."""
    x, index, axis = call[0], call[1], call.attr("axis", 0) % call[0].ndim
    checked = _checked(index, x.shape[axis]) % x.shape[axis]
    cut = tuple(slice(None) if a == axis else slice(n) for a, n in enumerate(checked.shape))
    return np.take_along_axis(x[cut], checked, axis)


@kernel("GatherND")
def gather_nd(call: Call) -> Result:
    """Gather by index tuples, with leading batch axes."""
    x, index, batch = call[0], call[1], call.attr("batch_dims", 0)
    lead = x.shape[:batch]
    flat = x.reshape(-1, *x.shape[batch:])
    rows = index.reshape(flat.shape[0], -1, index.shape[-1])
    picks = [flat[b][tuple(np.moveaxis(rows[b], -1, 0))] for b in range(flat.shape[0])]
    return np.stack(picks).reshape(*lead, *index.shape[batch:-1], *x.shape[batch + index.shape[-1] :])


_COMBINE = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


@kernel("ScatterND")
def scatter_nd(call: Call) -> Result:
    """A copy with slices replaced or combined at index tuples."""
    out = call[0].copy()
    index = tuple(np.moveaxis(call[1], -1, 0))
    mode = call.attr("reduction", "none")
    if mode == "none":
        out[index] = call[2]
    else:
        _COMBINE[mode].at(out, index, call[2])
    return out


@kernel("ScatterElements")
def scatter_elements(call: Call) -> Result:
    """A copy with single elements replaced or combined along ``axis``."""
    out, axis = call[0].copy(), call.attr("axis", 0) % call[0].ndim
    where = list(np.indices(call[1].shape))
    where[axis] = _checked(call[1], out.shape[axis])
    mode = call.attr("reduction", "none")
    if mode == "none":
        out[tuple(where)] = call[2]
    else:
        _COMBINE[mode].at(out, tuple(where), call[2])
    return out


@kernel("Expand")
def expand(call: Call) -> Result:
    """Two-way broadcast to a shape, as a view."""
    wanted = np.broadcast_shapes(call[0].shape, tuple(int(n) for n in call[1]))
    bounded_elements(wanted, where=call.node.name or "")
    return np.broadcast_to(call[0], wanted)


@kernel("Tile")
def tile(call: Call) -> Result:
    """Repeat along every axis."""
    repeats = [int(n) for n in call[1]]
    bounded_elements([call[0].size, *repeats], where=call.node.name or "")
    return np.tile(call[0], repeats)


@kernel("Range")
def range_op(call: Call) -> Result:
    """Arithmetic progression."""
    start, limit, delta = (call[i].reshape(-1)[0] for i in range(3))
    count = max(math.ceil((float(limit) - float(start)) / float(delta)), 0)
    bounded_elements([count], where=call.node.name or "")
    return (start + np.arange(count, dtype=start.dtype) * delta).astype(start.dtype)


@kernel("Pad")
def pad(call: Call) -> Result:
    """Constant, reflect, edge or wrap padding; negative amounts crop."""
    x = call[0]
    amounts, axes = call.ints("pads", 1), call.ints("axes", 3)
    if amounts is None:
        raise KernelError("Pad without pads")
    axes = tuple(a % x.ndim for a in axes) if axes else tuple(range(x.ndim))
    widths, cuts = [(0, 0)] * x.ndim, [slice(None)] * x.ndim
    for i, axis in enumerate(axes):
        before, after = amounts[i], amounts[i + len(axes)]
        widths[axis] = (max(before, 0), max(after, 0))
        cuts[axis] = slice(max(-before, 0), x.shape[axis] - max(-after, 0))
    x = x[tuple(cuts)]
    bounded_elements((n + sum(w) for n, w in zip(x.shape, widths, strict=True)), where=call.node.name or "")
    mode = call.attr("mode", "constant")
    if mode != "constant":
        return np.pad(x, widths, mode=mode)
    value = call.scalar("value", 2)
    return np.pad(x, widths, constant_values=0 if value is None else value)


@kernel("NonZero")
def non_zero(call: Call) -> Result:
    """Indices of the non-zero elements, one row per axis."""
    return np.asarray(np.nonzero(call[0]), np.int64)


@kernel("OneHot")
def one_hot(call: Call) -> Result:
    """One-hot encoding with given off and on values."""
    depth = int(call[1].reshape(-1)[0])
    off, on = call[2]
    index = call[0].astype(np.int64)
    axis = call.attr("axis", -1)
    axis = axis + index.ndim + 1 if axis < 0 else axis
    index = np.where((index >= -depth) & (index < depth), index % depth, -1)
    hot = np.expand_dims(index, axis) == np.arange(depth).reshape(-1, *[1] * (index.ndim - axis))
    return np.where(hot, on, off)


@kernel("EyeLike")
def eye_like(call: Call) -> Result:
    """Ones on a diagonal of a matrix shaped like the input."""
    rows, columns = call[0].shape
    dtype = call[0].dtype if call.attr("dtype") is None else call.numpy_dtype(call.attr("dtype"))
    return np.eye(rows, columns, call.attr("k", 0), dtype=dtype)


@kernel("ReverseSequence")
def reverse_sequence(call: Call) -> Result:
    """Reverse the first ``len`` steps of every batch entry."""
    time, batch = call.attr("time_axis", 0), call.attr("batch_axis", 1)
    x = np.moveaxis(call[0], (time, batch), (0, 1))
    steps = np.arange(x.shape[0])[:, None]
    lengths = call[1].astype(np.int64)[None, :]
    index = np.where(steps < lengths, lengths - 1 - steps, steps)
    y = np.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=0)
    return np.moveaxis(y, (0, 1), (time, batch))


@kernel("DepthToSpace")
def depth_to_space(call: Call) -> Result:
    """Channels to 2-D pixels."""
    n, c, h, w = call[0].shape
    b = call.attr("blocksize")
    if call.attr("mode", "DCR") == "DCR":
        y = call[0].reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = call[0].reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // (b * b), h * b, w * b)


@kernel("SpaceToDepth")
def space_to_depth(call: Call) -> Result:
    """2-D pixels to channels."""
    n, c, h, w = call[0].shape
    b = call.attr("blocksize")
    y = call[0].reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * b * b, h // b, w // b)
