"""What depends on constants only is computed now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import QONNX_DOMAIN, Graph, source_of
from rubicc.passes.evaluate import bound, evaluate
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, constant_bytes, graphs_of, is_constant, is_standard

MIB = 1 << 20
SMALL = 4096  # bytes of scalars and shape vectors
GROWN_KEY = "rubicc.folded_bytes"  # what folding added to this graph so far, so that the budget is spent once


@register
class FoldConstants(Pass):
    """Nodes that depend on constants and static shapes only become initializers.

    ::

        Transpose(W) -> t;  MatMul(x, t) -> y                 MatMul(x, W^T) -> y
        Shape(x:[N,64,T]) -> s;  Gather(s, 1) -> c      =>    initializer c = 64

    Shapes fold as far as they are static: of ``[N, 64, T]`` the 64. Results are computed by the reference
    executor. QONNX quantisers stay unless asked for (folding them would lose the integers behind a weight),
    and so do weights stored as integers of up to 16 bits and ONNX's QuantizeLinear and DequantizeLinear.
    """

    @dataclass(frozen=True)
    class Options:
        """Budgets.

        Attributes:
            max_bytes: largest growth of the file by one folded result, in bytes: its size less the constants
                that it alone used.
            max_total_bytes: largest growth of the file by all folding together, repeated runs included.
            fold_quant: fold QONNX quantisers of constants and stored integers too.
        """

        max_bytes: int = 64 * MIB
        max_total_bytes: int = 64 * MIB
        fold_quant: bool = False

    id = "cleanup.fold-constants"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"constants-folded"})

    def run(self, graph: Graph) -> bool:
        """See :class:`FoldConstants`."""
        edit = Editor(graph, self.id)
        spent = graph.ir.metadata_props.get(GROWN_KEY, "")
        start = self._grown = int(spent) if spent.isdecimal() else 0
        changed = False
        for owner in graphs_of(graph):
            for node in owner:
                if any(v.is_graph_output() for v in node.outputs) or not node.outputs:
                    continue
                arrays = self._of_shape(node) or self._of_constants(graph, node)
                if arrays is not None:
                    self._replace(edit, owner, node, arrays)
                    changed = True
        if self._grown > start:
            graph.ir.metadata_props[GROWN_KEY] = str(self._grown)
        return changed

    def _of_shape(self, node: ir.Node) -> list[np.ndarray] | None:
        """Shape, Size, and Gather / Slice of a Shape, as far as the dimensions asked for are static."""
        if is_standard(node, "Shape"):
            dims = _shape_dims(node)
        elif is_standard(node, "Size"):
            dims = _dims(node.inputs[0])
            if dims is not None and None not in dims:
                return [np.asarray(np.prod(np.asarray(dims, np.int64)), np.int64)]
            return None
        elif is_standard(node, "Gather", "Slice"):
            source = node.inputs[0].producer() if node.inputs[0] is not None else None
            if source is None or not is_standard(source, "Shape"):
                return None
            return _part_of_shape(node, _shape_dims(source))
        else:
            return None
        return None if dims is None or None in dims else [np.asarray(dims, np.int64)]

    def _of_constants(self, graph: Graph, node: ir.Node) -> list[np.ndarray] | None:
        if is_standard(node, "CastLike"):
            return _of_castlike(node)
        present = [v for v in node.inputs if v is not None]
        if not present or not all(is_constant(v) for v in present):
            return None
        freed = sum(constant_bytes(v) for v in set(present) if _used_only_by(v, node))
        inputs = [constant(v) for v in node.inputs]
        if _stored_integers(node, inputs) and not self.options.fold_quant:
            return None
        size = bound(node, inputs)
        if node.domain == QONNX_DOMAIN and self.options.fold_quant and inputs[0] is not None:
            size = inputs[0].nbytes
        if size is None:
            return None
        if not self._affordable(size - freed):
            self.note(source_of(node), f"{node.op_type} not folded: up to {size} bytes, beyond the budget")
            return None
        arrays = evaluate(graph, node, inputs)
        if arrays is not None:
            self._grown += sum(a.nbytes for a in arrays) - freed
        return arrays

    def _affordable(self, growth: int) -> bool:
        return growth <= self.options.max_bytes and self._grown + growth <= self.options.max_total_bytes

    def _replace(self, edit: Editor, owner: ir.Graph, node: ir.Node, arrays: list[np.ndarray]) -> None:
        for old, array in zip(node.outputs, arrays, strict=False):
            if old.uses():
                edit.constant_instead(old, array, owner)
        present = {v for v in node.inputs if v is not None}
        edit.remove(node)
        for value in present:
            if is_constant(value) and not value.uses() and not value.is_graph_output():
                holder = value.graph
                if holder is not None and value.name is not None:
                    del holder.initializers[value.name]


def _stored_integers(node: ir.Node, inputs: Sequence[np.ndarray | None]) -> bool:
    """Whether this is the Cast of a weight kept as small integers (``lower.expand-quant`` writes such)."""
    first = inputs[0]
    small = first is not None and first.dtype.kind in "iu" and first.dtype.itemsize < 4
    return is_standard(node, "Cast") and small


def _of_castlike(node: ir.Node) -> list[np.ndarray] | None:
    """CastLike of a small constant: of its second input only the type matters."""
    array, like = constant(node.inputs[0]), node.inputs[1]
    if array is None or array.nbytes > SMALL or like is None or like.dtype is None:
        return None
    return None if like.dtype == ir.DataType.STRING else [array.astype(like.dtype.numpy())]


def _used_only_by(value: ir.Value, node: ir.Node) -> bool:
    return not value.is_graph_output() and all(use.node is node for use in value.uses())


def _dims(value: ir.Value | None) -> list[int | None] | None:
    if value is None or value.shape is None:
        return None
    return [d if isinstance(d, int) else None for d in value.shape]


def _shape_dims(node: ir.Node) -> list[int | None] | None:
    """The dimensions a Shape node returns (``start`` and ``end`` applied), ``None`` for symbolic ones."""
    dims = _dims(node.inputs[0])
    if dims is None:
        return None
    return dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(dims))]


def _part_of_shape(node: ir.Node, dims: list[int | None] | None) -> list[np.ndarray] | None:
    """Gather or Slice of a shape vector, if every dimension it takes is static."""
    arguments = [constant(v) for v in node.inputs[1:]]
    if dims is None:
        return None
    axes = np.arange(len(dims))
    positions = _take(axes, arguments[0]) if node.op_type == "Gather" else _slice(axes, arguments)
    if positions is None or any(dims[i] is None for i in positions.reshape(-1)):
        return None
    return [np.asarray([dims[i] for i in positions.reshape(-1)], np.int64).reshape(positions.shape)]


def _take(vector: np.ndarray, indices: np.ndarray | None) -> np.ndarray | None:
    """``vector[indices]``, or ``None`` when out of range or unknown."""
    if indices is None or np.any(indices >= vector.size) or np.any(indices < -vector.size):
        return None
    return np.take(vector, indices)


def _slice(vector: np.ndarray, arguments: list[np.ndarray | None]) -> np.ndarray | None:
    """``vector[start:end:step]`` from the inputs (starts, ends, axes, steps) of a Slice of one axis."""
    given = [a for a in arguments if a is not None]
    if len(given) != len(arguments) or len(given) < 2 or any(a.size != 1 for a in given):
        return None
    start, end = (int(a.reshape(-1)[0]) for a in given[:2])
    step = int(given[3].reshape(-1)[0]) if len(given) > 3 else 1
    return vector[start:end:step] if step > 0 else None
