"""Nodes that move elements or compute shapes: most only change how a value is held."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby

import numpy as np
import onnx_ir as ir

from rubicc.backends.cpu_gpu.native.operations import Frames, GatherOp
from rubicc.backends.cpu_gpu.native.reader import (
    Axis,
    Dims,
    Held,
    Reader,
    Unknown,
    integer,
    integers,
    only_attributes,
    text,
)
from rubicc.ir.graph import source_of

FAR = 2**31  # beyond every number of frames: an end of a slice that lies further is no end


def identity(p: Reader, node: ir.Node) -> None:
    """Another name."""
    value, out = node.inputs[0], node.outputs[0]
    held = p.held.get(value) if value is not None else None
    if held is not None:
        p.held[out] = held
    elif value in p.scaled:
        p.scaled[out] = p.scaled[value]
    else:
        p.folded[out] = p.constant(node, 0)


def transpose(p: Reader, node: ir.Node) -> None:
    """Any order of axes that keeps the factors of the channels in theirs."""
    only_attributes(node, "perm")
    x = _any(p, node)
    axes = tuple(x.axes[i] for i in integers(node, "perm", tuple(reversed(range(len(x.axes))))))
    if _wide(axes) != _wide(x.axes):
        raise Unknown("Transpose that mixes channels")
    p.held[node.outputs[0]] = replace(x, axes=axes)


def _wide(axes: tuple[Axis, ...]) -> list[int]:
    return [axis for axis in axes if isinstance(axis, int) and axis != 1]


def _any(p: Reader, node: ir.Node) -> Held:
    """A value, the integers of a quantiser included: moving them rounds nothing."""
    value = node.inputs[0]
    held = p.held.get(value) if value is not None else None
    return held if isinstance(held, Held) else p.operand(node)


def squeeze(p: Reader, node: ir.Node) -> None:
    """Away with named axes of size one."""
    only_attributes(node)
    if _is_size(p, node):
        return
    x = _any(p, node)
    gone = {axis % len(x.axes) for axis in p.numbers(node, 1)}
    if any(x.axes[axis] != 1 for axis in gone):
        raise Unknown("Squeeze of an axis that is not known to be 1")
    p.held[node.outputs[0]] = replace(x, axes=tuple(a for i, a in enumerate(x.axes) if i not in gone))


def unsqueeze(p: Reader, node: ir.Node) -> None:
    """New axes of size one."""
    only_attributes(node)
    if _is_size(p, node):
        return
    x = _any(p, node)
    places = p.numbers(node, 1)
    rank = len(x.axes) + len(places)
    new = {place % rank for place in places}
    if len(new) != len(places):
        raise Unknown("Unsqueeze that names an axis twice")
    rest = iter(x.axes)
    p.held[node.outputs[0]] = replace(x, axes=tuple(1 if i in new else next(rest) for i in range(rank)))


def _is_size(p: Reader, node: ir.Node) -> bool:
    """One size of a shape, as a number or as a list of one."""
    value = node.inputs[0]
    held = p.held.get(value) if value is not None else None
    if not isinstance(held, Dims):
        return False
    if len(held.sizes) != 1:
        raise Unknown(f"{node.op_type} of a shape")
    p.held[node.outputs[0]] = held
    return True


def slice_(p: Reader, node: ir.Node) -> None:
    """A reversal of time, some of the channels, or a part of a shape."""
    only_attributes(node)
    value = node.inputs[0]
    held = p.held.get(value) if value is not None else None
    starts, ends = p.numbers(node, 1), p.numbers(node, 2)
    axes, steps = p.numbers(node, 3, [*range(len(starts))]), p.numbers(node, 4, [1] * len(starts))
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Unknown("Slice with contradicting operands")
    if isinstance(held, Dims):
        if len(axes) != 1:
            raise Unknown("Slice of a shape along several axes")
        p.held[node.outputs[0]] = Dims(held.sizes[_slice(starts[0], ends[0], steps[0], len(held.sizes))])
        return
    x = p.operand(node)
    if len({axis % len(x.axes) for axis in axes}) != len(axes):
        raise Unknown("Slice that names an axis twice")
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _sliced(p, node, x, axis % len(x.axes), (start, end, step))
    p.held[node.outputs[0]] = x


def _sliced(p: Reader, node: ir.Node, x: Held, axis: int, part: tuple[int, int, int]) -> Held:
    start, end, step = part
    size = x.axes[axis]
    if isinstance(size, int):
        kept = np.moveaxis(_channels(x), _factor(x, axis), 0)[_slice(start, end, step, size)]
        return _gathered(p, node, x, axis, np.moveaxis(kept, 0, _factor(x, axis)))
    if step == 1 and start == 0 and end >= FAR:
        return x
    if size == "T" and step == -1 and (start == -1 or start >= FAR) and end <= -FAR:
        return replace(x, backwards=not x.backwards)
    raise Unknown(f"Slice other than a reversal of all frames: of {size} from {start} to {end} by {step}")


def _slice(start: int, end: int, step: int, size: int) -> slice:
    """Python means the same by the three numbers, but for a start before the first element."""
    if start < -size:
        raise Unknown(f"Slice from {start} of {size} elements")
    return slice(start, end, step)


def _channels(x: Held) -> np.ndarray:
    """Channel numbers in the shape of the factors."""
    factors = [axis for axis in x.axes if isinstance(axis, int)]
    return np.arange(math.prod(factors)).reshape(factors)


def _factor(x: Held, axis: int) -> int:
    """Which factor of the channels an axis is."""
    return sum(isinstance(size, int) for size in x.axes[:axis])


def _gathered(p: Reader, node: ir.Node, x: Held, axis: int, index: np.ndarray, constant: float = 0.0) -> Held:
    """A new value of the channels ``index`` (in the shape of the factors, -1 for the constant)."""
    if index.size == 0:
        raise Unknown(f"{node.op_type} that leaves no channels")
    if np.array_equal(index, _channels(x)):
        return x
    y = p.new(index.size, p.out.frames[x.value])
    axes = list(x.axes)
    axes[axis] = index.shape[_factor(x, axis)]
    held = replace(x, value=y, axes=tuple(axes))
    p.emit(node, GatherOp(x.value, y, index.reshape(-1), constant, source_of(node)), held)
    return held


def pad(p: Reader, node: ir.Node) -> None:
    """Constants before or after a factor of the channels."""
    only_attributes(node, "mode")
    x = p.operand(node)
    pads = p.numbers(node, 1)
    axes = [axis % len(x.axes) for axis in p.numbers(node, 3, [*range(len(x.axes))])]
    fill = p.constant(node, 2, np.zeros((), np.float32))
    if text(node, "mode", "constant") != "constant" or fill.size != 1 or len(pads) != 2 * len(axes):
        raise Unknown("Pad other than with one constant")
    for before, after, axis in zip(pads[: len(axes)], pads[len(axes) :], axes, strict=True):
        if before == after == 0:
            continue
        if not isinstance(x.axes[axis], int) or min(before, after) < 0:
            raise Unknown(f"Pad of axis {x.axes[axis]} by {before} and {after}")
        index = _channels(x)
        widths = [(0, 0)] * index.ndim
        widths[_factor(x, axis)] = (before, after)
        wider = np.pad(index, widths, constant_values=-1)
        x = _gathered(p, node, x, axis, wider, float(fill.reshape(())))
    p.held[node.outputs[0]] = x


# ---- shapes


def shape(p: Reader, node: ir.Node) -> None:
    """Sizes of a value, all or some."""
    only_attributes(node, "start", "end")
    x = _any(p, node)
    frames = p.out.frames[x.value]
    sizes = tuple(frames if axis == "T" else axis for axis in x.axes)
    end = integer(node, "end", len(sizes))
    p.held[node.outputs[0]] = Dims(sizes[integer(node, "start", 0) : end])


def gather(p: Reader, node: ir.Node) -> None:
    """Some sizes of a shape."""
    only_attributes(node, "axis")
    value = node.inputs[0]
    dims = p.held.get(value) if value is not None else None
    if not isinstance(dims, Dims) or integer(node, "axis", 0):
        raise Unknown("Gather of other than a shape")
    p.held[node.outputs[0]] = Dims(tuple(dims.sizes[i] for i in p.numbers(node, 1)))


def concat(p: Reader, node: ir.Node) -> None:
    """Parts of a shape."""
    only_attributes(node, "axis")
    sizes: list[int | str | Frames] = []
    for index, value in enumerate(node.inputs):
        held = None if value is None else p.held.get(value)
        if isinstance(held, Held):
            raise Unknown("Concat of values")
        sizes += p.numbers(node, index) if held is None else held.sizes
    p.held[node.outputs[0]] = Dims(tuple(sizes))


def reshape(p: Reader, node: ir.Node) -> None:
    """Channels split into factors or joined; batch and frames stay."""
    only_attributes(node, "allowzero")
    x = _any(p, node)
    value = node.inputs[1]
    dims = p.held.get(value) if value is not None else None
    sizes = list(dims.sizes) if isinstance(dims, Dims) else list(p.numbers(node, 1))
    frames = p.out.frames[x.value]
    target: list[Axis] = []
    for place, size in enumerate(sizes):
        if size == 0 and not integer(node, "allowzero", 0) and place < len(x.axes):
            target.append(x.axes[place])
        elif isinstance(size, Frames):
            target.append("T" if size == frames else str(size))
        else:
            target.append(size)
    axes = tuple(_completed(target, x))
    if _segments(axes) != _segments(x.axes) or any(isinstance(axis, int) and axis < 1 for axis in axes):
        raise Unknown(f"Reshape of axes {list(x.axes)} to {list(axes)}")
    p.held[node.outputs[0]] = replace(x, axes=axes)


def _completed(target: list[Axis], x: Held) -> list[Axis]:
    """``target`` with its -1 worked out."""
    if target.count(-1) != 1:
        return target
    missing = [axis for axis in x.axes if not isinstance(axis, int) and axis not in target]
    ours = math.prod(axis for axis in x.axes if isinstance(axis, int))
    theirs = math.prod(axis for axis in target if isinstance(axis, int) and axis != -1)
    if theirs < 1 or ours % theirs or len(missing) > 1 or (missing and ours != theirs):
        raise Unknown(f"Reshape of axes {list(x.axes)} to {target}")
    found: Axis = missing[0] if missing else ours // theirs
    return [found if axis == -1 else axis for axis in target]


def _segments(axes: tuple[Axis, ...]) -> list[Axis]:
    """Batch and frames in their order, with the numbers of channels between them: what a Reshape keeps."""
    found: list[Axis] = []
    for is_number, group in groupby(axes, lambda axis: isinstance(axis, int)):
        run = list(group)
        product = math.prod(axis for axis in run if isinstance(axis, int))
        found += [product] if is_number and product != 1 else [] if is_number else run
    return found
