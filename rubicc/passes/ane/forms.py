"""Which of the first two axes of a (?, ?, C) value is the sequence, for every value of a graph."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from rubicc.ir.graph import Graph
from rubicc.passes.ane.attention_core import Core, cores
from rubicc.passes.ane.heads import NotHeads, heads, joined
from rubicc.passes.ane.matching import BSC, SBC, Form, data_uses, is_elementwise
from rubicc.passes.ane.movement import Trials
from rubicc.passes.ane.weights import is_stored
from rubicc.passes.cleanup.merge_transposes import permutation
from rubicc.passes.rewrite import is_constant, is_standard, nodes_of, rank

_SWAPPED = [1, 0, 2]


class SequenceForms:
    """Batch first, unless something says that time is.

    What says so: a Transpose that brings time to the front from channels first, and attentions, whose scores
    show which axis is attended over. From there it spreads along operators that keep the axes; a Transpose of
    the first two turns it round. A wrong guess costs views, never correctness.
    """

    def __init__(self, graph: Graph) -> None:
        self._found: dict[ir.Value, Form] = {}
        turned = [node for node in nodes_of(graph, "Transpose") if rank(node.outputs[0]) == 3]
        queue = [(n.outputs[0], SBC) for n in turned if permutation(n) == list(SBC.outward)]
        if any(permutation(node) == _SWAPPED for node in turned):
            queue += _attended(graph)
        while queue:
            value, form = queue.pop()
            if value not in self._found:
                self._found[value] = form
                queue += _along(value, form)

    def of(self, value: ir.Value) -> Form:
        """The form of a rank-3 value."""
        return self._found.get(value, BSC)


def _attended(graph: Graph) -> list[tuple[ir.Value, Form]]:
    """Forms of the values that attentions start from and end in."""
    trials, found = Trials(graph), []
    for core in cores(graph)[0] if trials.runs else ():
        try:
            found += _of_core(trials, core)
        except NotHeads:
            continue  # the attention pass says what it did not understand
    return found


def _of_core(trials: Trials, core: Core) -> list[tuple[ir.Value, Form]]:
    shapes = [run.shape(core.scores.outputs[0]) for run in trials.runs]
    leads = [shape[:-2] for shape in shapes if shape is not None]
    if len(leads) != len(shapes):
        return []
    operands = [heads(trials, v, leads, swapped=place == 1) for place, v in enumerate(core.operands)]
    found = [(one.root, one.form) for one in operands if one.form is not None]
    result = joined(trials, core.context.outputs[0], operands[0].lead)
    return [*found, (result.value, result.form)] if result.form is not None else found


def _along(value: ir.Value, form: Form) -> Iterator[tuple[ir.Value, Form]]:
    """Values whose axes are those of ``value``, or these with the first two swapped."""
    maker = value.producer()
    for node in [*([maker] if maker is not None else []), *(node for node, _ in data_uses(value))]:
        if is_standard(node, "Transpose") and permutation(node) == _SWAPPED:
            other = BSC if form == SBC else SBC
        elif is_elementwise(node) or is_standard(node, "LayerNormalization") or _is_linear(node):
            other = form
        else:
            continue
        ends = (*node.inputs, *node.outputs[:1])
        yield from ((v, other) for v in ends if v is not None and v is not value and _is_data(v))


def _is_linear(node: ir.Node) -> bool:
    return is_standard(node, "MatMul") and is_stored(node.inputs[1])


def _is_data(value: ir.Value) -> bool:
    return rank(value) == 3 and not is_constant(value)
