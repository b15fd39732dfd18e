"""Picking and placing elements by index."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context, Var, to_int32
from rubicc.backends.coreml.lowering.facts import Facts, attr, axis_of, kind_of
from rubicc.backends.coreml.lowering.table import Refusal, convert, refuse, unknown

_NOTE = "indices computed in the network must not be negative (MIL from iOS17 on forbids them)"


def _indices(c: Context, node: ir.Node, axis: int) -> Var:
    """Indices as int32; constants count from the start."""
    value = node.inputs[1]
    array = c.constant(value)
    if array is None:
        return c.cast(c.var(value), "int32")
    size = c.size(node.inputs[0], axis)
    if size is not None:
        array = np.where(array < 0, array + size, array)
    return c.const(to_int32(array), f"{node.name}_indices")


def _check_gather(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    array = facts.constant(node.inputs[1]) if facts.is_constant(node.inputs[1]) else None
    rank = facts.rank(node.inputs[0])
    if rank is None:
        yield unknown(f"the number of axes of the input of {node.op_type} is unknown")
    elif (
        array is not None
        and array.size
        and array.min() < 0
        and facts.size(node.inputs[0], axis_of(attr(node, "axis", 0), rank)) is None
    ):
        yield unknown(f"{node.op_type} from the end of an axis of free size")
    if kind_of(node.inputs[0]) == "bool":
        yield refuse(f"{node.op_type} of truth values")


@convert("Gather", mil="gather slice_by_index", note=_NOTE, check=_check_gather)
def gather(c: Context, node: ir.Node) -> None:
    """Along one axis; a single constant index of a float tensor is a slice, which the ANE can do."""
    x = c.var(node.inputs[0])
    axis = axis_of(attr(node, "axis", 0), x.rank)
    index = c.constant(node.inputs[1]) if c.is_constant(node.inputs[1]) else None
    if index is not None and index.ndim == 0 and x.rank > 1:
        size = c.size(node.inputs[0], axis)
        at = int(index) + (size or 0 if index < 0 else 0)
        mask = [a != axis for a in range(x.rank)]
        begin, end = ([0 if m else n for m in mask] for n in (at, at + 1))
        made = c.op(
            "slice_by_index", node, x=x, begin=begin, end=end, begin_mask=mask, end_mask=mask,
            squeeze_mask=[not m for m in mask],
        )  # fmt: skip
    else:
        made = c.op("gather", node, x=x, indices=_indices(c, node, axis), axis=axis)
    c.set(node.outputs[0], made)


def _same_elsewhere(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    """MIL wants indices as large as the data on every other axis; ONNX takes smaller ones."""
    data, indices = facts.dims(node.inputs[0]), facts.dims(node.inputs[1])
    if data is None or indices is None:
        yield unknown(f"the number of axes of an operand of {node.op_type} is unknown")
        return
    axis = axis_of(attr(node, "axis", 0), len(data))
    if any(data[k] != indices[k] for k in range(len(data)) if k != axis):
        yield refuse(f"{node.op_type} whose indices are smaller than the data beside the axis")


def _check_elements(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from _check_gather(facts, node)
    yield from _same_elsewhere(facts, node)


@convert("GatherElements", mil="gather_along_axis", note=_NOTE, check=_check_elements)
def gather_elements(c: Context, node: ir.Node) -> None:
    """Single elements along one axis."""
    x = c.var(node.inputs[0])
    axis = axis_of(attr(node, "axis", 0), x.rank)
    c.set(node.outputs[0], c.op("gather_along_axis", node, x=x, indices=_indices(c, node, axis), axis=axis))


def _check_positive(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    array = facts.constant(node.inputs[1]) if facts.is_constant(node.inputs[1]) else None
    if array is not None and array.size and array.min() < 0:
        yield refuse(f"{node.op_type} with indices from the end")
    if node.op_type == "ScatterElements":
        yield from _same_elsewhere(facts, node)


@convert("GatherND", mil="gather_nd", note=_NOTE, check=_check_positive)
def gather_nd(c: Context, node: ir.Node) -> None:
    """Slices at index tuples."""
    indices = c.cast(c.var(node.inputs[1]), "int32")
    made = c.op(
        "gather_nd", node, x=c.var(node.inputs[0]), indices=indices, batch_dims=attr(node, "batch_dims", 0)
    )
    c.set(node.outputs[0], made)


_MODES = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


@convert(
    "ScatterND", "ScatterElements", mil="scatter_nd scatter_along_axis", note=_NOTE, check=_check_positive
)
def scatter(c: Context, node: ir.Node) -> None:
    """Values placed or combined at indices."""
    data, updates = c.var(node.inputs[0]), c.var(node.inputs[2])
    indices, mode = c.cast(c.var(node.inputs[1]), "int32"), _MODES[attr(node, "reduction", "none")]
    if node.op_type == "ScatterND":
        made = c.op("scatter_nd", node, data=data, indices=indices, updates=updates, mode=mode)
    else:
        axis = axis_of(attr(node, "axis", 0), data.rank)
        made = c.op(
            "scatter_along_axis", node, data=data, indices=indices, updates=updates, axis=axis, mode=mode
        )
    c.set(node.outputs[0], made)
