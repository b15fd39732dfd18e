"""What no output depends on goes."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from rubicc.ir.graph import Graph
from rubicc.passes.registry import Pass, register


@register
class EliminateDead(Pass):
    """Nodes, initializers, optional outputs, functions and operator sets that no graph output needs go.

    ::

        x -> Conv -> y (output)         x -> Conv -> y (output)
          -> Relu -> z (unused)   =>
        initializer old (unused)

    Graph inputs stay, used or not: they are the interface. The work is done by onnx_ir's passes, whose own
    report of a change misses trimmed optional outputs; ours compares what can be trimmed.
    """

    id = "cleanup.eliminate-dead"
    ensures = frozenset({"no-dead"})

    def run(self, graph: Graph) -> bool:
        """See :class:`EliminateDead`."""
        before = _extent(graph)
        for one in (RemoveUnusedNodesPass(), RemoveUnusedFunctionsPass(), RemoveUnusedOpsetsPass()):
            one(graph.model)
        return _extent(graph) != before


def _extent(graph: Graph) -> tuple[object, ...]:
    """Everything the three passes may remove, as something comparable."""
    nodes = [
        (id(node), len(node.inputs), tuple(v.name for v in node.outputs), tuple(node.attributes))
        for node in graph.all_nodes()
    ]
    owners: list[ir.Graph] = [graph.ir, *graph.ir.subgraphs()]
    names = [tuple(owner.initializers) for owner in owners]
    return (nodes, names, tuple(graph.model.functions), dict(graph.model.opset_imports))
