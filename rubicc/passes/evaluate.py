"""Evaluating one node on constants: with the reference executor's kernels, and never beyond a byte budget.

How large a result gets is bounded before anything is computed, from the operator and the constants alone:
shape annotations of a file may lie, and a 60-byte file can ask for a terabyte of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.rewrite import elements

Inputs = Sequence[np.ndarray | None]
WIDEST = 8  # bytes of the widest element type a fold may produce


def evaluate(graph: Graph, node: ir.Node, inputs: Inputs) -> list[np.ndarray] | None:
    """Outputs of ``node`` on ``inputs``; ``None`` when the executor cannot run it.

    The arrays may be views of ``inputs``.
    """
    from rubicc.ir.ops import KERNEL_FAILURES, KERNELS, Call

    kernel = KERNELS.get((node.domain, node.op_type))
    if kernel is None:
        return None
    call = Call(node, list(inputs), graph.model.opset_imports.get(node.domain, 1), None, _no_body)
    try:
        with np.errstate(all="ignore"):
            result = kernel(call)
    except KERNEL_FAILURES:
        return None
    arrays = [np.asarray(a) for a in (result if isinstance(result, list | tuple) else [result])]
    return arrays if all(a.dtype.kind in "biufcV" for a in arrays) else None


def _no_body(_body: ir.Graph, _inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    raise ValueError("nested graphs are not folded")


def bound(node: ir.Node, inputs: Inputs) -> int | None:
    """Upper bound of the bytes of all results; ``None`` for operators that are not folded at all."""
    rule = _BOUNDS.get(node.op_type) if node.domain == "" else None
    if rule is None:
        return None
    try:
        return rule(node, inputs)
    except (ValueError, IndexError, TypeError, AttributeError, ArithmeticError):
        return None


def _first(_node: ir.Node, inputs: Inputs) -> int:
    """At most the elements of the first input, in its type."""
    return _at(inputs, 0).nbytes


def _reduced(_node: ir.Node, inputs: Inputs) -> int:
    """As the first input, if not empty: reducing an empty axis can leave any number of elements."""
    return _at(inputs, 0).size * WIDEST if _at(inputs, 0).size else _refuse("empty reduction")


def _retyped(_node: ir.Node, inputs: Inputs) -> int:
    return _at(inputs, 0).size * WIDEST


def _joined(_node: ir.Node, inputs: Inputs) -> int:
    return sum(a.nbytes for a in inputs if a is not None)


def _broadcast(_node: ir.Node, inputs: Inputs) -> int:
    arrays = [a for a in inputs if a is not None]
    return elements(_common([a.shape for a in arrays])) * max(a.itemsize for a in arrays)


def _common(shapes: Sequence[Sequence[int]]) -> list[int]:
    """Per dimension the largest, aligned at the end as broadcasting does."""
    dims = max(len(s) for s in shapes)
    padded = [(1,) * (dims - len(s)) + tuple(s) for s in shapes]
    return [max(column) for column in zip(*padded, strict=True)]


def _of_shape(_node: ir.Node, inputs: Inputs) -> int:
    return _count(_at(inputs, 0)) * WIDEST


def _expand(_node: ir.Node, inputs: Inputs) -> int:
    data = _at(inputs, 0)
    return elements(_common([data.shape, _at(inputs, 1).tolist()])) * data.itemsize


def _tile(_node: ir.Node, inputs: Inputs) -> int:
    return _at(inputs, 0).nbytes * _count(_at(inputs, 1))


def _range(_node: ir.Node, inputs: Inputs) -> int:
    start, limit, delta = (float(_at(inputs, i)) for i in range(3))
    return (int(max(0.0, (limit - start) / delta)) + 1) * WIDEST


def _gather(node: ir.Node, inputs: Inputs) -> int:
    data, indices = _at(inputs, 0), _at(inputs, 1)
    rows = data.shape[node.attributes.get_int("axis", 0)]
    return indices.size * (data.nbytes // max(rows, 1))


def _gather_elements(_node: ir.Node, inputs: Inputs) -> int:
    return _at(inputs, 1).size * _at(inputs, 0).itemsize


def _matmul(_node: ir.Node, inputs: Inputs) -> int:
    a, b = _at(inputs, 0), _at(inputs, 1)
    batch = elements(_common([a.shape[:-2], b.shape[:-2]])) if a.ndim > 2 or b.ndim > 2 else 1
    rows, columns = (a.shape[-2] if a.ndim > 1 else 1), (b.shape[-1] if b.ndim > 1 else 1)
    return batch * rows * columns * max(a.itemsize, b.itemsize)


def _pad(_node: ir.Node, inputs: Inputs) -> int:
    data, pads = _at(inputs, 0), _at(inputs, 1).tolist()
    if len(inputs) > 3 or len(pads) != 2 * data.ndim:
        return _refuse("Pad on named axes is not folded")
    half = len(pads) // 2
    sizes = [n + max(pads[i], 0) + max(pads[half + i], 0) for i, n in enumerate(data.shape)]
    return elements(sizes) * data.itemsize


def _refuse(why: str) -> int:
    raise ValueError(why)


def _at(inputs: Inputs, index: int) -> np.ndarray:
    array = inputs[index]
    if array is None:
        raise ValueError("required input is missing")
    return array


def _count(shape: np.ndarray) -> int:
    return elements([max(int(d), 0) for d in shape.reshape(-1)])


def _table(rule: Callable[[ir.Node, Inputs], int], names: str) -> dict[str, Callable[[ir.Node, Inputs], int]]:
    return dict.fromkeys(names.split(), rule)


_BOUNDS: dict[str, Callable[[ir.Node, Inputs], int]] = {
    **_table(_first, "Identity Reshape Transpose Squeeze Unsqueeze Flatten Slice Split CumSum Trilu Clip"),
    **_table(_first, "Abs Sqrt Exp Log Reciprocal Floor Ceil Round Sign Erf Relu Sigmoid Tanh Sin Cos"),
    **_table(_first, "Neg Softmax LogSoftmax"),
    **_table(_reduced, "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ArgMax ArgMin"),
    **_table(_reduced, "ReduceSumSquare ReduceLogSumExp"),
    **_table(_retyped, "Cast CastLike Not IsNaN IsInf"),
    **_table(_broadcast, "Add Sub Mul Div Pow Mod Min Max Sum Mean Where Equal Less LessOrEqual Greater"),
    **_table(_broadcast, "GreaterOrEqual And Or Xor BitwiseAnd BitwiseOr BitwiseXor"),
    "Concat": _joined,
    "Shape": lambda _node, inputs: _at(inputs, 0).ndim * WIDEST,
    "Size": lambda _node, _inputs: WIDEST,
    "ConstantOfShape": _of_shape,
    "Expand": _expand,
    "Tile": _tile,
    "Range": _range,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "MatMul": _matmul,
    "Pad": _pad,
}
