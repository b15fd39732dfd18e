"""Puts quantisers whose scales are powers of two on the values and weights of an integer machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import QONNX_DOMAIN, Graph, is_quantiser
from rubicc.passes.integer import block_bodies
from rubicc.passes.integer.block_bodies import AttentionSpec, NormSpec
from rubicc.passes.integer.blocks import block_node
from rubicc.passes.integer.bodies import is_reversed, names_for
from rubicc.passes.integer.cells import SPEC_KEY, Spec, integer_body
from rubicc.passes.integer.formats import Format
from rubicc.passes.integer.recurrence import initial_state, scan_node
from rubicc.passes.integer.stages import Stage, bias_of, moved, origin, output_axis, stages
from rubicc.passes.quantize.quantiser import quantiser
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant

BIAS_BITS = 32
TABLE_BITS = 12  # of a table's index: 4096 entries


@dataclass(frozen=True)
class PlaceOptions:
    """What is known.

    Attributes:
        values: exponent, bits and sign of results and entries, by value name.
        weights: exponents per output channel and bits of products, by node name.
        cells: recurrent cells in integers, by node name.
        blocks: layer normalisations and attentions in integers, by node name.
    """

    values: Mapping[str, tuple[int, int, bool]] = field(default_factory=dict)
    weights: Mapping[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    cells: Mapping[str, Spec] = field(default_factory=dict)
    blocks: Mapping[str, NormSpec | AttentionSpec] = field(default_factory=dict)


@register
class Place(Pass):
    """Values that stages read and make, weights and biases are rounded to powers of two times integers.

    ::

        before   x -> Conv(W, b) -> Relu -> Conv(V)
        after    Quant(x) -> Conv(Quant(W), b on the grid of their product) -> Relu -> Quant -> Conv(Quant(V))

        before   x -> Conv -> Tanh
        after    Quant(x) -> Conv -> Quant(16 bits) -> Quant(12 bits: a table has an entry for each) -> Tanh
    """

    id = "integer.place"
    exact = False
    tolerance = 0.5
    ensures = frozenset({"power-of-two"})
    Options = PlaceOptions
    options: PlaceOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit = Editor(graph, self.id)
        changed = False
        for stage in stages(graph).found:
            changed |= self._cell(edit, stage)
        found = stages(graph)
        for stage in found.found:
            changed |= self._weights(edit, stage)
        for value in [*found.entries, *(stage.result for stage in found.found)]:
            changed |= self._value(graph, edit, value)
        for stage in stages(graph).found:  # they read rounded values by now
            changed |= self._index(edit, stage)
        graph.model.opset_imports.setdefault(QONNX_DOMAIN, 1)
        return changed

    def _cell(self, edit: Editor, stage: Stage) -> bool:
        """A float cell or block computes with integers, between real numbers on the grids of its ends."""
        node, made = stage.node, None
        spec = self.options.cells.get(stage.node.name or "")
        block = self.options.blocks.get(stage.node.name or "")
        if stage.kind == "cell" and spec is not None and SPEC_KEY not in node.metadata_props:
            made = cell_node(edit, node, stage.inputs[0], spec)
        if stage.kind == "block" and block is not None and block_bodies.SPEC_KEY not in node.metadata_props:
            made = integer_block(edit, node, stage.inputs[0], block)
        if made is None:
            return False
        name, stage.result.name = stage.result.name, edit.fresh(f"{stage.result.name}_float")
        result = made.outputs[-1]
        if stage.result.is_graph_output():
            stage.result.name = name
            edit.replace_value(stage.result, result)
        else:
            stage.result.replace_all_uses_with(result)
            result.name = name
        graph_nodes = [node, *(v.producer() for v in node.inputs[:-1] if v is not None)]
        for gone in dict.fromkeys(n for n in graph_nodes if n is not None):
            if not any(out.uses() or out.is_graph_output() for out in gone.outputs):
                edit.remove(gone)
        return True

    def _weights(self, edit: Editor, stage: Stage) -> bool:
        known = self.options.weights.get(stage.node.name or "")
        value = stage.node.inputs[1] if stage.kind == "product" else None
        weight = constant(value)
        if known is None or value is None or weight is None:
            return False
        exponents, bits = np.asarray(known[0], np.int64), known[1]
        shape = [1] * weight.ndim
        shape[output_axis(stage.node)] = -1
        scale = np.exp2(exponents).astype(np.float32).reshape(shape)
        made = quantiser(edit, stage.node, value, scale, bits, signed=True)
        stage.node.replace_input_with(1, made)
        self._bias(edit, stage, exponents)
        return True

    def _bias(self, edit: Editor, stage: Stage, exponents: np.ndarray) -> None:
        bias = bias_of(stage)
        known = self.options.values.get(origin(stage.inputs[0]).name or "")
        if bias is None or known is None:
            return
        step = np.exp2(exponents + known[0])
        limit = 2.0 ** (BIAS_BITS - 2)
        rounded = np.asarray(np.clip(np.rint(bias / step), -limit, limit) * step, np.float32)
        value = edit.initializer(f"{stage.node.name}_bias", rounded)
        if stage.bias is not None:
            adding = stage.nodes[1]
            adding.replace_input_with(0 if adding.inputs[0] is stage.bias else 1, value)
        else:
            stage.node.replace_input_with(2, value)

    def _index(self, edit: Editor, stage: Stage) -> bool:
        """A function reads no more bits than its table has entries for."""
        known = self.options.values.get(origin(stage.inputs[0]).name or "")
        if stage.kind != "function" or known is None or known[1] <= TABLE_BITS:
            return False
        form = index_form(Format(*known))
        old = stage.inputs[0]
        if index_of(old) is not None:
            return False
        scale = np.float32(2.0**form.exponent)
        made = quantiser(edit, stage.nodes[0], old, scale, form.bits, signed=form.signed)
        for node in stage.nodes:
            for index, value in enumerate(node.inputs):
                if value is old:
                    node.replace_input_with(index, made)
        return True

    def _value(self, graph: Graph, edit: Editor, value: ir.Value) -> bool:
        known = self.options.values.get(value.name or "")
        users = list(value.uses())
        if known is None or (users and all(is_quantiser(use.node) for use in users)):
            return False
        form = Format(*known)
        readers = {use.node for use in users}
        like = value.producer() or next(node for node in graph.nodes if node in readers)
        made = quantiser(
            edit, like, value, 2.0**form.exponent, form.bits, signed=form.signed,
            after=value.producer() is not None,
        )  # fmt: skip
        for use in users:
            use.node.replace_input_with(use.idx, made)
        if value.is_graph_output():
            name = value.name
            value.name = edit.fresh(f"{name}_unrounded")
            made.name, made.shape, made.type = name, value.shape, value.type
            outputs = graph.ir.outputs
            outputs[outputs.index(value)] = made
        return True


def cell_node(edit: Editor, like: ir.Node, gates: ir.Value, spec: Spec) -> ir.Node:
    """A Scan with an integer cell in place of the one in ``like``; its last output is ``(T, N, H)``."""
    body = integer_body(spec, names_for(edit, like), lambda made: edit.stamp(made, like)).graph
    zeros = initial_state(edit, like, gates, spec.hidden, np.dtype(np.float64))
    states = [zeros] * (1 + (spec.kind == "lstm"))
    made = scan_node(edit, like, states, gates, body, spec.kind, is_reversed(like), spec.hidden)
    made.metadata_props[SPEC_KEY] = spec.scalars()
    return made


def integer_block(edit: Editor, like: ir.Node, x: ir.Value, spec: NormSpec | AttentionSpec) -> ir.Node:
    """A Scan with an integer block in place of the one in ``like``."""

    def body(name: Callable[[str], str]) -> ir.Graph:
        return block_bodies.integer_body(spec, name, lambda made: edit.stamp(made, like)).graph

    made = block_node(edit, like, x, spec.kind, body)
    made.metadata_props[block_bodies.SPEC_KEY] = spec.scalars()
    return made


def index_form(of: Format) -> Format:
    """What a table reads of a value: its upper bits."""
    bits = min(of.bits, TABLE_BITS)
    return Format(of.exponent + of.bits - bits, bits, of.signed)


def index_of(value: ir.Value) -> ir.Value | None:
    """What was rounded to a table's index, when ``value`` is one: a rounding of something rounded before."""
    node = value.producer()
    if node is None or not is_quantiser(node) or node.inputs[0] is None:
        return None
    before: ir.Value | None = node.inputs[0]
    while before is not None:
        producer = before.producer()
        if producer is not None and is_quantiser(producer):
            return node.inputs[0]
        before = moved(producer)
    return None
