"""What a graph costs: multiply-accumulates, bit operations, parameters, bytes, per node and in total.

Definitions follow qonnx' ``inference_cost``: only convolutions and matrix products have MACs; a MAC counts
weight bits x activation bits as bit operations (BOPs), full precision as 32 bits. Recurrent layers, which
qonnx does not count, are counted as the matrix products they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from rubicc.errors import UsageError
from rubicc.ir.graph import QONNX_DOMAIN, Graph, op_key, source_of
from rubicc.ir.ops.recurrent import GATES
from rubicc.ir.receptive import ReceptiveField, receptive_field
from rubicc.ir.shapes import Dim, dims_of, infer_shapes, static_shape
from rubicc.ir.types import bits_of

__all__ = ["Costs", "NodeCost", "ReceptiveField", "costs", "receptive_field"]

Shape = tuple[int, ...]
_STATISTICS = {("BatchNormalization", 3), ("BatchNormalization", 4)}  # running mean and variance
_SHAPE_ARGUMENTS = frozenset({"Reshape", "Slice", "Pad", "Clip", "Pow", "Where", "Expand", "Tile", "Resize"})


@dataclass(frozen=True)
class NodeCost:
    """Cost of one node at the bound shapes.

    Attributes:
        name, op, source: node name, operator, module path.
        macs: multiply-accumulates.
        bops: macs x activation bits x weight bits.
        params: learned numbers, each tensor counted at its first reader.
        weight_bytes: the same tensors as stored in the graph.
        quantised_weight_bytes: the same at their quantised widths, packed.
        activation_bytes: bytes of the node's outputs, packed at their quantised widths.
        weight_bits, activation_bits: of the multiplied operands; 0 for nodes without MACs.
        inputs, outputs: shapes (symbols and ``None`` where unknown).
    """

    name: str
    op: str
    source: str
    macs: int
    bops: int
    params: int
    weight_bytes: int
    quantised_weight_bytes: int
    activation_bytes: int
    weight_bits: int
    activation_bits: int
    inputs: tuple[tuple[Dim, ...] | None, ...]
    outputs: tuple[tuple[Dim, ...] | None, ...]


@dataclass(frozen=True)
class Costs:
    """Cost rows in graph order, their totals, and operators whose shapes stayed unknown.

    Attributes:
        rows: one per main-graph node that computes on data (constants and shape arithmetic have zero MACs).
        uncounted: names of nodes with MACs that could not be counted; totals exclude them.
    """

    rows: tuple[NodeCost, ...]
    uncounted: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run at the bound shapes."""
        return sum(row.macs for row in self.rows)

    @property
    def bops(self) -> int:
        """Bit operations of one run."""
        return sum(row.bops for row in self.rows)

    @property
    def params(self) -> int:
        """Learned numbers (batch-norm statistics and quantiser settings are not learned numbers)."""
        return sum(row.params for row in self.rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the learned tensors as stored."""
        return sum(row.weight_bytes for row in self.rows)

    @property
    def quantised_weight_bytes(self) -> int:
        """Bytes of the learned tensors packed at their quantised widths."""
        return sum(row.quantised_weight_bytes for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Bytes of all node outputs together (not the peak)."""
        return sum(row.activation_bytes for row in self.rows)


def costs(graph: Graph, bind: Mapping[str, int]) -> Costs:
    """Cost of one run of ``graph`` with its symbolic dims bound.

    Args:
        graph: a legal graph.
        bind: a number for every symbol of the inputs, e.g. ``{"N": 1, "T": 3600}``.

    Raises:
        UsageError: ``RUB-IR-005``, an input dim stays symbolic.
    """
    free = sorted({str(d) for v in graph.inputs for d in dims_of(v) or () if not isinstance(d, int)})
    unbound = [d for d in free if d not in bind]
    if unbound:
        raise UsageError("RUB-IR-005", f"no number given for {', '.join(unbound)}", hint="bind every symbol")
    shaped = infer_shapes(graph, bind)
    counted: set[str] = set()
    rows, uncounted = [], []
    for node in shaped.nodes:
        macs = _macs(node)
        if macs is None:
            uncounted.append(node.name or "")
        rows.append(_row(node, macs or 0, counted))
    return Costs(tuple(rows), tuple(uncounted))


def _row(node: ir.Node, macs: int, counted: set[str]) -> NodeCost:
    activation_bits, weight_bits = _operand_bits(node) if macs else (0, 0)
    params = weight = packed = 0
    for index, value in enumerate(node.inputs):
        tensor = _learned(node, index, value)
        if tensor is None or value is None or tensor.name in counted:
            continue
        counted.add(tensor.name or "")
        params += tensor.size
        weight += tensor.nbytes
        packed += -(-tensor.size * bits_of(value) // 8)
    return NodeCost(
        name=node.name or "",
        op=op_key(node),
        source=source_of(node),
        macs=macs,
        bops=macs * activation_bits * weight_bits,
        params=params,
        weight_bytes=weight,
        quantised_weight_bytes=packed,
        activation_bytes=sum(_bytes(value) for value in node.outputs),
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        inputs=tuple(None if v is None else dims_of(v) for v in node.inputs),
        outputs=tuple(dims_of(v) for v in node.outputs),
    )


def _learned(node: ir.Node, index: int, value: ir.Value | None) -> ir.TensorProtocol | None:
    """The learned tensor behind an input: a floating initializer, directly or through a quantiser."""
    if value is None or node.domain == QONNX_DOMAIN or (node.op_type, index) in _STATISTICS:
        return None
    if node.op_type == "Constant" or (node.op_type in _SHAPE_ARGUMENTS and index > 0):
        return None
    if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Identity", "Transpose"):
        return None  # the operator behind them counts the tensor
    producer = value.producer()
    through = producer is not None and (
        producer.domain == QONNX_DOMAIN or producer.op_type in ("DequantizeLinear", "Transpose", "Identity")
    )
    if producer is not None and through and producer.inputs[0] is not None:
        value = producer.inputs[0]
    tensor = value.const_value
    if tensor is None or (not tensor.dtype.is_floating_point() and not through):
        return None
    scalar_constant = tensor.size == 1 and node.op_type in ("Mul", "Div", "Add", "Sub")
    return None if scalar_constant else tensor


def _bytes(value: ir.Value) -> int:
    shape = static_shape(value)
    return 0 if shape is None else -(-math.prod(shape) * bits_of(value) // 8)


def _operand_bits(node: ir.Node) -> tuple[int, int]:
    """Bits of activation and weight operands (input 0 and 1)."""
    bits = [bits_of(value) for value in node.inputs[:2] if value is not None]
    return (bits[0], bits[1]) if len(bits) == 2 else (32, 32)


def _macs(node: ir.Node) -> int | None:
    """MACs of a node; 0 for operators without any, ``None`` when shapes are not known."""
    counter = {
        "Conv": _conv,
        "ConvInteger": _conv,
        "ConvTranspose": _conv_transpose,
        "MatMul": _matmul,
        "MatMulInteger": _matmul,
        "Gemm": _gemm,
        "Einsum": _einsum,
        "LSTM": _recurrent,
        "GRU": _recurrent,
        "RNN": _recurrent,
    }.get(node.op_type)
    if counter is None or node.domain:
        return 0
    shapes = [static_shape(v) for v in node.inputs]
    out = static_shape(node.outputs[0])
    known = [s for s in shapes[:2] if s is not None]
    if out is None and node.op_type in GATES:
        out = ()
    return None if out is None or len(known) < min(2, len(shapes)) else counter(node, known, out)


def _conv(node: ir.Node, inputs: list[Shape], out: Shape) -> int:
    return math.prod(out) * math.prod(inputs[1][1:])


def _conv_transpose(node: ir.Node, inputs: list[Shape], out: Shape) -> int:
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _matmul(node: ir.Node, inputs: list[Shape], out: Shape) -> int:
    return math.prod(out) * inputs[0][-1]


def _gemm(node: ir.Node, inputs: list[Shape], out: Shape) -> int:
    return math.prod(out) * inputs[0][0 if node.attributes.get_int("transA", 0) else 1]


def _einsum(node: ir.Node, inputs: list[Shape], out: Shape) -> int | None:
    terms = (node.attributes.get_string("equation") or "").replace(" ", "").split("->")[0].split(",")
    if any("." in term for term in terms) or len(terms) != len(inputs):
        return None
    sizes = {
        letter: n
        for term, shape in zip(terms, inputs, strict=True)
        for letter, n in zip(term, shape, strict=True)
    }
    return math.prod(sizes.values())


def _recurrent(node: ir.Node, inputs: list[Shape], out: Shape) -> int:
    """Input and recurrent products of every gate, step, direction."""
    (steps, batch, width), (directions, gate_rows, _) = inputs[0], inputs[1]
    hidden = gate_rows // GATES[node.op_type]
    return steps * batch * directions * gate_rows * (width + hidden)
