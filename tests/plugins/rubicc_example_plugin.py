"""An example plugin pass; ``docs/writing_a_pass.md`` explains a class like this one."""

from __future__ import annotations

from rubicc.ir.graph import Graph
from rubicc.passes.registry import Pass
from rubicc.passes.rewrite import Editor, constant, graphs_of, is_standard


class MergeMuls(Pass):
    """Two multiplications by constants in a row become one.

    ::

        Mul(x, a) -> m;  Mul(m, b) -> y      =>      Mul(x, a*b) -> y
    """

    id = "example.merge-muls"
    requires = frozenset({"constants-are-initializers"})
    ensures = frozenset({"example-muls-merged"})
    tolerance = 1e-6

    def run(self, graph: Graph) -> bool:
        """See :class:`MergeMuls`."""
        edit = Editor(graph, self.id)
        changed = False
        for owner in graphs_of(graph):
            for node in owner:
                changed |= _merge(edit, node)
        return changed


def _merge(edit: Editor, node) -> bool:  # type: ignore[no-untyped-def]
    before = node.inputs[0].producer() if is_standard(node, "Mul") and node.inputs[0] is not None else None
    if before is None or not is_standard(before, "Mul") or len(node.inputs[0].uses()) != 1:
        return False
    a, b = constant(before.inputs[1]), constant(node.inputs[1])
    if a is None or b is None or a.size != 1 or b.size != 1 or node.inputs[0].is_graph_output():
        return False
    node.replace_input_with(0, before.inputs[0])
    node.replace_input_with(1, edit.initializer(f"{node.name}_factor", (a * b).reshape(b.shape), node.graph))
    edit.mark(node, before)
    edit.remove(before)
    return True
