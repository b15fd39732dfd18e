"""Quantisers of activations: MIL's quantize and dequantize where they have the grid, arithmetic elsewhere.

A QONNX quantiser clips ``x / scale + zero`` to the format and rounds. MIL's pair (from iOS17) rounds and
saturates to all of int8 or uint8, which is the same for full 8-bit formats rounded half to even. Everything
else is written out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.lowering.context import Context, Var
from rubicc.backends.coreml.lowering.facts import Facts, attr, axis_of, given
from rubicc.backends.coreml.lowering.numbers import FLOAT_TYPES, survives_half
from rubicc.backends.coreml.lowering.table import Refusal, convert, needs_constant, refuse
from rubicc.backends.coreml.tools import OPSETS
from rubicc.ir.graph import QONNX_DOMAIN
from rubicc.ir.ops.quant import int_range

_HALF_BITS = 11
_SIMPLE = {"FLOOR": "floor", "CEIL": "ceil"}
_NEAREST = frozenset({"ROUND", "HALF_EVEN"})
_MODES = _NEAREST | frozenset({*_SIMPLE, "UP", "DOWN", "ROUND_TO_ZERO", "HALF_UP", "HALF_DOWN"})


@dataclass(frozen=True)
class _Grid:
    """A uniform quantiser: arrays broadcast against the input.

    Attributes:
        sign: levels are -1 and 1, which is what qonnx makes of one signed bit.
    """

    scale: np.ndarray
    zero: np.ndarray
    low: float
    high: float
    mode: str
    sign: bool


def _parameters(facts: Facts, node: ir.Node) -> list[np.ndarray] | None:
    arrays = [facts.constant(value) for value in node.inputs[1:]]
    return None if any(array is None for array in arrays) else [np.asarray(array) for array in arrays]


def _grid(facts: Facts, node: ir.Node) -> _Grid | None:
    """Of a Quant or IntQuant node; ``None`` when its widths differ along a channel."""
    arrays = _parameters(facts, node)
    if arrays is None or np.unique(arrays[2]).size != 1:
        return None
    bits, signed = float(arrays[2].reshape(-1)[0]), bool(attr(node, "signed", 1))
    sign = signed and bits == 1.0
    low, high = (-1, 1) if sign else int_range(bits, signed, bool(attr(node, "narrow", 1)))
    mode = (attr(node, "rounding_mode", "ROUND") or "ROUND").upper()
    scale, zero = (array.astype(np.float64) for array in arrays[:2])
    return _Grid(scale, zero, float(low), float(high), mode, sign)


def _check_quant(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    for value in node.inputs[1:]:
        yield from needs_constant(facts, value, "a parameter of Quant")
    if all(facts.is_constant(value) for value in node.inputs[1:]):
        grid = _grid(facts, node)
        if grid is None:
            yield refuse("Quant whose bit widths differ")
        elif grid.low >= grid.high:
            yield refuse("Quant with a single level")
        mode = (attr(node, "rounding_mode", "ROUND") or "ROUND").upper()
        if mode not in _MODES:
            yield refuse(f"Quant with rounding {mode}")


@convert(
    f"{QONNX_DOMAIN}::Quant",
    f"{QONNX_DOMAIN}::IntQuant",
    mil="quantize dequantize real_div add clip round floor ceil abs sign sub mul greater_equal",
    note="full 8-bit grids from iOS17 on as quantize and dequantize, others as arithmetic",
    check=_check_quant,
)
def quant(c: Context, node: ir.Node) -> None:
    """An activation on a grid."""
    grid = _grid(c, node)
    assert grid is not None
    if grid.sign and not np.any(grid.zero):
        c.set(node.outputs[0], _sign(c, node, grid.scale))
        return
    axis = _channel(c, node.inputs[0], grid)
    if _integer_type(c, grid) is not None and axis is not False:
        c.set(node.outputs[0], _by_operation(c, node, grid, None if axis is True else int(axis)))
    else:
        c.set(node.outputs[0], _by_arithmetic(c, node, grid))


def _integer_type(c: Context, grid: _Grid) -> str | None:
    """``int8`` or ``uint8`` when MIL's quantize has exactly this grid."""
    # MIL adds the zero point to the rounded quotient: the same for even ones, for odd ones ties differ.
    even = np.all(grid.zero % 2 == 0) and np.all((grid.low <= grid.zero) & (grid.zero <= grid.high))
    if not c.opset >= OPSETS["iOS17"] or grid.mode not in _NEAREST or not even:
        return None
    if c.dtype == "fp16" and not all(survives_half(s) for s in grid.scale.reshape(-1)):
        return None
    return {(-128.0, 127.0): "int8", (0.0, 255.0): "uint8"}.get((grid.low, grid.high))


def _channel(facts: Facts, value: ir.Value | None, grid: _Grid) -> bool | int:
    """``True`` for one scale, the axis for one scale per channel, ``False`` for anything else."""
    if grid.scale.size == 1 and grid.zero.size == 1:
        return True
    rank = facts.rank(value)
    if rank is None or grid.scale.ndim > rank:
        return False
    axes = [axis + rank - grid.scale.ndim for axis, n in enumerate(grid.scale.shape) if n != 1]
    same = grid.zero.size == 1 or grid.zero.shape == grid.scale.shape
    return axes[0] if len(axes) == 1 and same else False


def _by_operation(c: Context, node: ir.Node, grid: _Grid, axis: int | None) -> Var:
    kind = _integer_type(c, grid)
    assert kind is not None
    scale = c.number(grid.scale.reshape(-1), c.dtype, f"{node.name}_scale")
    zero = np.broadcast_to(grid.zero.reshape(-1), scale.shape).astype(kind)
    inputs = {"scale": scale[0] if axis is None else scale}
    if axis is not None:
        inputs["axis"] = axis
    if zero.any():
        inputs["zero_point"] = zero[0] if axis is None else zero
    levels = c.op("quantize", node, "levels", input=c.var(node.inputs[0]), output_dtype=kind, **inputs)
    return c.op("dequantize", node, input=levels, **inputs)


def _by_arithmetic(c: Context, node: ir.Node, grid: _Grid) -> Var:
    """Divide, clip, round, multiply: four operations, two more with a zero point."""
    dtype = c.dtype
    count = grid.high - grid.low + 1
    what = f"{count:.0f} levels from {grid.low:.0f} to {grid.high:.0f}"
    if dtype == "fp16" and (
        count > 2**_HALF_BITS or not all(survives_half(s) for s in grid.scale.reshape(-1))
    ):
        dtype = "fp32"
        c.decide("RUB-COREML-D13", node, f"{what} in fp32", "float16 holds 11 bits")
    else:
        c.decide("RUB-COREML-D17", node, f"{what} as arithmetic", f"not an 8-bit grid of {c.opset.name}")
    scale = c.number(grid.scale, dtype, f"{node.name}_scale")
    zero = c.number(grid.zero, dtype, f"{node.name}_zero")
    scale, zero = (one.reshape(())[()] if one.size == 1 else one for one in (scale, zero))
    y = c.op("real_div", node, "steps", x=c.var(node.inputs[0], dtype), y=scale)
    shifted = bool(np.any(grid.zero))
    if shifted:
        y = c.op("add", node, "shifted", x=y, y=zero)
    if grid.sign:
        positive = c.op("greater_equal", node, "positive", x=y, y=c.scalar_like(y, 0))
        twice = c.op("mul", node, "twice", x=c.cast(positive, dtype), y=c.scalar_like(y, 2))
        y = c.op("sub", node, "signs", x=twice, y=c.scalar_like(y, 1))
    else:
        low, high = (c.scalar_like(y, number, "bound") for number in (grid.low, grid.high))
        y = _rounded(c, node, c.op("clip", node, "clipped", x=y, alpha=low, beta=high), grid.mode)
    if shifted:
        y = c.op("sub", node, "back", x=y, y=zero)
    return c.op("mul", node, x=y, y=scale)


def _rounded(c: Context, node: ir.Node, y: Var, mode: str) -> Var:
    """qonnx's rounding modes; those about zero work on the magnitude."""
    if mode in _NEAREST:
        return c.op("round", node, "rounded", x=y)
    if mode in _SIMPLE:
        return c.op(_SIMPLE[mode], node, "rounded", x=y)
    size = c.op("abs", node, "size", x=y)
    if mode in ("HALF_UP", "HALF_DOWN"):
        size = c.op("add", node, "half", x=size, y=c.scalar_like(y, 0.5 if mode == "HALF_UP" else -0.5))
    size = c.op("ceil" if mode in ("UP", "HALF_DOWN") else "floor", node, "whole", x=size)
    return c.op("mul", node, "rounded", x=size, y=c.op("sign", node, "sign", x=y))


def _check_bipolar(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    yield from needs_constant(facts, node.inputs[1], "the scale of BipolarQuant")


@convert(f"{QONNX_DOMAIN}::BipolarQuant", mil="greater_equal cast mul sub", check=_check_bipolar)
def bipolar(c: Context, node: ir.Node) -> None:
    """Sign times scale; 0 counts as positive."""
    scale = c.constant(node.inputs[1])
    assert scale is not None
    c.set(node.outputs[0], _sign(c, node, scale))


def _sign(c: Context, node: ir.Node, scale: np.ndarray) -> Var:
    x = c.var(node.inputs[0])
    dtype = c.type_of(x)
    positive = c.op("greater_equal", node, "positive", x=x, y=c.scalar_like(x, 0))
    y = c.op("cast", node, "bit", x=positive, dtype=dtype)
    half = c.number(scale, dtype, f"{node.name}_scale")
    half = half.reshape(())[()] if half.size == 1 else half
    y = c.op("mul", node, "twice", x=y, y=half * half.dtype.type(2))
    return c.op("sub", node, x=y, y=half)


def _check_trunc(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    for value in node.inputs[1:]:
        yield from needs_constant(facts, value, "a parameter of Trunc")
    if (attr(node, "rounding_mode", "FLOOR") or "FLOOR").upper() not in _MODES:
        yield refuse(f"Trunc with rounding {attr(node, 'rounding_mode')}")


@convert(
    f"{QONNX_DOMAIN}::Trunc", mil="real_div add round clip floor ceil abs sign mul sub", check=_check_trunc
)
def trunc(c: Context, node: ir.Node) -> None:
    """Low bits dropped, as qonnx's two versions of the operator do."""
    arrays = _parameters(c, node)
    assert arrays is not None
    scale, zero, bits = (a.astype(np.float64) for a in arrays[:3])
    clamped = len(arrays) > 4
    ratio = 2.0 ** np.round(np.log2(arrays[3] / scale)) if clamped else 2.0 ** (bits - arrays[3])
    out_scale = arrays[3].astype(np.float64) if clamped else scale
    x = c.var(node.inputs[0])
    dtype = c.type_of(x)

    def typed(array: np.ndarray) -> np.ndarray:
        made = c.number(array, dtype, f"{node.name}")
        return made.reshape(())[()] if made.size == 1 else made

    y = c.op("real_div", node, "steps", x=x, y=typed(scale))
    if np.any(zero):
        y = c.op("add", node, "shifted", x=y, y=typed(zero))
    y = c.op("real_div", node, "dropped", x=c.op("round", node, "levels", x=y), y=typed(ratio))
    if clamped:
        width = float(arrays[4].reshape(-1)[0])
        low, high = int_range(width, bool(attr(node, "signed", 1)), bool(attr(node, "narrow", 0)))
        y = c.op("clip", node, "clipped", x=y, alpha=typed(np.float64(low)), beta=typed(np.float64(high)))  # type: ignore[arg-type]
    y = _rounded(c, node, y, (attr(node, "rounding_mode", "FLOOR") or "FLOOR").upper())
    if np.any(zero):
        y = c.op("sub", node, "back", x=y, y=typed(zero / ratio if clamped else zero))
    c.set(node.outputs[0], c.op("mul", node, x=y, y=typed(out_scale)))


# ONNX's own pair -----------------------------------------------------------------------------------------


def _check_linear(facts: Facts, node: ir.Node) -> Iterator[Refusal]:
    for value in node.inputs[1:]:
        yield from needs_constant(facts, value, f"a parameter of {node.op_type}")
    if attr(node, "block_size", 0):
        yield refuse(f"{node.op_type} of an activation per block")
    side = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    if side is not None and side.dtype is not None and side.dtype.name not in ("INT8", "UINT8"):
        yield refuse(f"{node.op_type} of an activation with {side.dtype.name.lower()} levels")


def _linear_parameters(c: Context, node: ir.Node) -> tuple[np.ndarray, np.ndarray, int | None, str]:
    """Scale, zero point, axis, integer type."""
    scale = np.asarray(c.constant(node.inputs[1]), np.float64).reshape(-1)
    given_zero = c.constant(given(node, 2))
    side = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    kind = "int8" if side is not None and side.dtype is not None and side.dtype.name == "INT8" else "uint8"
    zero = (
        np.zeros_like(scale) if given_zero is None else np.broadcast_to(given_zero.reshape(-1), scale.shape)
    )
    rank = c.rank(node.inputs[0]) or 1
    return (
        scale,
        zero.astype(np.float64),
        None if scale.size == 1 else axis_of(attr(node, "axis", 1), rank),
        kind,
    )


def _shaped(array: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    return array.reshape(()) if axis is None else array.reshape([-1 if a == axis else 1 for a in range(rank)])


@convert(
    "QuantizeLinear", mil="quantize real_div round add clip", note="iOS16: as floats", check=_check_linear
)
def quantize_linear(c: Context, node: ir.Node) -> None:
    """To int8 or uint8; before iOS17 to the same numbers as floats."""
    scale, zero, axis, kind = _linear_parameters(c, node)
    x = c.var(node.inputs[0])
    if c.opset >= OPSETS["iOS17"]:
        c.set(
            node.outputs[0],
            c.op("quantize", node, input=x, output_dtype=kind, **_pair(c, node, scale, zero, axis, kind)),
        )
        return
    dtype = c.type_of(x)
    factor, shift = (c.number(_shaped(a, axis, x.rank), dtype, node.name or "")[()] for a in (scale, zero))
    y = c.op("round", node, "rounded", x=c.op("real_div", node, "steps", x=x, y=factor))
    if zero.any():
        y = c.op("add", node, "shifted", x=y, y=shift)
    low, high = (-128, 127) if kind == "int8" else (0, 255)
    c.decide(
        "RUB-COREML-D17", node, f"{kind} levels as arithmetic", f"quantize needs iOS17, not {c.opset.name}"
    )
    c.set(node.outputs[0], c.op("clip", node, x=y, alpha=c.scalar_like(y, low), beta=c.scalar_like(y, high)))


@convert("DequantizeLinear", mil="dequantize sub mul", note="iOS16: from floats", check=_check_linear)
def dequantize_linear(c: Context, node: ir.Node) -> None:
    """Back from levels."""
    scale, zero, axis, kind = _linear_parameters(c, node)
    x = c.var(node.inputs[0], "keep")
    if c.type_of(x) not in FLOAT_TYPES:
        c.set(node.outputs[0], c.op("dequantize", node, input=x, **_pair(c, node, scale, zero, axis, kind)))
        return
    factor, shift = (
        c.number(_shaped(a, axis, x.rank), c.type_of(x), node.name or "")[()] for a in (scale, zero)
    )
    if zero.any():
        x = c.op("sub", node, "back", x=x, y=shift)
    c.set(node.outputs[0], c.op("mul", node, x=x, y=factor))


def _pair(
    c: Context, node: ir.Node, scale: np.ndarray, zero: np.ndarray, axis: int | None, kind: str
) -> dict[str, object]:
    typed = c.number(scale, c.dtype, f"{node.name}_scale")
    inputs: dict[str, object] = {"scale": typed[0] if axis is None else typed}
    if axis is not None:
        inputs["axis"] = axis
    if zero.any():
        inputs["zero_point"] = zero.astype(kind)[0] if axis is None else zero.astype(kind)
    return inputs
