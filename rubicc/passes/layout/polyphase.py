"""Long convolutions over time become short ones over more channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from rubicc.ir.graph import MADE_BY_KEY, Graph, source_of
from rubicc.passes.layout.cost import best_phases
from rubicc.passes.layout.geometry import geometry, is_conv1d, is_quantised, operands
from rubicc.passes.layout.lengths import LengthNodes, length_map
from rubicc.passes.layout.operands import Stays
from rubicc.passes.layout.rows import fold_in_rows
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor

Formulation = Literal["rows", "gather", "planes"]


@register
class Polyphase(Pass):
    """drawing"""

    id = "layout.polyphase"
    requires = frozenset({"constants-are-initializers", "shapes"})
    tolerance = 2e-5

    @dataclass(frozen=True)
    class Options:
        """x"""

        formulation: Formulation = "rows"
        phases: int = 0

    def run(self, graph: Graph) -> bool:
        edit = Editor(graph, self.id)
        known = length_map(graph.ir)
        nodes = LengthNodes(edit)
        changed = False
        for node in list(graph.ir):
            if not is_conv1d(node) or node.metadata_props.get(MADE_BY_KEY) == self.id:
                continue
            try:
                shape = geometry(node)
                operands(node)
            except Stays as why:
                self.note(source_of(node), str(why))
                continue
            phases = self.options.phases or best_phases(shape, self.options.formulation, is_quantised(node))
            if phases > 1 and shape.taps>1:
                fold_in_rows(edit, nodes, node, shape, phases, known[node.inputs[0]],
                    "gather" if self.options.formulation == "gather" else "transpose")
                changed = True
        return changed
