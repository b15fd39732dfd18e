"""Reads a constant weight from the graph with its codes, scales and tables."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.compress.weight import Dense, Grid, Palette, Weight, aligned, compact
from rubicc.errors import Unsupported
from rubicc.ir.graph import Graph, is_quantiser, op_key, source_of
from rubicc.ir.ops.quant import int_range, levels
from rubicc.passes.evaluate import evaluate
from rubicc.passes.quantize.sites import SPARSE_KEY
from rubicc.passes.rewrite import constant, is_standard

MOVES = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather")
DEEPEST = 64  # operators between an initializer and its user
WIDEST = 16  # bits that a stored integer may have


def weight(graph: Graph, value: ir.Value, depth: int = DEEPEST) -> Weight | None:
    """What ``value`` is as a weight; ``None`` when it is computed from inputs, or no float.

    A plain initializer is ``Dense``. Operators that only move elements are followed; what computes with a
    quantised constant is computed here, and the result is ``Dense`` with the reason in ``lost``.

    Raises:
        Unsupported: ``RUB-COREML-301``, a quantiser whose integers cannot be known.
    """
    array = constant(value)
    if array is not None:
        return Dense(array, SPARSE_KEY in value.metadata_props) if array.dtype.kind == "f" else None
    node = value.producer()
    if node is None or depth == 0 or value.is_graph_output():
        return None
    if is_quantiser(node) and node.op_type != "Trunc":
        return _grid(node) if all(v is None or constant(v) is not None for v in node.inputs) else None
    if is_standard(node, "DequantizeLinear") and constant(node.inputs[0]) is not None:
        return _dequantised(node)
    palette = _palette(node)
    if palette is not None:
        return palette
    if is_standard(node, *MOVES):
        return _moved(graph, node, value, depth)
    return _computed(graph, node, value, depth)


def origin(value: ir.Value, depth: int = DEEPEST) -> str:
    """Name of the initializer that a weight is made of: the first input's, all the way up."""
    node = value.producer()
    if node is None or depth == 0:
        return value.name or ""
    if is_standard(node, "Gather") and _palette(node) is not None:
        inner = node.inputs[1]
        return origin(inner, depth - 1) if inner is not None else ""
    return origin(node.inputs[0], depth - 1) if node.inputs and node.inputs[0] is not None else ""


def _moved(graph: Graph, node: ir.Node, value: ir.Value, depth: int) -> Weight | None:
    """The first input's weight after an operator that moves elements."""
    first, others = node.inputs[0], node.inputs[1:]
    rest = [constant(other) for other in others]
    if first is None or any(array is None and v is not None for array, v in zip(rest, others, strict=True)):
        return None
    found = weight(graph, first, depth - 1)
    if found is None:
        return None
    index = node.outputs.index(value)

    def move(array: np.ndarray) -> np.ndarray:
        made = evaluate(graph, node, [array, *rest])
        if made is None:
            raise _unreadable(node, f"{node.op_type} of it cannot be computed")
        return made[index]

    return found.moved(move)


def _computed(graph: Graph, node: ir.Node, value: ir.Value, depth: int) -> Weight | None:
    """What an operator makes of constants, as floats."""
    arrays: list[np.ndarray | None] = []
    lost = ""
    for part in node.inputs:
        array = None if part is None else constant(part)
        if part is not None and array is None:
            found = weight(graph, part, depth - 1)
            if found is None:
                return None
            array = found.array()
            lost = lost or (found.lost if isinstance(found, Dense) else f"{op_key(node)} computes with it")
        arrays.append(array)
    made = evaluate(graph, node, arrays) if arrays else None
    if made is None:
        return None
    result = made[node.outputs.index(value)]
    return Dense(result, lost=lost) if result.dtype.kind == "f" else None


def _grid(node: ir.Node) -> Weight:
    """The integers of a Quant or BipolarQuant of constants, exactly those that the executor finds."""
    values, scale = _array(node, 0), _array(node, 1)
    bipolar = node.op_type == "BipolarQuant"
    zero = np.zeros((), np.float32) if bipolar else _array(node, 2)
    bits = np.ones((), np.float32) if bipolar else _array(node, 3)
    if bits.size != 1 or not float(bits.reshape(())).is_integer() or bits.reshape(()) < 1:
        raise _unreadable(node, "its bit width is no whole number")
    count = int(bits.reshape(()))
    signed, narrow = bipolar or _flag(node, "signed"), not bipolar and _flag(node, "narrow")
    if bipolar:
        codes = np.where(values >= 0, 1.0, -1.0)
    else:
        parameters = [np.asarray(array, values.dtype) for array in (scale, zero, bits)]
        mode = node.attributes.get_string("rounding_mode", "ROUND") or "ROUND"
        try:
            codes = levels(values, *parameters, signed=signed, narrow=narrow, mode=mode)
        except ValueError:
            raise _unreadable(node, f"its scale of shape {list(scale.shape)} does not fit") from None
    low, high = (-1, 1) if signed and count == 1 else (int(end) for end in int_range(count, signed, narrow))
    if codes.shape != values.shape or not np.isfinite(codes).all():
        raise _unreadable(node, "its weights are not finite, or its scale has another shape than they")
    sparse = node.inputs[0] is not None and SPARSE_KEY in node.inputs[0].metadata_props
    blocks = _blocks(node, codes.shape, scale, zero)
    if count > WIDEST:
        exact = np.asarray((codes - zero) * scale, np.float32)
        return Dense(exact, lost=f"it has {count} bits")
    return Grid(codes.astype(_integer(low, high)), *blocks, low, high, count, sparse)


def _dequantised(node: ir.Node) -> Weight:
    """The integers of a DequantizeLinear of a constant."""
    codes, scale = _array(node, 0), np.asarray(_array(node, 1), np.float32)
    zero = np.zeros_like(scale)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        zero = _array(node, 2).astype(np.float32)
    if node.attributes.get_int("block_size", 0) or codes.dtype.itemsize > 1:
        floats = (codes.astype(np.float32) - zero) * scale if scale.size == 1 else None
        if floats is None:
            raise _unreadable(node, "its integers are wider than 8 bits, or have a scale per block")
        return Dense(np.asarray(floats, np.float32), lost="it has more than 8 bits")
    if scale.size > 1:
        across = [1] * codes.ndim
        across[node.attributes.get_int("axis", 1)] = -1
        scale, zero = scale.reshape(across), zero.reshape(across)
    bits = (
        node.inputs[0].dtype.bitwidth
        if node.inputs[0] is not None and node.inputs[0].dtype is not None
        else 8
    )
    signed = codes.dtype.name.startswith("int")
    low, high = (int(end) for end in int_range(bits, signed, False))
    whole = codes.astype(np.int16)
    return Grid(whole.astype(_integer(low, high)), *_blocks(node, codes.shape, scale, zero), low, high, bits)


def _palette(node: ir.Node) -> Palette | None:
    """A look-up of small constant indices, with a table or several of equal length one behind the other."""
    table = constant(node.inputs[0]) if is_standard(node, "Gather") else None
    if table is None or table.ndim != 1 or table.dtype.kind != "f" or node.attributes.get_int("axis", 0) != 0:
        return None
    place = node.inputs[1].producer() if node.inputs[1] is not None else None
    offsets = None
    if place is not None and is_standard(place, "Add"):
        offsets = constant(place.inputs[1])
        place = place.inputs[0].producer() if place.inputs[0] is not None else None
        if offsets is None:
            return None
    source = place.inputs[0] if place is not None and is_standard(place, "Cast") else None
    indices = constant(source)
    if indices is None or source is None or indices.dtype != np.uint8:
        return None
    group = np.zeros((1,) * indices.ndim, np.int64)
    length = table.size
    if offsets is not None:
        steps = np.unique(offsets)
        if offsets.ndim != indices.ndim or steps[0] != 0 or table.size % steps.size:
            return None
        length = table.size // steps.size
        if not np.array_equal(steps, np.arange(steps.size) * length):
            return None
        group = compact(np.broadcast_to(offsets // length, indices.shape))
    bits = int(length).bit_length() - 1
    if length != 2**bits or not 1 <= bits <= 8 or (indices.size and int(indices.max()) >= length):
        return None
    tables = np.asarray(table, np.float32).reshape(-1, length)
    return Palette(indices, tables, group, bits, SPARSE_KEY in source.metadata_props)


def _blocks(
    node: ir.Node, shape: tuple[int, ...], scale: np.ndarray, zero: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point, one number per block."""
    full = []
    for array in (scale, zero):
        try:
            full.append(compact(np.broadcast_to(np.asarray(array, np.float32), shape)))
        except ValueError:
            raise _unreadable(
                node, f"its scale of shape {list(array.shape)} does not fit the weight"
            ) from None
    scales, zeros = aligned(shape, *full)
    return scales, zeros


def _array(node: ir.Node, index: int) -> np.ndarray:
    array = constant(node.inputs[index]) if index < len(node.inputs) else None
    if array is None:
        raise _unreadable(node, f"its input {index} is no constant")
    return array


def _flag(node: ir.Node, name: str) -> bool:
    return bool(node.attributes.get_int(name, 1))


def _integer(low: int, high: int) -> type[np.generic]:
    """The smallest numpy type that holds a format."""
    for kind in (np.int8, np.uint8, np.int16, np.uint16):
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            return kind
    return np.int32


def _unreadable(node: ir.Node, why: str) -> Unsupported:
    return Unsupported(
        "RUB-COREML-301", f"the integers of a quantised weight are unknown: {why}", where=source_of(node)
    )
