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

from rubicc.backends.aie.net import Add, Conv, Edge, Host, Layer, Lookup, Net, Table
from rubicc.backends.aie.numbers import ACCUMULATOR_BITS, Type
from rubicc.backends.base import Finding, Target, refuse
from rubicc.ir.graph import Graph, is_quantiser, op_key, source_of
from rubicc.passes.integer.formats import BLOCK, Format
from rubicc.passes.integer.legalise import BITS_KEY, EDGE_KEY, EXPONENT_KEY, format_of
from rubicc.passes.integer.strip import WEIGHT_KEY
from rubicc.passes.rewrite import constant, is_constant, is_standard

MOST_INDEX_BITS = 12
AXES_KEY = "axes"  # Net.meta: "axes:<edge>" -> how the graph's value is laid out, e.g. "NCT"


class NotRead(Exception):
    """A part of the graph that is no layer: code, reason, remedy."""

    def __init__(self, code: str, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.code, self.reason, self.remedy = code, reason, remedy


@dataclass(frozen=True)
class Tensor:
    """Integers in the graph: their edge, and which axis of the net each of their own is.

    Attributes:
        axes: a letter per dimension: N sequences, C channels, T frames, 1 none.
    """

    edge: Edge
    axes: str


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
            self._found("RUB-AIE-107", None, "no layer of the model computes with integers", _CALIBRATE)
        work = tuple(Host(_work(node), node.name or "") for node in host)
        return Net(
            tuple(self.inputs),
            tuple(self.outputs),
            self.edges,
            tuple(self.layers),
            work,
            self.meta,
        )

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
            self._cell(node)

    def _input(self, node: ir.Node) -> None:
        """``Quant(x, 2**e) * 2**-e``."""
        quant = node.inputs[0].producer() if node.inputs[0] is not None else None
        form, factor = format_of(quant), _power(node)
        if form is None or factor is None or factor != -form.exponent:
            raise NotRead("RUB-AIE-102", "an input is not rounded to the grid it is scaled by", _RERUN)
        value = node.outputs[0]
        axes = guess_axes(value)
        shape = value.shape
        if axes is None or shape is None or len(shape) != len(axes):
            dims = "unknown" if shape is None else str(len(shape))
            reason = f"an input of {dims} dimensions is not channels over time"
            raise NotRead("RUB-AIE-103", reason, _DIMS)
        channels = shape[axes.index("C")]
        if not isinstance(channels, int):
            raise NotRead("RUB-AIE-103", f"the channels of {value.name} are not known", _DIMS)
        made = self.edge(value, channels, _type(form.bits, form.signed), form.exponent)
        self.known[value] = Tensor(made, axes)
        self.meta[f"{AXES_KEY}:{made.name}"] = axes
        self.inputs.append(made.name)

    def _output(self, node: ir.Node) -> None:
        """``integers * 2**e``; the product is the host's."""
        value, factor = node.inputs[0], _power(node)
        tensor = self.known.get(value) if value is not None else None
        if tensor is None or factor is None:
            raise NotRead("RUB-AIE-102", "an output is no integer times a power of two", _RERUN)
        if tensor.edge.exponent != factor:
            reason = f"an output on the grid 2**{tensor.edge.exponent} is scaled by 2**{factor}"
            raise NotRead("RUB-AIE-102", reason, _RERUN)
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
            axes = _squeezed(node, axes)
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
                raise NotRead("RUB-AIE-102", "integers are rounded to another grid", _RERUN)
            return
        chain = [node]
        value, factors = self._before_scale(node.inputs[0], chain)
        relu, inner = False, value.producer()
        if inner is not None and is_standard(inner, "Relu") and inner.inputs[0] is not None:
            relu, value = True, inner.inputs[0]
            chain.append(inner)
            inner = value.producer()
        to, exponent = _type(form.bits, form.signed), _exponent(node)
        if inner is None:
            return
        if is_standard(inner, "Conv", "MatMul", "Gemm"):
            self._product(node, inner, None, factors, relu, to, exponent, chain)
        elif is_standard(inner, "Add"):
            self._added(node, inner, factors, relu, to, exponent, chain)
        elif any(value in self.known for value in inner.inputs):
            raise NotRead("RUB-AIE-102", f"{op_key(inner)} stands between integer layers", _HOST)

    def _before_scale(self, value: ir.Value | None, chain: list[ir.Node]) -> tuple[ir.Value, np.ndarray]:
        if value is None:
            raise NotRead("RUB-AIE-102", "a quantiser reads nothing", _RERUN)
        node = value.producer()
        if node is not None and is_standard(node, "Mul") and node.metadata_props.get(EDGE_KEY) is None:
            factor, other = constant(node.inputs[1]), node.inputs[0]
            if factor is not None and other is not None:
                chain.append(node)
                return other, np.asarray(factor, np.float64)
        return value, np.ones(())

    def _added(
        self,
        end: ir.Node,
        node: ir.Node,
        factors: np.ndarray,
        relu: bool,
        to: Type,
        exponent: int,
        chain: list[ir.Node],
    ) -> None:
        """A bias behind a MatMul, or a sum of two tensors."""
        for value, other in (node.inputs, node.inputs[::-1]):
            inner = value.producer() if value is not None else None
            if is_constant(other) and inner is not None and is_standard(inner, "MatMul"):
                chain.append(node)
                self._product(end, inner, constant(other), factors, relu, to, exponent, chain)
                return
        self._sum(end, node, factors, relu, to, exponent, chain)

    def _product(
        self,
        end: ir.Node,
        node: ir.Node,
        bias: np.ndarray | None,
        factors: np.ndarray,
        relu: bool,
        to: Type,
        exponent: int,
        chain: list[ir.Node],
    ) -> None:
        tensor = self.tensor(node.inputs[0], node)
        if tensor is None:
            return
        weight = constant(node.inputs[1])
        if weight is None:
            raise NotRead("RUB-AIE-102", f"{node.op_type} has weights that are not constant", _HOST)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = constant(node.inputs[2])
        if node.op_type == "Conv":
            fields = _convolution(node, tensor, weight)
        else:
            fields = _linear(node, tensor, weight)
        matrix = integers(fields.pop("weight"), "weights")
        outputs = len(matrix)
        kind = weight_type(node, matrix)
        layer = Conv(
            name=end.name or "",
            source=source_of(node),
            inputs=(tensor.edge.name,),
            output=end.outputs[0].name or "",
            weight=matrix,
            weight_type=kind,
            bias=None if bias is None else integers(bias.reshape(-1), "biases"),
            relu=relu,
            shift=shifts(factors, outputs),
            **fields,
        )
        fits(layer.gain, layer.bias, tensor.edge.type, kind)
        self._finish(end, layer, outputs, to, exponent, tensor.axes, [*chain, node])

    def _sum(
        self,
        end: ir.Node,
        node: ir.Node,
        factors: np.ndarray,
        relu: bool,
        to: Type,
        exponent: int,
        chain: list[ir.Node],
    ) -> None:
        terms, left = [], []
        for value in node.inputs:
            term, moved = value, np.ones(())
            if term not in self.known:
                term, moved = self._before_scale(value, chain)
            tensor = self.known.get(term) if term is not None else None
            if tensor is None:
                return  # floats of the host
            terms.append(tensor)
            left.append(-int(shifts(moved, 1)[0]))
        if terms[0].axes != terms[1].axes or terms[0].edge.channels != terms[1].edge.channels:
            raise NotRead("RUB-AIE-103", "a sum of tensors that are laid out differently", _DIMS)
        if min(left) < 0:
            raise NotRead("RUB-AIE-105", "a sum loses bits of its terms", _RERUN)
        wide = max((t.edge.type.high + 1) << n for t, n in zip(terms, left, strict=True))
        if 2 * wide > 1 << (ACCUMULATOR_BITS - 1):
            reason = f"a sum of up to {2 * wide} does not fit {ACCUMULATOR_BITS} bits"
            raise NotRead("RUB-AIE-106", reason, _NARROWER)
        layer = Add(
            name=end.name or "",
            source=source_of(node),
            inputs=(terms[0].edge.name, terms[1].edge.name),
            output=end.outputs[0].name or "",
            left=(left[0], left[1]),
            shift=int(shifts(factors, 1)[0]),
            relu=relu,
        )
        self._finish(end, layer, terms[0].edge.channels, to, exponent, terms[0].axes, [*chain, node])

    def _table(self, node: ir.Node) -> None:
        """``Mul(2**-s) -> Quant -> Add(half) -> Cast -> Gather(entries)``, parts left out where they do
        nothing."""
        cast = node.inputs[1].producer() if node.inputs[1] is not None else None
        entries = constant(node.inputs[0])
        if cast is None or not is_standard(cast, "Cast") or entries is None or entries.ndim != 1:
            if any(value in self.known for value in node.inputs):
                raise NotRead("RUB-AIE-102", "Gather is no table of integers", _HOST)
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
            value, factors = self._before_scale(inner.inputs[0], chain)
        tensor = self.known.get(value) if value is not None else None
        if tensor is None:
            return
        shift = int(shifts(factors, 1)[0])
        lookup = self._lookup(tensor, form, shift, half, integers(entries, "table entries"))
        bits, signed = table_type(node)
        layer = Table(
            name=node.name or "",
            source=source_of(node),
            inputs=(tensor.edge.name,),
            output=node.outputs[0].name or "",
            lookup=lookup,
            function=node.metadata_props.get("rubicc.function", "function"),
        )
        kind = _type(bits, signed)
        if lookup.entries.min() < kind.low or lookup.entries.max() > kind.high:
            raise NotRead("RUB-AIE-105", f"a table has entries that are no {kind}", _RERUN)
        self._finish(node, layer, tensor.edge.channels, kind, _exponent(node), tensor.axes, chain)

    def _lookup(
        self, tensor: Tensor, form: Format | None, shift: int, half: float, entries: np.ndarray
    ) -> Lookup:
        """The table's index is signed: one of unsigned integers has a lower half that nothing reaches."""
        kind = tensor.edge.type
        low, high = (kind.low, kind.high) if form is None else (form.low, form.high)
        if shift < 0 or len(entries) != high - low + 1 or half != -low:
            raise NotRead("RUB-AIE-105", "a table has not one entry for each of its arguments", _RERUN)
        if low == 0:
            entries = np.concatenate([np.full(len(entries), entries[0]), entries])
        bits = len(entries).bit_length() - 1
        if bits > MOST_INDEX_BITS:
            reason = f"a table of {len(entries)} entries; at most {1 << MOST_INDEX_BITS} fit a tile"
            raise NotRead("RUB-AIE-105", reason, _NARROWER)
        return Lookup(shift=shift, bits=bits, entries=entries)

    def _cell(self, node: ir.Node) -> None:
        from rubicc.backends.aie.extract_cell import read_cell

        read_cell(self, node)

    def _finish(
        self,
        end: ir.Node,
        layer: Layer,
        channels: int,
        to: Type,
        exponent: int,
        axes: str,
        chain: list[ir.Node],
    ) -> None:
        value = end.outputs[0]
        self.known[value] = Tensor(self.edge(value, channels, to, exponent), axes)
        self.layers.append(layer)
        self.taken.update(chain)

    def edge(self, value: ir.Value, channels: int, kind: Type, exponent: int) -> Edge:
        """A new edge that is named like ``value``."""
        made = Edge(value.name or "", channels, kind, exponent)
        self.edges[made.name] = made
        return made

    def tensor(self, value: ir.Value | None, node: ir.Node) -> Tensor | None:
        """The integers ``node`` reads; ``None`` where it reads floats of the host."""
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
                self._found("RUB-AIE-102", node, reason, _HOST)
            if key == "input" and reads[0] in behind:
                reason = "an input of the array is computed by the host from its outputs"
                self._found("RUB-AIE-104", node, reason, _MIDDLE)

    def _found(self, code: str, node: ir.Node | None, reason: str, remedy: str) -> None:
        name, source = ("", "") if node is None else (node.name or "", source_of(node))
        self.findings.append(Finding(code, "error", name, source, reason, remedy))


_RERUN = "quantise the float model again: rubicc compile with --calib"
_CALIBRATE = "compile a model with convolutions or linear layers"
_HOST = "replace it by convolutions, linear layers, sums or functions of one value"
_MIDDLE = "cut the model in two at this layer, or replace it"
_DIMS = "use (batch, channels, time) signals with Conv1d, Linear and recurrent layers"
_NARROWER = "use fewer bits for weights or values"


_KEEP_AXES = ("Add", "Mul", "Relu", "MatMul", "Cast", "Gather", "Identity")


def guess_axes(value: ir.Value) -> str | None:
    """What the axes of an input are, from the first layer behind it that tells."""
    shape = value.shape
    if shape is None:
        return None
    found = _axes_from_users(value, len(shape), 0)
    if found is not None:
        return found
    return {2: "TC", 3: "NTC"}.get(len(shape))


def _axes_from_users(value: ir.Value, rank: int, depth: int) -> str | None:
    if depth > 400:
        return None
    for use in value.uses():
        node = use.node
        if is_standard(node, "Conv") and use.idx == 0 and rank == 3:
            return "NCT"
        if is_standard(node, "Scan") and rank == 3:
            return "TNC"
        if is_standard(node, "Transpose"):
            inner = _axes_from_users(node.outputs[0], rank, depth + 1)
            perm = node.attributes.get_ints("perm") or tuple(range(rank))[::-1]
            if inner is not None:
                return "".join(inner[list(perm).index(axis)] for axis in range(rank))
        elif node.domain != "" or is_standard(
            node, "Add", "Mul", "Relu", "MatMul", "Cast", "Gather", "Identity"
        ):
            inner = _axes_from_users(node.outputs[0], rank, depth + 1)
            if inner is not None:
                return inner
    return None


def _squeezed(node: ir.Node, axes: str) -> str:
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None:
        raise NotRead("RUB-AIE-103", f"{node.op_type} of axes that are not known", _DIMS)
    if node.op_type == "Unsqueeze":
        rank = len(axes) + given.size
        where = {int(axis) % rank for axis in given.reshape(-1)}
        letters = iter(axes)
        return "".join("1" if axis in where else next(letters) for axis in range(rank))
    where = {int(axis) % len(axes) for axis in given.reshape(-1)}
    if any(axes[axis] != "1" for axis in where):
        raise NotRead("RUB-AIE-103", "Squeeze takes away an axis of the network", _DIMS)
    return "".join(letter for axis, letter in enumerate(axes) if axis not in where)


def _convolution(node: ir.Node, tensor: Tensor, weight: np.ndarray) -> dict[str, Any]:
    if weight.ndim != 3 or tensor.axes != "NCT":
        raise NotRead("RUB-AIE-103", f"a convolution over {weight.ndim - 2} axes of {tensor.axes}", _DIMS)
    attributes = node.attributes
    pads = tuple(attributes.get_ints("pads") or (0, 0))
    if min(pads) < 0 or attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        raise NotRead("RUB-AIE-105", f"a convolution padded by {pads}", "give pads of 0 and more")
    groups = attributes.get_int("group", 1)
    if weight.shape[1] * groups != tensor.edge.channels:
        reason = f"weights for {weight.shape[1] * groups} channels read {tensor.edge.channels}"
        raise NotRead("RUB-AIE-103", reason, _DIMS)
    return {
        "weight": weight,
        "groups": groups,
        "stride": int((attributes.get_ints("strides") or (1,))[0]),
        "dilation": int((attributes.get_ints("dilations") or (1,))[0]),
        "pads": (int(pads[0]), int(pads[1])),
    }


def _linear(node: ir.Node, tensor: Tensor, weight: np.ndarray) -> dict[str, Any]:
    if weight.ndim != 2 or tensor.axes[-1] != "C":
        raise NotRead("RUB-AIE-103", f"{node.op_type} over the last axis of {tensor.axes}", _DIMS)
    turned = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    matrix = weight if turned else weight.T
    if matrix.shape[1] != tensor.edge.channels:
        reason = f"weights for {matrix.shape[1]} channels read {tensor.edge.channels}"
        raise NotRead("RUB-AIE-103", reason, _DIMS)
    return {"weight": matrix[:, :, None]}


def integers(array: object, what: str) -> np.ndarray:
    """``array`` as int64.

    Raises:
        NotRead: some are no integers.
    """
    values = np.asarray(array, np.float64)
    if not np.array_equal(values, np.rint(values)):
        raise NotRead("RUB-AIE-105", f"{what} that are no integers", _RERUN)
    return values.astype(np.int64)


def shifts(factors: np.ndarray, outputs: int) -> np.ndarray:
    """Bits dropped per output channel for factors ``2**-shift``.

    Raises:
        NotRead: factors are no powers of two, or differ within a block.
    """
    flat = (
        np.broadcast_to(np.asarray(factors, np.float64).reshape(-1), outputs)
        if factors.size == 1
        else factors
    )
    flat = np.asarray(flat, np.float64).reshape(-1)
    mantissa, exponent = np.frexp(flat)
    if len(flat) != outputs or np.any(mantissa != 0.5):
        raise NotRead("RUB-AIE-105", "integers are scaled by other than powers of two per channel", _RERUN)
    found = 1 - exponent.astype(np.int64)
    if any(np.ptp(found[start : start + BLOCK]) for start in range(0, outputs, BLOCK)):
        raise NotRead("RUB-AIE-105", f"shifts differ within a block of {BLOCK} channels", _RERUN)
    return found


def weight_type(node: ir.Node, weight: np.ndarray) -> Type:
    """Type weights are stored in: the width the graph says, if they fit."""
    said = int(node.metadata_props.get(WEIGHT_KEY, "0"))
    largest = max(int(weight.max(initial=0)), -int(weight.min(initial=0)) - 1)
    for bits in (4, 8, 16):
        if bits >= said and largest < 1 << (bits - 1):
            return Type(bits)
    raise NotRead("RUB-AIE-105", f"weights up to {largest}; the array multiplies 16 bits", _NARROWER)


def fits(gain: int, bias: np.ndarray | None, of: Type, weights: Type) -> None:
    """Check that no input whatever makes a sum leave the accumulator.

    Raises:
        NotRead: ``RUB-AIE-106``.
    """
    bits = ACCUMULATOR_BITS if of.bits + weights.bits <= 24 else 2 * ACCUMULATOR_BITS
    largest = gain * max(of.high, -of.low) + (0 if bias is None else int(np.abs(bias).max(initial=0)))
    if largest >= 1 << (bits - 1):
        reason = f"sums of up to {largest} of {of} times {weights} do not fit {bits} bits"
        raise NotRead("RUB-AIE-106", reason, _NARROWER)


def table_type(node: ir.Node) -> tuple[int, bool]:
    """Bits and sign of a table's entries, as the graph says."""
    said = node.metadata_props.get(BITS_KEY, "16s")
    return int(said[:-1]), said[-1] == "s"


def _type(bits: int, signed: bool) -> Type:
    if bits not in (8, 16) or (bits == 16 and not signed):
        raise NotRead("RUB-AIE-105", f"integers of {bits} bits; tensors have 8, or 16 and a sign", _NARROWER)
    return Type(bits, signed)


def _exponent(node: ir.Node) -> int:
    return int(node.metadata_props.get(EXPONENT_KEY, "0"))


def _power(node: ir.Node) -> int | None:
    """Exponent of a product with one power of two; ``None`` for any other node."""
    factor = constant(node.inputs[1]) if is_standard(node, "Mul") and len(node.inputs) > 1 else None
    if factor is None or factor.size != 1:
        return None
    mantissa, exponent = np.frexp(np.float64(factor.reshape(())))
    return int(exponent) - 1 if mantissa == 0.5 else None


_WORK: dict[str, str] = {"input": "rounded numbers to integers", "output": "integers to real numbers"}


def _work(node: ir.Node) -> str:
    edge = node.metadata_props.get(EDGE_KEY)
    return f"{op_key(node)}: {_WORK[edge]}" if edge in _WORK else op_key(node)
