"""Nodes and values get unique, readable names."""

from __future__ import annotations

import onnx_ir as ir

from rubicc.ir.graph import SOURCE_KEY, Graph
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import graphs_of, unique


@register
class NameNodes(Pass):
    """Nodes are named after the module they come from, and values after the node that makes them.

    ::

        node_17 (source encoder.0.conv) -> val_33       =>      encoder.0.conv/Conv -> encoder.0.conv/Conv_out

    Graph inputs, outputs and initializers keep their names; nodes without a source keep theirs if it is
    unique. Values of nested graphs keep their names too.
    """

    id = "cleanup.name-nodes"
    ensures = frozenset({"named"})

    def run(self, graph: Graph) -> bool:
        """See :class:`NameNodes`."""
        changed = self._name_nodes(graph)
        return self._name_values(graph) or changed

    def _name_nodes(self, graph: Graph) -> bool:
        taken: set[str] = set()
        changed = False
        for owner in graphs_of(graph):
            for node in owner:
                name = unique(_stem(node), taken)
                changed |= name != node.name
                node.name = name
        return changed

    def _name_values(self, graph: Graph) -> bool:
        movable = [v for node in graph.ir for v in node.outputs if v.name and not v.is_graph_output()]
        fixed = {v.name for v in [*graph.ir.inputs, *graph.ir.outputs] if v.name} | set(graph.ir.initializers)
        for owner in graph.ir.subgraphs():
            if owner is not graph.ir:
                fixed.update(v.name for v in owner.inputs if v.name)
                fixed.update(owner.initializers)
                fixed.update(v.name for node in owner for v in node.outputs if v.name)
        changed = False
        for value in movable:
            producer = value.producer()
            stem = f"{producer.name if producer is not None else value.name}_out"
            name = unique(stem if not value.index() else f"{stem}{value.index()}", fixed)
            changed |= name != value.name
            value.name = name
        return changed


def _stem(node: ir.Node) -> str:
    source = node.metadata_props.get(SOURCE_KEY)
    return f"{source}/{node.op_type}" if source else node.name or node.op_type
