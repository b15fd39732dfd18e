"""QONNX quantisers and ONNX's own, as fake quantisation with straight-through gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rubicc.ir.graph import QONNX_DOMAIN
from rubicc.ir.ops.quant import int_range
from rubicc.ir.ops.registry import KernelError
from rubicc.training.ops.registry import Run, Site, op
from rubicc.training.ops.straight import ROUNDING, FakeQuantise, FakeSign, straight_through

# A weight may lie a rounding error outside the range its own largest value has set: it still rounds into it.
_WEIGHT_MARGIN = 0.5


def _number(site: Site, known: np.ndarray) -> Tensor | float:
    """A known parameter: a number, or a tensor where it differs by channel."""
    if known.size == 1:
        return float(known.reshape(-1)[0])
    return torch.from_numpy(np.array(known)).to(site.tensor_of(0).device)


def _share(site: Site, high: float) -> float:
    """LSQ's gradient scale of a step: one over the root of (elements it serves times largest level).

    The elements of an activation are counted for one sequence, so that the rate does not hang on the batch.
    """
    x, scales = site.tensor_of(0), site.tensor_of(1).numel()
    elements = x.numel() if site.stored is not None else x.numel() // max(x.shape[0] if x.ndim else 1, 1)
    return float(1.0 / np.sqrt(max(elements / scales, 1.0) * max(abs(high), 1.0)))


def _rounding(name: str) -> Run:
    try:
        return ROUNDING[name.upper()]
    except KeyError:
        raise KernelError(f"unknown rounding mode {name!r}") from None


@op(f"{QONNX_DOMAIN}::Quant", f"{QONNX_DOMAIN}::IntQuant")
def quant(site: Site) -> Run:
    """Uniform quantisation to a given bit width; one signed bit is the sign."""
    signed, narrow = bool(site.attr("signed", 1)), bool(site.attr("narrow", 1))
    rounding = _rounding(site.attr("rounding_mode", "ROUND"))
    bits, zero = site[3], _number(site, site[2])
    if signed and np.all(bits == 1):
        share = _share(site, 1.0)
        return lambda x, scale, *_: FakeSign.apply(_wide(x, scale), scale, zero, share)
    low, high = (np.asarray(bound, bits.dtype) for bound in int_range(bits, signed, narrow))
    share = _share(site, float(high.max()))
    bounds = _number(site, low), _number(site, high)
    margin = _WEIGHT_MARGIN if site.stored is not None else 0.0
    form = (zero, *bounds, rounding, margin, share, site.stored)
    return lambda x, scale, *_: FakeQuantise.apply(_wide(x, scale), scale, *form)


def _wide(x: Tensor, scale: Tensor) -> Tensor:
    """Half-precision activations (autocast) in the scale's type: their own has too few digits for levels."""
    return x if x.dtype == scale.dtype else x.to(scale.dtype)


@op(f"{QONNX_DOMAIN}::BipolarQuant")
def bipolar_quant(site: Site) -> Run:
    """Sign (0 counts as positive) times the scale."""
    share = _share(site, 1.0)
    return lambda x, scale: FakeSign.apply(_wide(x, scale), scale, 0.0, share)


@op(f"{QONNX_DOMAIN}::Trunc")
def trunc(site: Site) -> Run:
    """Drop low bits: five inputs in version 1 of the operator, six (with clamping) in version 2."""
    drop = _rounding(site.attr("rounding_mode", "FLOOR"))
    if len(site.tensors) < 6:
        zero, step = _number(site, site[2]), _number(site, 2.0 ** (site[3] - site[4]))

        def first(x: Tensor, scale: Tensor, *_: Tensor) -> Tensor:
            levels = straight_through(torch.round, x / scale + zero)
            return (straight_through(drop, levels / step) - zero) * scale

        return first
    known = site[1]
    ratio = np.asarray(2 ** np.round(np.log2(site[4] / known)))
    bounds = int_range(site[5], bool(site.attr("signed", 1)), bool(site.attr("narrow", 0)))
    limits: Any = tuple(_number(site, np.asarray(bound)) for bound in bounds)
    zero, step, shift = _number(site, site[2]), _number(site, ratio), _number(site, site[2] / ratio)

    def second(
        x: Tensor, scale: Tensor, zero_point: Tensor, bits: Tensor, out_scale: Tensor, *_: Tensor
    ) -> Tensor:
        levels = straight_through(torch.round, x / scale + zero) / step
        return (straight_through(drop, torch.clamp(levels, *limits)) - shift) * out_scale

    return second


def _along(parameter: Tensor, site: Site) -> Tensor:
    """Scale or zero point shaped to broadcast against input 0 (per tensor, per axis or per block)."""
    x, axis, block = site.tensor_of(0), site.attr("axis", 1), site.attr("block_size", 0)
    if parameter.numel() == 1:
        return parameter.reshape(())
    if block:
        return parameter.repeat_interleave(block, axis)[tuple(slice(n) for n in x.shape)]
    return parameter.reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])


@op("QuantizeLinear")
def quantize_linear(site: Site) -> Run:
    """Whole numbers, carried in the floating type so that a gradient can pass."""
    zero, declared = site.get(2), site.attr("output_dtype", 0)
    kind = zero.dtype if zero is not None else site.numpy_dtype(declared or 2)
    if kind.kind not in "iu":
        raise KernelError(f"QuantizeLinear to {kind.name} is not trained")
    bounds = np.iinfo(kind)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        levels = straight_through(torch.round, x / _along(scale, site))
        if zero is not None:
            levels = levels + _along(zero.to(levels.dtype), site)
        return torch.clamp(levels, bounds.min, bounds.max)

    return run


@op("DequantizeLinear")
def dequantize_linear(site: Site) -> Run:
    """``(x - zero) * scale``."""

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        levels = x.to(scale.dtype)
        if zero is not None:
            levels = levels - _along(zero.to(scale.dtype), site)
        return levels * _along(scale, site)

    return run
