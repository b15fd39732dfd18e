"""Neighbouring transposes become one or none."""

from __future__ import annotations

import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, can_replace_output, is_standard, nodes_of, rank


@register
class MergeTransposes(Pass):
    """A Transpose of a Transpose becomes one Transpose, or none where the two cancel.

    ::

        x -> Transpose(p) -> Transpose(q) -> y
        becomes
        x -> Transpose(p[q]) -> y        or, where p[q] is the identity,        x -> y

    The first one stays as long as something else uses it; no node is ever added.
    """

    id = "cleanup.merge-transposes"
    requires = frozenset({"shapes"})
    ensures = frozenset({"transposes-merged"})

    def run(self, graph: Graph) -> bool:
        """See :class:`MergeTransposes`."""
        edit = Editor(graph, self.id)
        changed = False
        for node in nodes_of(graph, "Transpose"):
            changed |= self._merge(edit, node)
        return changed

    def _merge(self, edit: Editor, outer: ir.Node) -> bool:
        inner = outer.inputs[0].producer() if outer.inputs and outer.inputs[0] is not None else None
        if inner is None or not is_standard(inner, "Transpose"):
            return False
        first, second = permutation(inner), permutation(outer)
        source = inner.inputs[0]
        if first is None or second is None or source is None or len(first) != len(second):
            return False
        perm = [first[axis] for axis in second]
        if perm == list(range(len(perm))) and can_replace_output(outer.outputs[0], source):
            edit.replace_value(outer.outputs[0], source)
            edit.remove(outer)
        else:
            outer.replace_input_with(0, source)
            outer.attributes.add(ir.AttrInt64s("perm", perm))
            edit.mark(outer, inner)
        if not inner.outputs[0].uses() and not inner.outputs[0].is_graph_output():
            edit.remove(inner)
        return True


def permutation(node: ir.Node) -> list[int] | None:
    """The permutation of a Transpose; by default axes are reversed, for which the rank must be known."""
    perm = node.attributes.get_ints("perm")
    if perm is not None:
        return list(perm)
    dims = rank(node.inputs[0])
    return None if dims is None else list(reversed(range(dims)))
