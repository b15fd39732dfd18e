"""Equal computations and equal weights are kept once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, can_replace_output, graphs_of, is_constant

SAMPLE = 64  # elements looked at before two weights are compared in full
PIECE = 1 << 20  # bytes compared at once
RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
    | {"Dropout"}
)


@register
class Deduplicate(Pass):
    """Initializers with equal content, and nodes with equal operator, inputs and attributes, become one.

    ::

        W1 == W2:  Conv(x, W1) -> a;  Conv(x, W2) -> b;  Add(a, b)      =>      Conv(x, W1) -> a;  Add(a, a)

    Random operators, nodes with nested graphs and operators of unknown domains stay. Weights are compared in
    place, and only where type, shape and a sample agree, so nothing is copied or hashed. (onnx_ir's pass
    keeps a copy of every weight as key and takes -0.0 for 0.0 in attributes, hence ours.)
    """

    id = "cleanup.deduplicate"
    requires = frozenset({"constants-are-initializers"})
    ensures = frozenset({"no-duplicates"})

    def run(self, graph: Graph) -> bool:
        """See :class:`Deduplicate`."""
        edit = Editor(graph, self.id)
        changed = False
        for owner in graphs_of(graph):
            changed |= self._initializers(owner)
            changed |= self._nodes(edit, owner)
        return changed

    def _initializers(self, owner: ir.Graph) -> bool:
        kept: dict[tuple[object, ...], list[ir.Value]] = {}
        changed = False
        for name, value in list(owner.initializers.items()):
            if not is_constant(value) or value.is_graph_output() or value.const_value is None:
                continue
            if value.const_value.dtype == ir.DataType.STRING:
                continue
            array = value.const_value.numpy()
            key = (value.const_value.dtype, array.shape, _sample(array), tuple(value.metadata_props.items()))
            same = next((v for v in kept.setdefault(key, []) if _equal(v, array)), None)
            if same is None:
                kept[key].append(value)
                continue
            value.replace_all_uses_with(same)
            del owner.initializers[name]
            changed = True
        return changed

    def _nodes(self, edit: Editor, owner: ir.Graph) -> bool:
        seen: dict[tuple[object, ...], ir.Node] = {}
        changed = False
        for node in owner:
            key = _key(node)
            if key is None:
                continue
            first = seen.setdefault(key, node)
            pairs = list(zip(node.outputs, first.outputs, strict=True))
            if first is node or not all(can_replace_output(old, new) for old, new in pairs):
                continue
            for old, new in pairs:
                edit.replace_value(old, new)
            edit.mark(first, node)
            edit.remove(node)
            changed = True
        return changed


def _sample(array: np.ndarray) -> bytes:
    step = max(1, array.size // SAMPLE)
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
    return np.ascontiguousarray(flat[::step][: SAMPLE + 1]).tobytes()


def _equal(kept: ir.Value, array: np.ndarray) -> bool:
    """Bit equality, a piece at a time so that no whole weight is copied."""
    if kept.const_value is None:
        return False
    other = kept.const_value.numpy()
    if other is array:
        return True
    if other.flags.c_contiguous and array.flags.c_contiguous:
        a, b = other.reshape(-1).view(np.uint8), array.reshape(-1).view(np.uint8)
        pieces = range(0, a.size, PIECE)
        return all(np.array_equal(a[i : i + PIECE], b[i : i + PIECE]) for i in pieces)
    return all(x.tobytes() == y.tobytes() for x, y in zip(other, array, strict=True))


def _key(node: ir.Node) -> tuple[object, ...] | None:
    if node.op_type in RANDOM or node.domain not in ("", "qonnx.custom_op.general"):
        return None
    attributes: list[tuple[str, object]] = []
    for name, attr in sorted(node.attributes.items()):
        if attr.is_ref() or attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return None
        if attr.type == ir.AttributeType.TENSOR:
            tensor = attr.as_tensor()
            attributes.append((name, (tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes())))
        else:
            attributes.append((name, repr(attr.value)))
    present = tuple(bool(v.name) for v in node.outputs)
    return (node.domain, node.op_type, node.overload, tuple(map(id, node.inputs)), present, tuple(attributes))
