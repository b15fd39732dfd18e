"""What the reader of integer networks makes of single nodes, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.backends.aie.net import Edge
from rubicc.backends.aie.numbers import ACCUMULATOR_BITS, Type
from rubicc.ir.graph import op_key
from rubicc.passes.integer.block_bodies import BLOCK_KEY
from rubicc.passes.integer.formats import BLOCK
from rubicc.passes.integer.legalise import BITS_KEY, EDGE_KEY, EXPONENT_KEY
from rubicc.passes.integer.strip import WEIGHT_KEY
from rubicc.passes.rewrite import constant, is_standard


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


RERUN = "quantise the float model again: rubicc compile with --calib"
CALIBRATE = "compile a model with convolutions or linear layers"
HOST = "replace it by convolutions, linear layers, sums or functions of one value"
MIDDLE = "cut the model in two at this layer, or replace it"
DIMS = "use (batch, channels, time) signals with Conv1d, Linear and recurrent layers"
NARROWER = "use fewer bits for weights or values"


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
            return "NTC" if BLOCK_KEY in node.metadata_props else "TNC"
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


def squeezed(node: ir.Node, axes: str) -> str:
    """Axes behind a Squeeze or Unsqueeze."""
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None:
        raise NotRead("RUB-AIE-103", f"{node.op_type} of axes that are not known", DIMS)
    if node.op_type == "Unsqueeze":
        rank = len(axes) + given.size
        where = {int(axis) % rank for axis in given.reshape(-1)}
        letters = iter(axes)
        return "".join("1" if axis in where else next(letters) for axis in range(rank))
    where = {int(axis) % len(axes) for axis in given.reshape(-1)}
    if any(axes[axis] != "1" for axis in where):
        raise NotRead("RUB-AIE-103", "Squeeze takes away an axis of the network", DIMS)
    return "".join(letter for axis, letter in enumerate(axes) if axis not in where)


def convolution(node: ir.Node, tensor: Tensor, weight: np.ndarray) -> dict[str, Any]:
    """Fields of a layer from a Conv; the weight still as floats."""
    if weight.ndim != 3 or tensor.axes != "NCT":
        raise NotRead("RUB-AIE-103", f"a convolution over {weight.ndim - 2} axes of {tensor.axes}", DIMS)
    attributes = node.attributes
    pads = tuple(attributes.get_ints("pads") or (0, 0))
    if min(pads) < 0 or attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        raise NotRead("RUB-AIE-105", f"a convolution padded by {pads}", "give pads of 0 and more")
    groups = attributes.get_int("group", 1)
    if weight.shape[1] * groups != tensor.edge.channels:
        reason = f"weights for {weight.shape[1] * groups} channels read {tensor.edge.channels}"
        raise NotRead("RUB-AIE-103", reason, DIMS)
    return {
        "weight": weight,
        "groups": groups,
        "stride": int((attributes.get_ints("strides") or (1,))[0]),
        "dilation": int((attributes.get_ints("dilations") or (1,))[0]),
        "pads": (int(pads[0]), int(pads[1])),
    }


def linear(node: ir.Node, tensor: Tensor, weight: np.ndarray) -> dict[str, Any]:
    """The weight ``(O, I, 1)`` of a MatMul or Gemm."""
    if weight.ndim != 2 or tensor.axes[-1] != "C":
        raise NotRead("RUB-AIE-103", f"{node.op_type} over the last axis of {tensor.axes}", DIMS)
    turned = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    matrix = weight if turned else weight.T
    if matrix.shape[1] != tensor.edge.channels:
        reason = f"weights for {matrix.shape[1]} channels read {tensor.edge.channels}"
        raise NotRead("RUB-AIE-103", reason, DIMS)
    return {"weight": matrix[:, :, None]}


def integers(array: object, what: str) -> np.ndarray:
    """``array`` as int64.

    Raises:
        NotRead: some are no integers.
    """
    values = np.asarray(array, np.float64)
    if not np.array_equal(values, np.rint(values)):
        raise NotRead("RUB-AIE-105", f"{what} that are no integers", RERUN)
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
        raise NotRead("RUB-AIE-105", "integers are scaled by other than powers of two per channel", RERUN)
    found = 1 - exponent.astype(np.int64)
    if any(np.ptp(found[start : start + BLOCK]) for start in range(0, outputs, BLOCK)):
        raise NotRead("RUB-AIE-105", f"shifts differ within a block of {BLOCK} channels", RERUN)
    return found


def weight_type(node: ir.Node, weight: np.ndarray) -> Type:
    """Type weights are stored in: the width the graph says, if they fit."""
    said = int(node.metadata_props.get(WEIGHT_KEY, "0"))
    largest = max(int(weight.max(initial=0)), -int(weight.min(initial=0)) - 1)
    for bits in (4, 8, 16):
        if bits >= said and largest < 1 << (bits - 1):
            return Type(bits)
    raise NotRead("RUB-AIE-105", f"weights up to {largest}; the array multiplies 16 bits", NARROWER)


def fits(gain: int, bias: np.ndarray | None, of: Type, weights: Type) -> None:
    """Check that no input whatever makes a sum leave the accumulator.

    Raises:
        NotRead: ``RUB-AIE-106``.
    """
    bits = ACCUMULATOR_BITS if of.bits + weights.bits <= 24 else 2 * ACCUMULATOR_BITS
    largest = gain * max(of.high, -of.low) + (0 if bias is None else int(np.abs(bias).max(initial=0)))
    if largest >= 1 << (bits - 1):
        reason = f"sums of up to {largest} of {of} times {weights} do not fit {bits} bits"
        raise NotRead("RUB-AIE-106", reason, NARROWER)


def table_type(node: ir.Node) -> tuple[int, bool]:
    """Bits and sign of a table's entries, as the graph says."""
    said = node.metadata_props.get(BITS_KEY, "16s")
    return int(said[:-1]), said[-1] == "s"


def type_of(bits: int, signed: bool) -> Type:
    """Type of a tensor."""
    if bits not in (8, 16) or (bits == 16 and not signed):
        raise NotRead("RUB-AIE-105", f"integers of {bits} bits; tensors have 8, or 16 and a sign", NARROWER)
    return Type(bits, signed)


def exponent(node: ir.Node) -> int:
    """Exponent of the integers a node makes, as the graph says."""
    return int(node.metadata_props.get(EXPONENT_KEY, "0"))


def power(node: ir.Node) -> int | None:
    """Exponent of a product with one power of two; ``None`` for any other node."""
    factor = constant(node.inputs[1]) if is_standard(node, "Mul") and len(node.inputs) > 1 else None
    if factor is None or factor.size != 1:
        return None
    mantissa, exponent = np.frexp(np.float64(factor.reshape(())))
    return int(exponent) - 1 if mantissa == 0.5 else None


_WORK: dict[str, str] = {"input": "rounded numbers to integers", "output": "integers to real numbers"}


def work(node: ir.Node) -> str:
    """What the host does in a node, for the plan's table."""
    edge = node.metadata_props.get(EDGE_KEY)
    return f"{op_key(node)}: {_WORK[edge]}" if edge in _WORK else op_key(node)
