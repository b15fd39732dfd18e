"""Constant nodes become initializers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, nodes_of


@register
class LiftConstants(Pass):
    """Constant nodes become initializers, so that later passes look for constants in one place only.

    ::

        Constant(value=w) -> c;  Add(x, c) -> y
        becomes
        initializer c = w;       Add(x, c) -> y

    A Constant that is a graph output stays. (onnx_ir has such a pass; it fails on sparse constants and
    drops the shape annotation, hence ours.)
    """

    id = "cleanup.lift-constants"
    ensures = frozenset({"constants-are-initializers"})

    def run(self, graph: Graph) -> bool:
        """See :class:`LiftConstants`."""
        edit = Editor(graph, self.id)
        changed = False
        for node in nodes_of(graph, "Constant"):
            if not node.outputs[0].is_graph_output():
                changed |= self._lift(edit, node)
        return changed

    def _lift(self, edit: Editor, node: ir.Node) -> bool:
        tensor, owner = _tensor(node), node.graph
        if tensor is None or owner is None:
            return False
        old = node.outputs[0]
        title = old.name or edit.fresh(node.name or "constant")
        old.name = None
        new = ir.Value(
            name=title,
            const_value=tensor,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            metadata_props=dict(old.metadata_props),
        )
        owner.register_initializer(new)
        old.replace_all_uses_with(new)
        edit.remove(node)
        return True


def _tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The value of a Constant node; ``None`` for forms that cannot be an initializer (sparse, references)."""
    if len(node.attributes) != 1:
        return None
    name, attr = next(iter(node.attributes.items()))
    if attr.is_ref():
        return None
    if name == "value":
        return attr.as_tensor()
    if name in ("value_int", "value_ints"):
        return ir.tensor(np.asarray(attr.value, dtype=np.int64))
    if name in ("value_float", "value_floats"):
        return ir.tensor(np.asarray(attr.value, dtype=np.float32))
    if name in ("value_string", "value_strings"):
        parts = [attr.value] if name == "value_string" else list(attr.value)
        raw = [part.encode() if isinstance(part, str) else part for part in parts]
        return ir.StringTensor(raw, shape=ir.Shape([] if name == "value_string" else [len(raw)]))
    return None
