"""Chains of reshapes and transposes become the fewest nodes that do the same."""

from __future__ import annotations

import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.ane.views import MOVERS, View, apply_view, exclusive, origin, view_of
from rubicc.passes.layout.operands import drop_unused
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, can_replace_output, nodes_of


@register
class RemoveTransposes(Pass):
    """Chains of nodes that only rename axes become none, one or two nodes.

    ::

        x -> Squeeze(2) -> Transpose(0,2,1) -> Transpose(0,2,1) -> Unsqueeze(2) -> y        =>    x -> y
        x (N,C,1,T) -> Squeeze(2) -> Transpose(0,2,1) -> Transpose(1,0,2) -> GRU            =>
        x (N,C,1,T) -> Squeeze(2) -> Transpose(2,0,1) -> GRU
        y (T,1,N,H) -> Squeeze(1) -> Transpose(1,2,0) -> Unsqueeze(2) -> (N,H,1,T)          =>
        y (T,1,N,H) -> Transpose(2,3,1,0) -> (N,H,1,T)

    Generalises `cleanup.merge-transposes` to every view: Transpose, Squeeze, Unsqueeze, and a Reshape that
    only adds, drops or moves axes of size 1. A chain is a permutation of axes with some of size 1 added or
    dropped (`views.View`); written again it is at most a Transpose and one Squeeze or Unsqueeze. A chain is
    rewritten when that makes it shorter and needs no more nodes than fall away, so values in the middle that
    something else reads keep what makes them. Exact bit for bit: nothing is computed.
    """

    id = "ane.remove-transposes"
    requires = frozenset({"shapes"})
    ensures = frozenset({"views-merged"})
    fixed_point = True  # a chain made shorter may be part of a longer one

    def run(self, graph: Graph) -> bool:
        """See :class:`RemoveTransposes`."""
        edit = Editor(graph, self.id)
        changed = False
        for node in nodes_of(graph, *MOVERS):
            changed |= self.shorten(edit, node)
        return changed

    def shorten(self, edit: Editor, last: ir.Node) -> bool:
        """Rewrite the longest chain that ends with ``last`` and gets shorter."""
        value = last.outputs[0]
        _, _, chain = origin(value)
        chain = [node for node in chain if node.graph is last.graph]
        for length in range(len(chain), 0, -1):
            part = chain[:length]
            source, view = _whole(part)
            nodes = len(view.steps())
            if nodes > exclusive(part) or nodes >= length:
                continue
            if nodes == 0:
                if not can_replace_output(value, source):
                    continue
                made = source
            else:
                made = apply_view(edit, source, view, last)
                maker = made.producer()
                assert maker is not None
                edit.mark(maker, *part[1:])
            edit.replace_value(value, made)
            drop_unused(edit, value)
            return True
        return False


def _whole(chain: list[ir.Node]) -> tuple[ir.Value, View]:
    """Source of a chain (last node first) and what it does altogether."""
    first = view_of(chain[-1])
    source = chain[-1].inputs[0]
    assert first is not None and source is not None
    for node in reversed(chain[:-1]):
        step = view_of(node)
        assert step is not None
        first = first.then(step)
    return source, first
