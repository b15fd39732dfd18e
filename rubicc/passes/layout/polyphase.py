"""Long convolutions over time become short ones over more channels."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from rubicc.ir.graph import MADE_BY_KEY, Graph, source_of
from rubicc.passes.layout.cost import FORMULATIONS, PHASES, RATES, REGION_PHASES, Formulation, best_row_phases
from rubicc.passes.layout.geometry import geometry, is_conv1d, is_quantised, operands
from rubicc.passes.layout.lengths import Length, LengthNodes, length_map
from rubicc.passes.layout.operands import Stays
from rubicc.passes.layout.phases import Geometry
from rubicc.passes.layout.planes import Planes
from rubicc.passes.layout.regions import Choice, best_choice, carried
from rubicc.passes.layout.rows import fold_in_rows
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor

MIN_OPSET = 15  # Shape takes one dimension


@register
class Polyphase(Pass):
    """Splits time into s phases that become channels, so that grouped convolutions run at full speed.

    ::

        t = s * tau + p            x0 x1 x2 x3 x4 x5 x6 x7        (C, T)
                                        =>   x0 x4  |  p = 0
                                             x1 x5  |  p = 1      (C*s, T/s)
                                             x2 x6  |  p = 2
                                             x3 x7  |  p = 3

        Conv(8 in, 8 out, k taps) per group   =>   Conv(8s in, 8s out, about k/s + 1 taps) per group

    The sums are the same, some terms are products with an added zero: exact up to the order of summation,
    and bit for bit on integers. ``rows`` and ``gather`` rewrite every convolution by itself for runtimes that
    hold channels last; ``planes`` keeps whole regions on phase-major time for those that hold them first.
    docs/polyphase.md tells what each was measured at.
    """

    id = "layout.polyphase"
    requires = frozenset({"constants-are-initializers", "shapes"})
    ensures = frozenset({"phases"})
    tolerance = 2e-5

    @dataclass(frozen=True)
    class Options:
        """Options of :class:`Polyphase`.

        Attributes:
            formulation: ``rows``: channels last, blocks moved by Transpose; ``gather``: the same by Gather;
                ``planes``: channels first, one transpose at each end of a region.
            phases: s; 0 chooses it by the model of cost, per convolution (rows, gather) or region (planes).
            force: fold every convolution over time, also those that are predicted to lose.
        """

        formulation: Formulation = "rows"
        phases: int = 0
        force: bool = False

        def __post_init__(self) -> None:
            if self.phases == 1 or not 0 <= self.phases <= 64:
                raise ValueError(f"phases is {self.phases}, not 0 or 2 to 64")

    def run(self, graph: Graph) -> bool:
        """See :class:`Polyphase`."""
        if graph.opset < MIN_OPSET:
            self.note("graph", f"operator set {graph.opset} is older than {MIN_OPSET}: no layout change")
            return False
        edit = Editor(graph, self.id)
        made = LengthNodes(edit)
        if self.options.formulation == "planes":
            return self._planes(graph, edit, made)
        plan, gather = self.row_plan(graph), self.options.formulation == "gather"
        for node, shape, phases, length in plan:
            fold_in_rows(edit, made, node, shape, phases, length, gather=gather)
        return bool(plan)

    def pays(self, graph: Graph) -> bool:
        """Whether the pass would change ``graph``; leaves it as it is."""
        if graph.opset < MIN_OPSET:
            return False
        if self.options.formulation == "planes":
            return self.best_region(graph) is not None
        return bool(self.row_plan(graph))

    def row_plan(self, graph: Graph) -> list[tuple[ir.Node, Geometry, int, Length]]:
        """Convolutions to be folded by themselves: node, geometry, phases, length of the input."""
        lengths = length_map(graph.ir)
        plan = []
        for node in graph.ir:
            value = node.inputs[0] if is_conv1d(node) else None
            if value is None or node.metadata_props.get(MADE_BY_KEY) == self.id:
                continue
            try:
                shape = geometry(node)
                phases = self._row_phases(shape, is_quantised(node), _usual_frames(graph, lengths[value]))
                if phases > 1:
                    operands(node)
                    plan.append((node, shape, phases, lengths[value]))
            except Stays as why:
                self.note(source_of(node), f"convolution keeps its layout: {why}")
        return plan

    def _row_phases(self, shape: Geometry, quantised: bool, frames: int | None) -> int:
        chosen = self.options.phases
        if shape.taps == 1:
            return 1
        if chosen and self.options.force:
            return int(chosen)
        rates = RATES[self.options.formulation, quantised]
        best = best_row_phases(shape, rates, (chosen,) if chosen else PHASES, frames)
        return 2 if best == 1 and self.options.force else best

    def _planes(self, graph: Graph, edit: Editor, made: LengthNodes) -> bool:
        changed = False
        while (choice := self.best_region(graph)) is not None:
            Planes(edit, made, choice.region, choice.phases).rewrite()
            changed = True
        return changed

    def best_region(self, graph: Graph) -> Choice | None:
        """The first region worth changing, with its phases."""
        lengths = length_map(graph.ir)
        nodes = carried(graph.ir, lengths, self.id)
        quantised = any(shape is not None and is_quantised(node) for node, shape in nodes.items())
        phases = (self.options.phases,) if self.options.phases else REGION_PHASES
        return best_choice(nodes, lengths, self.id, RATES["planes", quantised], phases, self.options.force)


def _usual_frames(graph: Graph, length: Length) -> int | None:
    """Length of a value on the chunks the model is called with, where that is known."""
    if length.number is not None:
        return length.number
    chunk = graph.meta.chunk if graph.meta is not None else None
    return length.of(chunk) if chunk and length.root.is_graph_input() else None


def candidates(graph: Graph) -> tuple[Polyphase.Options, ...]:
    """Options that would change ``graph``, the best guess first; at most three.

    Args:
        graph: with shapes; left as it is. Forms of a float graph are also those of its quantised one.
    """
    rows, gather, planes = (Polyphase.Options(name) for name in FORMULATIONS)
    quantised = any(is_conv1d(node) and is_quantised(node) for node in graph.ir)
    order = (gather, rows, planes) if quantised else (rows, planes, gather)
    return tuple(options for options in order if Polyphase(options).pays(graph))
