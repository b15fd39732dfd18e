"""Reads the integer network out of an integer-only graph, or says what in the graph is none.

Every result of the graph (a ``Quant`` of scale 1, a table's ``Gather``, a recurrent ``Scan``) is read
backward to the integers it is computed from. What no layer takes is host work, which may stand before the
inputs and behind the outputs only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.backends.aie.extract_block import read_block
from rubicc.backends.aie.extract_cell import read_cell
from rubicc.backends.aie.extract_parts import (
    CALIBRATE,
    DIMS,
    HOST,
    MIDDLE,
    NARROWER,
    RERUN,
    NotRead,
    Tensor,
    convolution,
    exponent,
    fits,
    guess_axes,
    integers,
    linear,
    power,
    shifts,
    squeezed,
    table_type,
    type_of,
    weight_type,
    work,
)
from rubicc.backends.aie.net import Add, Conv, Edge, Host, Layer, Lookup, Net, Table
from rubicc.backends.aie.numbers import ACCUMULATOR_BITS, Type
from rubicc.backends.base import Finding, Target, refuse
from rubicc.ir.graph import Graph, is_quantiser, op_key, source_of
from rubicc.passes.integer.block_bodies import BLOCK_KEY
from rubicc.passes.integer.formats import Format
from rubicc.passes.integer.legalise import EDGE_KEY, format_of
from rubicc.passes.rewrite import constant, is_constant, is_standard

MOST_INDEX_BITS = 12
AXES_KEY = "axes"  # Net.meta: "axes:<edge>" -> how the graph's value is laid out, e.g. "NCT"


def extract(graph: Graph, target: Target | None = None) -> Net:
    """The integer network in ``graph``.

    Args:
        graph: integer-only, see :mod:`rubicc.passes.integer.legalise`.
        target: for messages.

    Raises:
        Unsupported: with the whole table: ``RUB-AIE-102`` an operator that is no part of an integer layer,
            ``-103`` tensors of other than channels over time, ``-104`` host work in the middle, ``-105``
            numbers the array has no types for, ``-106`` accumulators too wide, ``-107`` nothing to do.
    """
    reader = Reader(graph)
    net = reader.read()
    refuse(reader.findings, target or Target("aie"))
    return net


@dataclass(frozen=True)
class _End:
    """How a product or a sum ends: ``Quant(relu(...) * factors)``, and the nodes seen so far."""

    node: ir.Node
    form: Format
    factors: np.ndarray
    relu: bool
    chain: list[ir.Node]


class Reader:
    """One graph being read."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.findings: list[Finding] = []
        self.known: dict[ir.Value, Tensor] = {}
        self.edges: dict[str, Edge] = {}
        self.layers: list[Layer] = []
        self.taken: set[ir.Node] = set()
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.meta: dict[str, str] = {}

    def read(self) -> Net:
        """Everything; what cannot be read is in ``findings``."""
        nodes = self.graph.nodes
        for node in nodes:
            try:
                self._node(node)
            except NotRead as err:
                self._found(err.code, node, err.reason, err.remedy)
        host = [node for node in nodes if node not in self.taken]
        self._host(host)
        if not self.layers and not self.findings:
            self._found("RUB-AIE-107", None, "no layer of the model computes with integers", CALIBRATE)
        ends = tuple(self.inputs), tuple(self.outputs)
        kept = tuple(Host(work(node), node.name or "") for node in host)
        return Net(*ends, self.edges, tuple(self.layers), kept, self.meta)

    def _node(self, node: ir.Node) -> None:
        edge = node.metadata_props.get(EDGE_KEY)
        if edge == "input":
            self._input(node)
        elif edge == "output":
            self._output(node)
        elif is_standard(node, "Transpose", "Identity", "Squeeze", "Unsqueeze"):
            self._moved(node)
        elif is_quantiser(node) and not self._index(node):
            self._rounded(node)
        elif is_standard(node, "Gather"):
            self._table(node)
        elif is_standard(node, "Scan") and any(v in self.known for v in node.inputs):
            (read_block if BLOCK_KEY in node.metadata_props else read_cell)(self, node)

    def _input(self, node: ir.Node) -> None:
        """``Quant(x, 2**e) * 2**-e``."""
        quant = node.inputs[0].producer() if node.inputs[0] is not None else None
        form, factor = format_of(quant), power(node)
        if form is None or factor is None or factor != -form.exponent:
            raise NotRead("RUB-AIE-102", "an input is not rounded to the grid it is scaled by", RERUN)
        value = node.outputs[0]
        axes = guess_axes(value)
        shape = value.shape
        if axes is None or shape is None or len(shape) != len(axes):
            dims = "unknown" if shape is None else str(len(shape))
            reason = f"an input of {dims} dimensions is not channels over time"
            raise NotRead("RUB-AIE-103", reason, DIMS)
        channels = shape[axes.index("C")]
        if not isinstance(channels, int):
            raise NotRead("RUB-AIE-103", f"the channels of {value.name} are not known", DIMS)
        made = self.edge(value, channels, type_of(form.bits, form.signed), form.exponent)
        self.known[value] = Tensor(made, axes)
        self.meta[f"{AXES_KEY}:{made.name}"] = axes
        self.inputs.append(made.name)

    def _output(self, node: ir.Node) -> None:
        """``integers * 2**e``; the product is the host's."""
        value, factor = node.inputs[0], power(node)
        tensor = self.known.get(value) if value is not None else None
        if tensor is None or factor is None:
            raise NotRead("RUB-AIE-102", "an output is no integer times a power of two", RERUN)
        if tensor.edge.exponent != factor:
            reason = f"an output on the grid 2**{tensor.edge.exponent} is scaled by 2**{factor}"
            raise NotRead("RUB-AIE-102", reason, RERUN)
        if tensor.edge.name not in self.outputs:
            self.outputs.append(tensor.edge.name)
        self.meta[f"{AXES_KEY}:{tensor.edge.name}"] = tensor.axes

    def _moved(self, node: ir.Node) -> None:
        tensor = self.known.get(node.inputs[0]) if node.inputs[0] is not None else None
        if tensor is None:
            return
        axes = tensor.axes
        if node.op_type == "Transpose":
            perm = node.attributes.get_ints("perm") or tuple(range(len(axes)))[::-1]
            axes = "".join(axes[i] for i in perm)
        elif node.op_type != "Identity":
            axes = squeezed(node, axes)
        self.known[node.outputs[0]] = Tensor(tensor.edge, axes)
        self.taken.add(node)

    def _index(self, node: ir.Node) -> bool:
        """Whether a quantiser makes the index of a table, which is read from its Gather."""
        value = node.outputs[0]
        for _ in range(2):
            uses = [use.node for use in value.uses()]
            if len(uses) != 1:
                return False
            if is_standard(uses[0], "Cast"):
                return True
            if not is_standard(uses[0], "Add"):
                return False
            value = uses[0].outputs[0]
        return False

    def _rounded(self, node: ir.Node) -> None:
        """``Quant`` of 1: the end of a product or a sum; of another scale: the host's, before an input."""
        form = format_of(node)
        if form is None or form.exponent != 0:
            if any(value in self.known for value in node.inputs):
                raise NotRead("RUB-AIE-102", "integers are rounded to another grid", RERUN)
            return
        chain = [node]
        value, factors = _before_scale(node.inputs[0], chain)
        relu, inner = False, value.producer()
        if inner is not None and is_standard(inner, "Relu") and inner.inputs[0] is not None:
            relu, value = True, inner.inputs[0]
            chain.append(inner)
            inner = value.producer()
        if inner is None:
            return
        end = _End(node, form, factors, relu, chain)
        if is_standard(inner, "Conv", "MatMul", "Gemm"):
            self._product(end, inner, None)
        elif is_standard(inner, "Add"):
            self._added(end, inner)
        elif any(value in self.known for value in inner.inputs):
            raise NotRead("RUB-AIE-102", f"{op_key(inner)} stands between integer layers", HOST)

    def _added(self, end: _End, node: ir.Node) -> None:
        """A bias behind a MatMul, or a sum of two tensors."""
        for value, other in (node.inputs, node.inputs[::-1]):
            inner = value.producer() if value is not None else None
            if is_constant(other) and inner is not None and is_standard(inner, "MatMul"):
                end.chain.append(node)
                self._product(end, inner, constant(other))
                return
        self._sum(end, node)

    def _product(self, end: _End, node: ir.Node, bias: np.ndarray | None) -> None:
        tensor = self.tensor(node.inputs[0])
        if tensor is None:
            return
        weight = constant(node.inputs[1])
        if weight is None:
            raise NotRead("RUB-AIE-102", f"{node.op_type} has weights that are not constant", HOST)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = constant(node.inputs[2])
        fields = (convolution if node.op_type == "Conv" else linear)(node, tensor, weight)
        matrix = integers(fields.pop("weight"), "weights")
        if bias is not None and bias.size != len(matrix):
            raise NotRead("RUB-AIE-105", f"{bias.size} biases for {len(matrix)} channels", RERUN)
        layer = Conv(
            **self._named(end.node, node, tensor),
            weight=matrix,
            weight_type=weight_type(node, matrix),
            bias=None if bias is None else integers(bias.reshape(-1), "biases"),
            relu=end.relu,
            shift=shifts(end.factors, len(matrix)),
            **fields,
        )
        if layer.shift.min() < 0:
            raise NotRead("RUB-AIE-105", "sums are moved to finer steps than they have", RERUN)
        fits(layer.gain, layer.bias, tensor.edge.type, layer.weight_type)
        self._finish(end, layer, len(matrix), tensor.axes, node)

    def _sum(self, end: _End, node: ir.Node) -> None:
        terms: list[Tensor] = []
        left: list[int] = []
        for value in node.inputs:
            term, moved = value, np.ones(())
            if term not in self.known:
                term, moved = _before_scale(value, end.chain)
            tensor = self.tensor(term)
            if tensor is None:
                return  # floats of the host
            terms.append(tensor)
            left.append(-int(shifts(moved, 1)[0]))
        if terms[0].axes != terms[1].axes or terms[0].edge.channels != terms[1].edge.channels:
            raise NotRead("RUB-AIE-103", "a sum of tensors that are laid out differently", DIMS)
        shift = int(shifts(end.factors, 1)[0])
        if min(*left, shift) < 0:
            raise NotRead("RUB-AIE-105", "a sum loses bits of its terms, or invents some", RERUN)
        wide = sum((t.edge.type.high + 1) << n for t, n in zip(terms, left, strict=True))
        if wide >= 1 << (ACCUMULATOR_BITS - 1):
            reason = f"a sum of up to {wide} does not fit {ACCUMULATOR_BITS} bits"
            raise NotRead("RUB-AIE-106", reason, NARROWER)
        named = self._named(end.node, node, *terms)
        layer = Add(**named, left=(left[0], left[1]), shift=shift, relu=end.relu)
        self._finish(end, layer, terms[0].edge.channels, terms[0].axes, node)

    def _named(self, end: ir.Node, node: ir.Node, *inputs: Tensor) -> dict[str, Any]:
        """Names and edges of a layer that begins in ``node`` and ends in ``end``."""
        return {
            "name": end.name or "",
            "source": source_of(node),
            "inputs": tuple(tensor.edge.name for tensor in inputs),
            "output": end.outputs[0].name or "",
        }

    def _finish(self, end: _End, layer: Layer, channels: int, axes: str, node: ir.Node) -> None:
        to = type_of(end.form.bits, end.form.signed)
        self.finish(end.node, layer, channels, to, axes, [*end.chain, node])

    def _table(self, node: ir.Node) -> None:
        """``Mul(2**-s) -> Quant -> Add(half) -> Cast -> Gather(entries)``, parts left out where they do
        nothing."""
        cast = node.inputs[1].producer() if node.inputs[1] is not None else None
        entries = constant(node.inputs[0])
        if cast is None or not is_standard(cast, "Cast") or entries is None or entries.ndim != 1:
            if any(value in self.known for value in node.inputs):
                raise NotRead("RUB-AIE-102", "Gather is no table of integers", HOST)
            return
        chain, value, half = [node, cast], cast.inputs[0], 0.0
        inner = value.producer() if value is not None else None
        if inner is not None and is_standard(inner, "Add") and is_constant(inner.inputs[1]):
            half = float(constant(inner.inputs[1]))  # type: ignore[arg-type]
            chain.append(inner)
            value = inner.inputs[0]
            inner = value.producer() if value is not None else None
        factors, form = np.ones(()), None
        if value not in self.known and inner is not None and is_quantiser(inner):
            form = format_of(inner)
            chain.append(inner)
            value, factors = _before_scale(inner.inputs[0], chain)
        tensor = self.tensor(value)
        if tensor is None:
            return
        shift = int(shifts(factors, 1)[0])
        lookup = self._lookup(tensor, form, shift, half, integers(entries, "table entries"))
        bits, signed = table_type(node)
        layer = Table(
            **self._named(node, node, tensor),
            lookup=lookup,
            function=node.metadata_props.get("rubicc.function", "function"),
        )
        kind = type_of(bits, signed)
        if lookup.entries.min() < kind.low or lookup.entries.max() > kind.high:
            raise NotRead("RUB-AIE-105", f"a table has entries that are no {kind}", RERUN)
        self.finish(node, layer, tensor.edge.channels, kind, tensor.axes, chain)

    def _lookup(
        self, tensor: Tensor, form: Format | None, shift: int, half: float, entries: np.ndarray
    ) -> Lookup:
        """The table's index is signed: one of unsigned integers has a lower half that nothing reaches."""
        kind = tensor.edge.type
        low, high = (kind.low, kind.high) if form is None else (form.low, form.high)
        if shift < 0 or len(entries) != high - low + 1 or half != -low:
            raise NotRead("RUB-AIE-105", "a table has not one entry for each of its arguments", RERUN)
        if low == 0:
            entries = np.concatenate([np.full(len(entries), entries[0]), entries])
        bits = len(entries).bit_length() - 1
        if bits > MOST_INDEX_BITS:
            reason = f"a table of {len(entries)} entries; at most {1 << MOST_INDEX_BITS} fit a tile"
            raise NotRead("RUB-AIE-105", reason, NARROWER)
        return Lookup(shift=shift, bits=bits, entries=entries)

    def finish(
        self, end: ir.Node, layer: Layer, channels: int, to: Type, axes: str, chain: list[ir.Node]
    ) -> None:
        """Take in ``layer``, which ends in the last output of ``end`` and does the work of ``chain``."""
        value = end.outputs[-1]
        self.known[value] = Tensor(self.edge(value, channels, to, exponent(end)), axes)
        self.layers.append(layer)
        self.taken.update(chain)

    def edge(self, value: ir.Value, channels: int, kind: Type, exponent: int) -> Edge:
        """A new edge that is named like ``value``."""
        made = Edge(value.name or "", channels, kind, exponent)
        self.edges[made.name] = made
        return made

    def tensor(self, value: ir.Value | None) -> Tensor | None:
        """The integers ``value`` is; ``None`` where it is floats of the host."""
        return self.known.get(value) if value is not None else None

    def _host(self, host: list[ir.Node]) -> None:
        """Host work reads no integers, and nothing it makes of results comes back."""
        behind: set[ir.Value] = set()
        for node in host:
            key = node.metadata_props.get(EDGE_KEY)
            reads = [value for value in node.inputs if value is not None]
            if key == "output" or any(value in behind for value in reads):
                behind.update(node.outputs)
            raw = [value.name or "" for value in reads if value in self.known]
            if raw and key != "output" and not any(f.node == node.name for f in self.findings):
                reason = f"{op_key(node)} reads the integers {raw[0]} and is no integer layer"
                self._found("RUB-AIE-102", node, reason, HOST)
            if key == "input" and reads[0] in behind:
                reason = "an input of the array is computed by the host from its outputs"
                self._found("RUB-AIE-104", node, reason, MIDDLE)

    def _found(self, code: str, node: ir.Node | None, reason: str, remedy: str) -> None:
        name, source = ("", "") if node is None else (node.name or "", source_of(node))
        self.findings.append(Finding(code, "error", name, source, reason, remedy))


def _before_scale(value: ir.Value | None, chain: list[ir.Node]) -> tuple[ir.Value, np.ndarray]:
    """What a product with constants scales, and the constants; ``value`` itself and 1 where there is none."""
    if value is None:
        raise NotRead("RUB-AIE-102", "a node reads nothing", RERUN)
    node = value.producer()
    if node is not None and is_standard(node, "Mul") and node.metadata_props.get(EDGE_KEY) is None:
        factor, other = constant(node.inputs[1]), node.inputs[0]
        if factor is not None and other is not None:
            chain.append(node)
            return other, np.asarray(factor, np.float64)
    return value, np.ones(())
