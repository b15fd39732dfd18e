"""Every value gets the shape and type that follow from the operators."""

from __future__ import annotations

from rubicc.ir.graph import Graph
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import graphs_of


@register
class InferShapes(Pass):
    """Every value gets its element type and shape, symbols kept; QONNX operators are understood.

    ::

        x:[N,1,T] -> Conv(64 x 1 x 9, stride 5) -> ?            x:[N,1,T] -> Conv -> [N,64,T']

    Changes annotations only.
    """

    id = "cleanup.infer-shapes"
    ensures = frozenset({"shapes"})

    def run(self, graph: Graph) -> bool:
        """See :class:`InferShapes`."""
        from rubicc.ir.shapes import infer_shapes

        before = _annotations(graph)
        infer_shapes(graph)
        return _annotations(graph) != before


def _annotations(graph: Graph) -> list[tuple[str | None, str, str]]:
    return [
        (value.name, str(value.type), str(value.shape))
        for owner in graphs_of(graph)
        for node in owner
        for value in node.outputs
    ]
