"""Turns a network on power-of-two grids into one of integers alone, with float at its declared edges."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from rubicc.errors import Unsupported
from rubicc.ir.graph import Graph, is_quantiser, source_of
from rubicc.passes.integer import block_bodies
from rubicc.passes.integer.cells import read_spec
from rubicc.passes.integer.formats import Format
from rubicc.passes.integer.place import TABLE_BITS, cell_node, index_of, integer_block
from rubicc.passes.integer.stages import Stage, bias_of, moved, output_axis, stages
from rubicc.passes.integer.strip import WEIGHT_KEY
from rubicc.passes.integer.tables import entries_of
from rubicc.passes.quantize.quantiser import quantiser
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor, constant, only_use

EDGE_KEY = "rubicc.edge"  # "input" or "output" on the nodes where integers begin and end
EXPONENT_KEY = "rubicc.exponent"  # on the node that makes integers: their real value is integer * 2**it
BITS_KEY = "rubicc.bits"  # on a table: width and sign ("8u", "16s") of its entries


@dataclass(frozen=True)
class _Integer:
    """A value as integers, and their exponent."""

    value: ir.Value
    form: Format


@register
class Legalise(Pass):
    """Every stage computes with integers; requantising is a product with a power of two and a Quant of 1.

    Exact: all scales are powers of two, so every number is the old one times a power of two.

    ::

        before   Quant(2^a) -> Conv(Quant(W, 2^b), B) -> Relu -> Quant(2^c) -> LogSoftmax
        after    Quant(2^a) -> Mul(2^-a) -> Conv(W / 2^b, B / 2^(a+b)) -> Relu -> Mul(2^(a+b-c)) -> Quant(1)
                                                                              -> Mul(2^c) -> LogSoftmax
    """

    id = "integer.legalise"
    requires = frozenset({"power-of-two"})
    ensures = frozenset({"integer-only"})
    tolerance = 1e-6
    options: object

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`.

        Raises:
            Unsupported: ``RUB-PASS-030``: a stage whose grids are not known.
        """
        self._edit, self._graph = Editor(graph, self.id), graph
        self._known: dict[ir.Value, _Integer] = {}
        self._results: list[tuple[ir.Value, _Integer]] = []
        nodes = graph.nodes
        if any(node.metadata_props.get(EDGE_KEY) for node in nodes):
            return False
        found = [_Quantised.read(stage) for stage in stages(graph).found]
        if not found:
            return False
        for one in found:
            self._rewrite(one)
        self._leave(nodes)
        return True

    def _rewrite(self, one: _Quantised) -> None:
        inputs = [self._integer(self._behind(value), one.stage) for value in one.stage.inputs]
        makers = {"product": self._product, "sum": self._sum, "function": self._function, "cell": self._cell}
        makers["block"] = self._block
        made = makers[one.stage.kind](one, inputs)
        producer = made.producer()
        if producer is not None:
            producer.metadata_props[EXPONENT_KEY] = str(one.form.exponent)
        self._known[one.rounded] = _Integer(made, one.form)
        self._results.append((one.rounded, self._known[one.rounded]))

    def _behind(self, value: ir.Value) -> ir.Value:
        """The argument of a table, where ``value`` is its index."""
        before = index_of(value)
        return value if before is None else before

    def _integer(self, value: ir.Value, stage: Stage) -> _Integer:
        """The integers behind a value that a stage reads: made before, moved, or entering here."""
        if value in self._known:
            return self._known[value]
        producer = value.producer()
        before = moved(producer)
        if producer is not None and before is not None:
            inner = self._integer(before, stage)
            node = self._edit.node(
                producer.op_type, [inner.value, *producer.inputs[1:]], like=producer, shape=value.shape,
                attributes={a.name: a.value for a in producer.attributes.values()}, dtype=ir.DataType.FLOAT,
            )  # fmt: skip
            made = _Integer(node.outputs[0], inner.form)
        else:
            form = format_of(producer)
            if form is None or producer is None:
                raise _unknown(stage, f"reads {value.name}, which is on no power-of-two grid")
            node = self._scaled(value, -form.exponent, like=producer, after=True)
            node.metadata_props[EDGE_KEY] = "input"
            made = _Integer(node.outputs[0], form)
        self._known[value] = made
        return made

    def _product(self, one: _Quantised, inputs: list[_Integer]) -> ir.Value:
        stage, node, edit = one.stage, one.stage.node, self._edit
        quantised = node.inputs[1].producer() if node.inputs[1] is not None else None
        if quantised is None or not is_quantiser(quantised):
            raise _unknown(stage, "has weights on no grid")
        scale, weight = constant(quantised.inputs[1]), constant(quantised.inputs[0])
        bits = constant(quantised.inputs[3])
        if scale is None or weight is None or bits is None or not _powers(scale):
            raise _unknown(stage, "has weights whose scales are no powers of two")
        width = Format(0, int(bits), True)
        integers = np.clip(np.rint(weight / scale.astype(np.float64)), width.low, width.high)
        outputs = weight.shape[output_axis(node)]
        exponents = np.broadcast_to(np.log2(scale.astype(np.float64)).reshape(-1), outputs)
        grid = exponents + inputs[0].form.exponent
        parts: list[ir.Value | None] = [
            inputs[0].value,
            edit.initializer(f"{node.name}_integers", integers.astype(np.float32)),
        ]
        bias = bias_of(stage)
        steps = None if bias is None else np.rint(bias.astype(np.float64) / np.exp2(grid))
        if steps is not None and stage.bias is None:
            parts.append(edit.initializer(f"{node.name}_bias", steps.astype(np.float32)))
        made = self._like(node, parts)
        made.metadata_props[WEIGHT_KEY] = str(int(bits))
        if steps is not None and stage.bias is not None:
            whole = edit.initializer(f"{node.name}_bias", steps.astype(np.float32))
            made = edit.node(
                "Add", [made.outputs[0], whole], like=node, shape=stage.nodes[1].outputs[0].shape,
                dtype=ir.DataType.FLOAT,
            )  # fmt: skip
        return self._requantised(made.outputs[0], grid - one.form.exponent, one, axis=_channel_axis(node))

    def _sum(self, one: _Quantised, inputs: list[_Integer]) -> ir.Value:
        grid = min(one_of.form.exponent for one_of in inputs)
        aligned: list[ir.Value | None] = []
        for term in inputs:
            left = term.form.exponent - grid
            value = term.value
            if left:
                value = self._scaled(value, left, like=one.stage.node).outputs[0]
            aligned.append(value)
        made = self._like(one.stage.node, aligned)
        return self._requantised(made.outputs[0], np.asarray(grid - one.form.exponent), one)

    def _cell(self, one: _Quantised, inputs: list[_Integer]) -> ir.Value:
        """The same body without the scaling at its ends."""
        spec, gates = read_spec(one.stage.node), inputs[0]
        if spec is None:
            raise _unknown(one.stage, "has a body that is no integer cell")
        ends = (gates.form.exponent, gates.form.bits, one.form.exponent, one.form.bits, one.form.signed)
        if ends != (spec.entry, 16, spec.exit, spec.output_bits, True):
            raise _unknown(one.stage, "reads or makes values on other grids than its body")
        return cell_node(self._edit, one.stage.node, gates.value, spec.integers()).outputs[-1]

    def _block(self, one: _Quantised, inputs: list[_Integer]) -> ir.Value:
        """The same body without the scaling at its ends."""
        spec, x = block_bodies.read_spec(one.stage.node), inputs[0]
        if spec is None:
            raise _unknown(one.stage, "has a body that is no integer block")
        ends = (x.form.exponent, one.form.exponent, one.form.bits, one.form.signed)
        if ends != (spec.entry, spec.exit, spec.output_bits, spec.output_signed):
            raise _unknown(one.stage, "reads or makes values on other grids than its body")
        return integer_block(self._edit, one.stage.node, x.value, replace(spec, entry=0, exit=0)).outputs[0]

    def _function(self, one: _Quantised, inputs: list[_Integer]) -> ir.Value:
        """By table: the argument rounded to at most 12 bits is the index."""
        edit, like, argument = self._edit, one.stage.node, inputs[0]
        index = argument.form
        if index_of(one.stage.inputs[0]) is not None:
            index = format_of(one.stage.inputs[0].producer()) or index
        if index.bits > TABLE_BITS:
            raise _unknown(one.stage, f"reads {index.bits} bits, and a table {TABLE_BITS} at most")
        bits, shift, half = index.bits, index.exponent - argument.form.exponent, -index.low
        value = argument.value
        if shift:
            value = self._scaled(value, -shift, like=like).outputs[0]
            value = quantiser(edit, like, value, 1, bits, signed=index.signed)
        shape = one.stage.result.shape
        if half:
            offset = edit.initializer(f"{like.name}_half", np.asarray(half, np.float32))
            value = edit.node(
                "Add", [value, offset], like=like, shape=shape, dtype=ir.DataType.FLOAT
            ).outputs[0]
        value = edit.node(
            "Cast",
            [value],
            like=like,
            attributes={"to": int(ir.DataType.INT32)},
            shape=shape,
            dtype=ir.DataType.INT32,
        ).outputs[0]
        table = edit.initializer(f"{like.name}_table", entries_of(self._graph, one.stage, index, one.form))
        node = edit.node("Gather", [table, value], like=like, shape=shape, dtype=ir.DataType.FLOAT)
        node.metadata_props["rubicc.function"] = "+".join(n.op_type for n in one.stage.nodes)
        node.metadata_props[BITS_KEY] = f"{one.form.bits}{'s' if one.form.signed else 'u'}"
        return node.outputs[0]

    def _like(self, node: ir.Node, inputs: list[ir.Value | None]) -> ir.Node:
        attributes = {a.name: a.value for a in node.attributes.values()}
        return self._edit.node(
            node.op_type, inputs, like=node, attributes=attributes, shape=node.outputs[0].shape,
            dtype=ir.DataType.FLOAT,
        )  # fmt: skip

    def _scaled(self, value: ir.Value, exponent: int, *, like: ir.Node, after: bool = False) -> ir.Node:
        factor = self._edit.initializer(f"{value.name}_shift", np.asarray(2.0**exponent, np.float32))
        node = self._edit.node("Mul", [value, factor], like=like, shape=value.shape, dtype=ir.DataType.FLOAT)
        if after and like.graph is not None:
            like.graph.remove(node)
            like.graph.insert_after(like, node)
        return node

    def _requantised(
        self, value: ir.Value, left: np.ndarray, one: _Quantised, axis: int | None = None
    ) -> ir.Value:
        """``value * 2**left`` rounded to the result's integers, behind the ReLU if there was one."""
        edit, like, shape = self._edit, one.stage.node, one.stage.result.shape
        if one.stage.relu:
            value = edit.node("Relu", [value], like=like, shape=shape, dtype=ir.DataType.FLOAT).outputs[0]
        factors = np.exp2(np.asarray(left, np.float64)).astype(np.float32)
        if factors.ndim and np.all(factors == factors[0]):
            factors = factors[0]
        elif factors.ndim and axis is not None:
            factors = factors.reshape([-1] + [1] * (-1 - axis))
        if np.any(factors != 1):
            scale = edit.initializer(f"{like.name}_shift", np.asarray(factors))
            value = edit.node("Mul", [value, scale], like=like, shape=shape, dtype=ir.DataType.FLOAT).outputs[
                0
            ]
        return quantiser(edit, like, value, 1, one.form.bits, signed=one.form.signed)

    def _leave(self, nodes: list[ir.Node]) -> None:
        """Values on their way to the host become real numbers again; what computed them in float goes."""
        graph = self._graph
        old = set(nodes)
        for rounded, made in self._results:
            like = rounded.producer()
            if like is None:
                raise AssertionError("a result has a quantiser behind it")
            node = self._scaled(made.value, made.form.exponent, like=like, after=True)
            node.metadata_props[EDGE_KEY] = "output"
            self._edit.replace_value(rounded, node.outputs[0])
        for node in reversed(
            [n for n in graph.nodes if n in old or n.metadata_props.get(EDGE_KEY) == "output"]
        ):
            if not any(out.uses() or out.is_graph_output() for out in node.outputs):
                self._edit.remove(node)


@dataclass(frozen=True)
class _Quantised:
    """A stage, the quantiser behind it and the format that makes."""

    stage: Stage
    rounded: ir.Value
    form: Format

    @classmethod
    def read(cls, stage: Stage) -> _Quantised:
        user = only_use(stage.result)
        form = format_of(user)
        if user is None or form is None:
            raise _unknown(stage, "ends on no power-of-two grid")
        return cls(stage, user.outputs[0], form)


def format_of(node: ir.Node | None) -> Format | None:
    """What a quantiser with one power-of-two scale rounds to; ``None`` for anything else."""
    if node is None or not is_quantiser(node) or node.op_type == "BipolarQuant":
        return None
    scale, zero, bits = (constant(value) for value in node.inputs[1:4])
    if scale is None or zero is None or bits is None or scale.size != 1 or np.any(zero) or not _powers(scale):
        return None
    plain = not node.attributes.get_int("narrow", 0)
    rounding = node.attributes.get_string("rounding_mode", "ROUND")
    if not plain or rounding != "ROUND":
        return None
    signed = bool(node.attributes.get_int("signed", 1))
    return Format(int(np.log2(float(scale.reshape(())))), int(bits.reshape(())), signed)


def _powers(scale: np.ndarray) -> bool:
    return bool(np.all(scale > 0) and np.all(np.frexp(scale)[0] == 0.5))


def _channel_axis(node: ir.Node) -> int:
    """Axis of the output channels in a product's result, from the end."""
    return -2 if node.op_type == "Conv" else -1


def _unknown(stage: Stage, what: str) -> Unsupported:
    where = source_of(stage.node)
    return Unsupported(
        "RUB-PASS-030", f"{stage.node.op_type} {what}", where=where, hint="run integer.place first"
    )
