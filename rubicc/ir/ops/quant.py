"""QONNX Quant, BipolarQuant and Trunc, and ONNX's own (de)quantisation.

The arithmetic follows qonnx step by step (clamp before rounding, bounds computed in the type of the bit
width), so that results are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import QONNX_DOMAIN
from rubicc.ir.ops.registry import Array, Call, KernelError, Result, kernel, widened

ROUNDING: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.round,
    "HALF_EVEN": np.round,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "ROUND_TO_ZERO": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + x.dtype.type(0.5)),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - x.dtype.type(0.5)),
}


def rounding(name: str) -> Callable[[Array], Array]:
    """Rounding function of a QONNX ``rounding_mode``; ``UP``/``DOWN`` are away from and towards zero."""
    try:
        return ROUNDING[name.upper()]
    except KeyError:
        raise KernelError(f"unknown rounding mode {name!r}") from None


def int_range(bits: Array | float, signed: bool, narrow: bool) -> tuple[Array | float, Array | float]:
    """Smallest and largest integer of a format, in the type of ``bits``.

    ``narrow`` drops the lowest value of a signed format and the highest of an unsigned one.
    """
    if signed:
        top = 2 ** (bits - 1)
        return -top + 1 if narrow else -top, top - 1
    return 0 * bits, 2**bits - (2 if narrow else 1)


def quantise(
    x: Array, scale: Array, zero: Array, bits: Array, *, signed: bool, narrow: bool, mode: str = "ROUND"
) -> Array:
    """Fake-quantised ``x`` in its own type; ``scale``, ``zero`` and ``bits`` broadcast."""
    y = levels(x, scale, zero, bits, signed=signed, narrow=narrow, mode=mode)
    return np.asarray((y - zero) * scale, x.dtype)


def levels(
    x: Array, scale: Array, zero: Array, bits: Array, *, signed: bool, narrow: bool, mode: str = "ROUND"
) -> Array:
    """The whole numbers behind :func:`quantise`, zero point included, in the type of ``x``."""
    y = x / scale + zero
    if signed and np.all(bits == 1):
        y = np.where(y >= 0, np.ones((), y.dtype), -np.ones((), y.dtype))
    else:
        low, high = int_range(bits, signed, narrow)
        y = np.where(y > high, np.asarray(high, y.dtype), y)
        y = np.where(y < low, np.asarray(low, y.dtype), y)
        y = rounding(mode)(y)
    return y


@kernel("Quant", "IntQuant", domain=QONNX_DOMAIN)
def quant(call: Call) -> Result:
    """Uniform quantisation to a given bit width.

    Which integer a stored weight is, is decided in the type it is stored in, also when floats are carried
    wider: every runtime decides so, and an edge that falls the other way is another network.
    """
    form = {
        "signed": bool(call.attr("signed", 1)),
        "narrow": bool(call.attr("narrow", 1)),
        "mode": call.attr("rounding_mode", "ROUND"),
    }
    weight = call.node.inputs[0]
    stored = None if weight is None or weight.const_value is None else weight.const_value.dtype.numpy()
    if stored is None or stored == call[0].dtype:
        return quantise(call[0], call[1], call[2], call[3], **form)
    decided = levels(*(np.asarray(call[i]).astype(stored) for i in range(4)), **form)
    return (decided.astype(call[0].dtype) - call[2]) * call[1]


@kernel("BipolarQuant", domain=QONNX_DOMAIN)
def bipolar_quant(call: Call) -> Result:
    """Sign (0 counts as positive) times the scale."""
    x = call[0]
    return np.where(x >= 0, np.ones((), x.dtype), -np.ones((), x.dtype)) * call[1]


@kernel("Trunc", domain=QONNX_DOMAIN)
def trunc(call: Call) -> Result:
    """Drop low bits: five inputs in version 1 of the operator, six (with clamping) in version 2."""
    x, scale, zero, bits_in = call[0], call[1], call[2], call[3]
    mode = rounding(call.attr("rounding_mode", "FLOOR"))
    y = np.round(x / scale + zero)
    if len(call.inputs) < 6:
        y = mode(y / 2.0 ** (bits_in - call[4]))
        return np.asarray((y - zero) * scale, x.dtype)
    out_scale, out_bits = call[4], call[5]
    ratio = 2 ** np.round(np.log2(out_scale / scale))
    low, high = int_range(out_bits, bool(call.attr("signed", 1)), bool(call.attr("narrow", 0)))
    y = y / ratio
    y = np.where(y > high, np.asarray(high, y.dtype), y)
    y = mode(np.where(y < low, np.asarray(low, y.dtype), y))
    return np.asarray((y - zero / ratio) * out_scale, x.dtype)


def _along(parameter: Array, x: Array, axis: int, block: int) -> Array:
    """Scale or zero point shaped to broadcast against ``x`` (per tensor, per axis or per block)."""
    if parameter.ndim == 0 or parameter.size == 1:
        return parameter.reshape(())
    if block:
        return np.repeat(parameter, block, axis=axis)[tuple(slice(n) for n in x.shape)]
    return parameter.reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])


@kernel("QuantizeLinear")
def quantize_linear(call: Call) -> Result:
    """Round half to even, add the zero point, saturate."""
    x = widened(call[0])
    axis, block, zero = call.attr("axis", 1), call.attr("block_size", 0), call.get(2)
    declared = call.attr("output_dtype", 0)
    dtype = zero.dtype if zero is not None else np.dtype(ir.DataType(declared or 2).numpy())
    bounds = np.iinfo(dtype) if dtype.kind in "iu" else _small_integer(dtype)
    y = np.round(x / _along(widened(call[1]), x, axis, block))
    if zero is not None:
        y = y + _along(zero.astype(x.dtype), x, axis, block)
    return np.clip(y, bounds.min, bounds.max).astype(dtype)


def _small_integer(dtype: np.dtype) -> Any:
    import ml_dtypes

    try:
        return ml_dtypes.iinfo(dtype)
    except ValueError:
        raise KernelError(f"QuantizeLinear to {dtype.name} is not implemented") from None


@kernel("DequantizeLinear")
def dequantize_linear(call: Call) -> Result:
    """``(x - zero) * scale`` in the scale's type."""
    x, scale, zero = call[0], call[1], call.get(2)
    axis, block = call.attr("axis", 1), call.attr("block_size", 0)
    wide = widened(scale)
    y = x.astype(np.int32)
    if zero is not None:
        y = y - _along(zero.astype(np.int32), x, axis, block)
    return (y.astype(wide.dtype) * _along(wide, x, axis, block)).astype(scale.dtype, copy=False)


@kernel("DynamicQuantizeLinear")
def dynamic_quantize_linear(call: Call) -> Result:
    """uint8 values, scale and zero point from the tensor's own range."""
    x = call[0]
    low, high = min(x.min(), x.dtype.type(0)), max(x.max(), x.dtype.type(0))
    scale = np.asarray((high - low) / x.dtype.type(255), x.dtype)
    zero = np.clip(np.round(-low / scale), 0, 255).astype(np.uint8)
    y = np.clip(np.round(x / scale) + zero.astype(x.dtype), 0, 255).astype(np.uint8)
    return [y, scale, np.asarray(zero)]
