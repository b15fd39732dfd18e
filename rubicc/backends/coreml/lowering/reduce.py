"""Reductions, extremes, running sums."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context
from rubicc.backends.coreml.lowering.facts import Facts, attr, axis_of, given, kind_of
from rubicc.backends.coreml.lowering.table import Refusal, convert, needs_constant, refuse

_REDUCE = {
    "ReduceSum": "reduce_sum", "ReduceMean": "reduce_mean", "ReduceMax": "reduce_max",
    "ReduceMin": "reduce_min", "ReduceProd": "reduce_prod", "ReduceL1": "reduce_l1_norm",
    "ReduceL2": "reduce_l2_norm", "ReduceLogSum": "reduce_log_sum",
    "ReduceLogSumExp": "reduce_log_sum_exp", "ReduceSumSquare": "reduce_sum_square",
}  # fmt: skip


def _check_reduce(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from needs_constant(facts, given(node, 1), f"the axes of {node.op_type}")
    if kind_of(node.inputs[0]) == "bool":
        yield refuse(f"{node.op_type} of truth values")


def _register_reductions() -> None:
    for op, kind in _REDUCE.items():

        def run(c: Context, node: ir.Node, kind: str = kind) -> None:
            axes = c.ints(node, "axes", 1)
            x = c.var(node.inputs[0])
            if not axes and attr(node, "noop_with_empty_axes", 0):
                c.set(node.outputs[0], x)
                return
            chosen = [axis_of(a, x.rank) for a in axes] if axes else list(range(x.rank))
            keep = bool(attr(node, "keepdims", 1))
            c.set(node.outputs[0], c.op(kind, node, x=x, axes=chosen, keep_dims=keep))

        convert(op, mil=kind, check=_check_reduce)(run)


_register_reductions()


def _check_extreme(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    if attr(node, "select_last_index", 0):
        yield refuse(f"{node.op_type} that takes the last of equal values")


@convert("ArgMax", "ArgMin", mil="reduce_argmax reduce_argmin", check=_check_extreme)
def extreme(c: Context, node: ir.Node) -> None:
    """Index of the first extreme value."""
    kind = "reduce_argmax" if node.op_type == "ArgMax" else "reduce_argmin"
    keep = bool(attr(node, "keepdims", 1))
    made = c.op(kind, node, x=c.var(node.inputs[0]), axis=attr(node, "axis", 0), keep_dims=keep)
    c.set(node.outputs[0], made)


def _check_sum(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from needs_constant(facts, node.inputs[1], "the axis of CumSum")


@convert("CumSum", mil="cumsum", check=_check_sum)
def running_sum(c: Context, node: ir.Node) -> None:
    """Running sum, from either end."""
    axis = c.scalar(node.inputs[1])
    assert axis is not None
    x = c.var(node.inputs[0])
    flags = {name: bool(attr(node, name, 0)) for name in ("exclusive", "reverse")}
    c.set(node.outputs[0], c.op("cumsum", node, x=x, axis=axis_of(int(axis), x.rank), **flags))


def _check_top(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from needs_constant(facts, given(node, 1), "the number of values of TopK")


@convert("TopK", mil="topk", check=_check_top)
def top_k(c: Context, node: ir.Node) -> None:
    """Largest or smallest values, and where they are."""
    count = attr(node, "k") if c.graph.opset < 10 else c.scalar(node.inputs[1])
    assert count is not None
    lowest = not attr(node, "largest", 1)
    values, indices = c.op(
        "topk", node, x=c.var(node.inputs[0]), k=int(count), axis=attr(node, "axis", -1), ascending=lowest
    )
    for output, var in zip(node.outputs, (values, indices), strict=False):
        c.set(output, var)


def _check_triangle(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from needs_constant(facts, given(node, 1), "the diagonal of Trilu")
    k = facts.scalar(given(node, 1)) or 0
    if k * (1 if attr(node, "upper", 1) else -1) > 0:
        yield refuse("Trilu that leaves the main diagonal out")


@convert("Trilu", mil="band_part", check=_check_triangle)
def triangle(c: Context, node: ir.Node) -> None:
    """Upper or lower triangle, with diagonals beyond the main one."""
    k = int(c.scalar(given(node, 1)) or 0)
    lower, upper = (-k, -1) if attr(node, "upper", 1) else (-1, k)
    c.set(node.outputs[0], c.op("band_part", node, x=c.var(node.inputs[0]), lower=lower, upper=upper))
