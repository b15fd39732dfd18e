"""Operators that move, cut and join without computing. They keep the element type of what they move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context, Var, to_int32
from rubicc.backends.coreml.lowering.facts import Facts, attr, axis_of, given, interleaved, kind_of
from rubicc.backends.coreml.lowering.numbers import FLOAT_TYPES
from rubicc.backends.coreml.lowering.table import Refusal, convert, needs_constant, refuse, unknown

_FAR = 2**31 - 1


def new_shape(c: Context, node: ir.Node) -> list[int] | Var:
    """Target of a Reshape: numbers with at most one -1, or a variable where several sizes are free."""
    static = c.static(node.outputs[0])
    if static is not None:
        return list(static)
    dims = c.dims(node.outputs[0])
    if dims is not None and sum(not isinstance(d, int) for d in dims) == 1:
        return [d if isinstance(d, int) else -1 for d in dims]
    stated = c.constant(node.inputs[1])
    if stated is None:
        return c.cast(c.var(node.inputs[1]), "int32")
    return _copied(c, node, [int(n) for n in stated])


def _copied(c: Context, node: ir.Node, stated: Sequence[int]) -> Var:
    """A shape whose zeros are sizes of the input, read when the program runs."""
    x = c.var(node.inputs[0], "keep")
    sizes = c.op("shape", node, "sizes", x=x)
    parts = []
    for axis, n in enumerate(stated):
        if n == 0 and not attr(node, "allowzero", 0):
            size = c.size(node.inputs[0], axis)
            if size is None:
                parts.append(
                    c.op("slice_by_index", node, f"size{axis}", x=sizes, begin=[axis], end=[axis + 1])
                )
                continue
            n = size
        parts.append(c.const(np.array([n], np.int32), f"{node.name}_size{axis}"))
    return c.op("concat", node, "shape", values=tuple(parts), axis=0)


@convert("Reshape", mil="reshape", note="several free sizes are read from the input's shape")
def reshape(c: Context, node: ir.Node) -> None:
    """New axes over the same elements; nothing where the shape stays."""
    dims = [c.dims(value) for value in (node.inputs[0], node.outputs[0])]
    x = c.var(node.inputs[0], "keep")
    if dims[0] is not None and dims[0] == dims[1] and None not in dims[0]:
        c.set(node.outputs[0], x)
    else:
        c.set(node.outputs[0], c.op("reshape", node, x=x, shape=new_shape(c, node)))


def _check_flatten(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    dims = facts.dims(node.outputs[0])
    if dims is not None and all(not isinstance(d, int) for d in dims):
        yield unknown("Flatten with free sizes on both sides")


@convert("Flatten", mil="reshape", check=_check_flatten)
def flatten(c: Context, node: ir.Node) -> None:
    """Two axes."""
    shape = [d if isinstance(d, int) else -1 for d in c.dims(node.outputs[0]) or ()]
    c.set(node.outputs[0], c.op("reshape", node, x=c.var(node.inputs[0], "keep"), shape=shape))


def _check_axes(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from needs_constant(facts, given(node, 1), f"the axes of {node.op_type}")


@convert("Squeeze", mil="squeeze", check=_check_axes)
def squeeze(c: Context, node: ir.Node) -> None:
    """Axes of size 1 go; one that a recurrent layer just made was never there."""
    axes = c.ints(node, "axes", 1)
    source = node.inputs[0]
    rank = c.rank(source)
    if source is not None and axes and rank is not None and source in c.expanded:
        var, axis = c.expanded[source]
        if [axis_of(a, rank) for a in axes] == [axis]:
            c.set(node.outputs[0], var)
            return
    x = c.var(source, "keep")
    chosen = [axis_of(a, x.rank) for a in axes] if axes else [a for a, n in enumerate(x.shape) if n == 1]
    c.set(node.outputs[0], c.op("squeeze", node, x=x, axes=chosen) if chosen else x)


@convert("Unsqueeze", mil="expand_dims", check=_check_axes)
def unsqueeze(c: Context, node: ir.Node) -> None:
    """New axes of size 1."""
    axes = c.ints(node, "axes", 1)
    x = c.var(node.inputs[0], "keep")
    c.set(node.outputs[0], c.op("expand_dims", node, x=x, axes=list(axes)) if axes else x)


@convert("Transpose", mil="transpose")
def transpose(c: Context, node: ir.Node) -> None:
    """Axes in another order."""
    x = c.var(node.inputs[0], "keep")
    perm = list(attr(node, "perm", range(x.rank)[::-1]))
    c.set(node.outputs[0], x if perm == list(range(x.rank)) else c.op("transpose", node, x=x, perm=perm))


@convert("Concat", mil="concat")
def concat(c: Context, node: ir.Node) -> None:
    """Joined along one axis, all in one type."""
    parts = [c.var(value, "keep") for value in node.inputs]
    kinds = {c.type_of(part) for part in parts}
    if len(kinds) > 1:
        wanted = c.dtype if kinds <= set(FLOAT_TYPES) else c.type_of(parts[0])
        parts = [c.cast(part, wanted) for part in parts]
    one = len(parts) == 1
    c.set(
        node.outputs[0],
        parts[0] if one else c.op("concat", node, values=tuple(parts), axis=attr(node, "axis", 1)),
    )


def _check_split(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from needs_constant(facts, given(node, 1), "the sizes of Split")
    rank = facts.rank(node.inputs[0])
    equal = rank is not None and facts.ints(node, "split", 1) is None
    if equal and facts.size(node.inputs[0], axis_of(attr(node, "axis", 0), rank or 1)) is None:
        yield unknown("Split of an axis of free size into equal parts")


@convert("Split", mil="split", check=_check_split)
def split(c: Context, node: ir.Node) -> None:
    """Cut along one axis; the last of equal parts may be smaller."""
    x = c.var(node.inputs[0], "keep")
    axis = axis_of(attr(node, "axis", 0), x.rank)
    sizes = c.ints(node, "split", 1)
    if sizes is None:
        count, total = attr(node, "num_outputs", len(node.outputs)), int(x.shape[axis])
        each = -(-total // count)
        sizes = (*[each] * (count - 1), total - each * (count - 1))
    if len(sizes) == 1:
        c.set(node.outputs[0], x)
        return
    for value, part in zip(
        node.outputs, c.op("split", node, x=x, split_sizes=list(sizes), axis=axis), strict=True
    ):
        c.set(value, part)


# Slices --------------------------------------------------------------------------------------------------


def _check_slice(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    for index, what in ((3, "axes"), (4, "steps")):
        yield from needs_constant(facts, given(node, index), f"the {what} of Slice")
    starts, ends = facts.ints(node, "starts", 1), facts.ints(node, "ends", 2)
    computed = starts is None or ends is None
    steps = facts.ints(node, "steps", 4) or ()
    if computed and any(step != 1 for step in steps):
        yield refuse("Slice with steps between ends that are computed in the network")
    rank = facts.rank(node.inputs[0])
    if rank is None or computed:
        return
    for start, end, axis, step in _cuts(facts, node, rank):
        if step < 0 and facts.size(node.inputs[0], axis) is None and not _whole_reverse(start, end, step):
            yield unknown("Slice backwards over part of an axis of free size")


def _cuts(facts: Facts, node: ir.Node, rank: int) -> list[tuple[int, int, int, int]]:
    """(start, end, axis, step) of a Slice with constant ends."""
    starts, ends = facts.ints(node, "starts", 1) or (), facts.ints(node, "ends", 2) or ()
    axes = facts.ints(node, "axes", 3) or tuple(range(len(starts)))
    steps = facts.ints(node, "steps", 4) or (1,) * len(starts)
    return [(s, e, axis_of(a, rank), st) for s, e, a, st in zip(starts, ends, axes, steps, strict=True)]


def _whole_reverse(start: int, end: int, step: int) -> bool:
    return step == -1 and (start == -1 or start >= _FAR) and end <= -_FAR


@convert(
    "Slice",
    mil="slice_by_index reverse",
    note="backwards over a whole axis is MIL's reverse",
    check=_check_slice,
)
def slices(c: Context, node: ir.Node) -> None:
    """Cuts with steps, forwards and backwards."""
    x = c.var(node.inputs[0], "keep")
    if c.ints(node, "starts", 1) is None or c.ints(node, "ends", 2) is None:
        c.set(node.outputs[0], _computed_slice(c, node, x))
        return
    cuts = _cuts(c, node, x.rank)
    turned = [axis for start, end, axis, step in cuts if _reverses(c, node, start, end, axis, step)]
    cuts = [cut for cut in cuts if cut[2] not in turned and not _keeps_all(c, node, *cut)]
    if turned:
        x = c.op("reverse", node, "reversed" if cuts else "", x=x, axes=turned)
    if cuts:
        x = c.op("slice_by_index", node, x=x, **_bounds(c, node, x.rank, cuts))
    c.set(node.outputs[0], x)


def _reverses(c: Context, node: ir.Node, start: int, end: int, axis: int, step: int) -> bool:
    size = c.size(node.inputs[0], axis)
    if step != -1 or size is None:
        return _whole_reverse(start, end, step)
    return (start == -1 or start >= size - 1) and end < -size


def _keeps_all(c: Context, node: ir.Node, start: int, end: int, axis: int, step: int) -> bool:
    size = c.size(node.inputs[0], axis)
    return step == 1 and (start == 0 or (size is not None and start <= -size)) and end >= (size or _FAR)


def _bounds(
    c: Context, node: ir.Node, rank: int, cuts: Sequence[tuple[int, int, int, int]]
) -> dict[str, list]:
    begin, end, stride = [0] * rank, [0] * rank, [1] * rank
    open_begin, open_end = [True] * rank, [True] * rank
    for start, stop, axis, step in cuts:
        size = c.size(node.inputs[0], axis)
        if size is not None:
            start, stop, _ = slice(start, None if step < 0 and stop < -size else stop, step).indices(size)
            start, stop = (start, stop) if step > 0 else (start, stop if stop >= 0 else -1)
        stride[axis] = step
        begin[axis], open_begin[axis] = max(min(start, _FAR), -_FAR), start == 0 and step > 0
        closed = stop < _FAR and not (step < 0 and stop == -1 and size is not None)
        end[axis], open_end[axis] = (stop if closed else 0), not closed
    return {"begin": begin, "end": end, "stride": stride, "begin_mask": open_begin, "end_mask": open_end}


def _computed_slice(c: Context, node: ir.Node, x: Var) -> Var:
    """One or more axes between ends that the network computes."""
    axes = c.ints(node, "axes", 3)
    count = len(axes) if axes is not None else int((c.static(node.inputs[1]) or (1,))[0])
    chosen = [axis_of(a, x.rank) for a in axes] if axes is not None else list(range(count))
    begin, end = (
        _spread(c, node, given(node, index), chosen, x.rank, part)
        for index, part in ((1, "begin"), (2, "end"))
    )
    mask = [axis not in chosen for axis in range(x.rank)]
    return c.op("slice_by_index", node, x=x, begin=begin, end=end, begin_mask=mask, end_mask=mask)


def _spread(
    c: Context, node: ir.Node, value: ir.Value | None, axes: Sequence[int], rank: int, part: str
) -> Var:
    """Ends of some axes as a vector over all axes."""
    ends = c.cast(c.var(value), "int32")
    if axes == list(range(rank)):
        return ends
    pieces = []
    for axis in range(rank):
        if axis not in axes:
            pieces.append(c.const(np.zeros(1, np.int32), f"{node.name}_{part}{axis}"))
            continue
        at = list(axes).index(axis)
        whole = len(axes) == 1
        pieces.append(
            ends if whole else c.op("slice_by_index", node, f"{part}{axis}", x=ends, begin=[at], end=[at + 1])
        )
    return c.op("concat", node, part, values=tuple(pieces), axis=0)


# Growth --------------------------------------------------------------------------------------------------


def _check_expand(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    if kind_of(node.inputs[0]) == "bool" and facts.static(node.outputs[0]) is None:
        yield unknown("Expand of truth values to a free size")


@convert("Expand", mil="expand_dims tile fill mul", check=_check_expand)
def expand(c: Context, node: ir.Node) -> None:
    """Sizes of 1 repeated; to free sizes by multiplying with ones."""
    x = c.var(node.inputs[0], "keep")
    wanted, have = c.static(node.outputs[0]), c.static(node.inputs[0])
    if c.dims(node.inputs[0]) == c.dims(node.outputs[0]) and None not in (c.dims(node.outputs[0]) or (None,)):
        c.set(node.outputs[0], x)
        return
    if wanted is None or have is None:
        one = np.int32(1) if c.type_of(x) == "int32" else c.scalar_like(x, 1)
        ones = c.op("fill", node, "ones", shape=c.cast(c.var(node.inputs[1]), "int32"), value=one)
        c.set(node.outputs[0], c.op("mul", node, x=x, y=ones))
        return
    if len(wanted) > len(have):
        x = c.op("expand_dims", node, "axes", x=x, axes=list(range(len(wanted) - len(have))))
    grown = (1,) * (len(wanted) - len(have)) + have
    repeats = [w if h == 1 else 1 for w, h in zip(wanted, grown, strict=True)]
    c.set(node.outputs[0], c.op("tile", node, x=x, reps=repeats) if set(repeats) != {1} else x)


def _check_tile(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from needs_constant(facts, node.inputs[1], "the repeats of Tile")


@convert("Tile", mil="tile", check=_check_tile)
def tile(c: Context, node: ir.Node) -> None:
    """Repeats along every axis."""
    repeats = [int(n) for n in c.constant(node.inputs[1])]  # type: ignore[union-attr]
    x = c.var(node.inputs[0], "keep")
    c.set(node.outputs[0], c.op("tile", node, x=x, reps=repeats) if set(repeats) != {1} else x)


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


def _check_pad(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    for index, what in ((1, "amounts"), (2, "value"), (3, "axes")):
        yield from needs_constant(facts, given(node, index), f"the {what} of Pad")
    mode = attr(node, "mode", "constant")
    if mode not in _PAD_MODES:
        yield refuse(f"Pad in mode {mode}")
    if kind_of(node.inputs[0]) != "float":
        yield refuse("Pad of whole numbers or truth values")
    amounts, rank = facts.ints(node, "pads", 1), facts.rank(node.inputs[0])
    if amounts is not None and min(amounts, default=0) < 0:
        yield refuse("Pad with negative amounts")
    elif amounts is not None and rank is not None and mode != "constant":
        per_axis = _amounts(facts, node, rank)
        if any(before or after for before, after in per_axis[:-2]):
            yield refuse(f"Pad in mode {mode} on other than the last two axes")


def _amounts(facts: Facts, node: ir.Node, rank: int) -> list[tuple[int, int]]:
    """(before, after) of every axis."""
    amounts = facts.ints(node, "pads", 1) or ()
    axes = [axis_of(a, rank) for a in facts.ints(node, "axes", 3) or range(rank)]
    made = [(0, 0)] * rank
    for index, axis in enumerate(axes):
        made[axis] = (amounts[index], amounts[index + len(axes)])
    return made


@convert("Pad", mil="pad", note="constant, reflect, edge; floats", check=_check_pad)
def pad(c: Context, node: ir.Node) -> None:
    """The last axes, from the first padded one on."""
    x = c.var(node.inputs[0])
    amounts = _amounts(c, node, x.rank)
    first = next((axis for axis, pair in enumerate(amounts) if pair != (0, 0)), None)
    if first is None:
        c.set(node.outputs[0], x)
        return
    mode = attr(node, "mode", "constant")
    stated = attr(node, "value") if attr(node, "value") is not None else c.scalar(given(node, 2))
    before, after = zip(*amounts[first:], strict=True)
    inputs = {"pad": np.array(interleaved(before, after), np.int32), "mode": _PAD_MODES[mode]}
    if mode == "constant":
        inputs["constant_val"] = c.scalar_like(x, stated or 0.0)
    c.set(node.outputs[0], c.op("pad", node, x=x, **inputs))


@convert("DepthToSpace", mil="depth_to_space pixel_shuffle")
def depth_to_space(c: Context, node: ir.Node) -> None:
    """Channels to pixels; CRD order is MIL's pixel_shuffle."""
    x, block = c.var(node.inputs[0]), attr(node, "blocksize")
    if attr(node, "mode", "DCR") == "DCR":
        c.set(node.outputs[0], c.op("depth_to_space", node, x=x, block_size=block))
    else:
        c.set(node.outputs[0], c.op("pixel_shuffle", node, x=x, upscale_factor=block))


@convert("SpaceToDepth", mil="space_to_depth")
def space_to_depth(c: Context, node: ir.Node) -> None:
    """Pixels to channels."""
    made = c.op("space_to_depth", node, x=c.var(node.inputs[0]), block_size=attr(node, "blocksize"))
    c.set(node.outputs[0], made)


@convert("ReverseSequence", mil="reverse_sequence")
def reverse_sequence(c: Context, node: ir.Node) -> None:
    """Each batch entry's first steps backwards."""
    array = c.constant(node.inputs[1])
    lengths = c.cast(c.var(node.inputs[1]), "int32") if array is None else to_int32(array)
    made = c.op(
        "reverse_sequence", node, x=c.var(node.inputs[0], "keep"), lengths=lengths,
        seq_axis=attr(node, "time_axis", 0), batch_axis=attr(node, "batch_axis", 1),
    )  # fmt: skip
    c.set(node.outputs[0], made)
