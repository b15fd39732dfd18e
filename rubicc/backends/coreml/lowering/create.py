"""Values made from shapes and numbers. Shape inference makes most constant; these are for free dimensions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context
from rubicc.backends.coreml.lowering.facts import Facts, attr, kind_of
from rubicc.backends.coreml.lowering.table import Refusal, convert, needs_constant


@convert("Constant", mil="const")
def constant(c: Context, node: ir.Node) -> None:
    """Read as a constant by whoever uses it."""


@convert("Shape", mil="shape slice_by_index", note="as int32")
def shape(c: Context, node: ir.Node) -> None:
    """All sizes, or some of them."""
    x = c.var(node.inputs[0], "keep")
    start, end = attr(node, "start", 0), attr(node, "end")
    cut = slice(start, end).indices(x.rank)
    part = "all" if (cut[0], cut[1]) != (0, x.rank) else ""
    made = c.op("shape", node, part, x=x)
    if part:
        made = c.op("slice_by_index", node, x=made, begin=[cut[0]], end=[cut[1]])
    c.set(node.outputs[0], made)


@convert("Size", mil="shape reduce_prod")
def size(c: Context, node: ir.Node) -> None:
    """Number of elements."""
    sizes = c.op("shape", node, "shape", x=c.var(node.inputs[0], "keep"))
    c.set(node.outputs[0], c.op("reduce_prod", node, x=sizes, axes=[0], keep_dims=False))


@convert("ConstantOfShape", mil="fill")
def filled(c: Context, node: ir.Node) -> None:
    """One number everywhere."""
    tensor = attr(node, "value")
    number = 0.0 if tensor is None else float(tensor.numpy().reshape(-1)[0])
    kind = kind_of(node.outputs[0])
    typed = (
        c.number(np.float64(number), c.dtype, node.name or "")[()] if kind == "float" else np.int32(number)
    )
    made = c.op("fill", node, shape=c.var(node.inputs[0]), value=typed)
    c.set(node.outputs[0], c.cast(made, "bool") if kind == "bool" else made)


@convert("Range", mil="range_1d")
def counting(c: Context, node: ir.Node) -> None:
    """Arithmetic progression."""
    start, end, step = (c.var(value) for value in node.inputs)
    c.set(node.outputs[0], c.op("range_1d", node, start=start, end=end, step=step))


def _check_hot(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from needs_constant(facts, node.inputs[1], "the depth of OneHot")
    yield from needs_constant(facts, node.inputs[2], "the values of OneHot")


@convert("OneHot", mil="one_hot", note="indices must not be negative", check=_check_hot)
def one_hot(c: Context, node: ir.Node) -> None:
    """Off and on values."""
    values, depth = c.constant(node.inputs[2]), c.scalar(node.inputs[1])
    assert values is not None and depth is not None
    floating = kind_of(node.outputs[0]) == "float"
    off, on = (c.number(v, c.dtype, "")[()] if floating else np.int32(v) for v in values.reshape(-1))
    made = c.op(
        "one_hot", node, indices=c.cast(c.var(node.inputs[0]), "int32"), one_hot_vector_size=int(depth),
        axis=attr(node, "axis", -1), on_value=on, off_value=off,
    )  # fmt: skip
    c.set(node.outputs[0], made)
