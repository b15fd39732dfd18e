"""Tests of rules about weights unpacked at load (``constexpr_`` operations), and about 8-bit activations."""

from __future__ import annotations

from math import prod

from rubicc.backends.coreml.lint.facts import Op, elements
from rubicc.backends.coreml.lint.hits import Hit
from rubicc.backends.coreml.lint.on_types import shape_of
from rubicc.backends.coreml.run.program import Constant, Operation, TensorType

SMALLEST_GROUP = 8
SKIPPED_FROM = 0.75  # share of zeros
_BLOCKWISE = "constexpr_blockwise_shift_scale"


def per_block(op: Op, family: str | None) -> Hit | None:
    """Scales along more than one axis."""
    if op.kind != _BLOCKWISE:
        return None
    scales = [size for size in shape_of(op, "scale") if size != 1]
    return Hit(f"{' x '.join(map(str, scales))} scales") if len(scales) > 1 else None


def linear_bytes(op: Op, family: str | None) -> Hit | None:
    """8-bit linear weights, which the M1 unpacks at load."""
    if op.kind == _BLOCKWISE:
        stored = op.type_of("data")
    elif op.kind == "constexpr_affine_dequantize":
        stored = op.type_of("quantized_data")
    else:
        return None
    eight = stored is not None and stored.dtype in ("int8", "uint8") and family in (None, "M1")
    return Hit(f"{stored} is unpacked at load on the M1") if eight else None


def float_zero_point(op: Op, family: str | None) -> Hit | None:
    """An operation whose weight has a zero point that is no integer."""
    for parameter, argument in op.operation.inputs.items():
        for name in argument.names:
            maker = op.facts.makers.get(name)
            if (
                maker is not None
                and maker.type == _BLOCKWISE
                and _dtype(op, maker, "offset").startswith("fp")
            ):
                return Hit(f"{parameter} of {op.kind} has a zero point of type {_dtype(op, maker, 'offset')}")
    return None


def weight_cast(op: Op, family: str | None) -> Hit | None:
    """constexpr_cast."""
    return Hit("constexpr_cast") if op.kind == "constexpr_cast" else None


def many_palettes(op: Op, family: str | None) -> Hit | None:
    """Groups of fewer than eight channels per look-up table."""
    lut, indices = shape_of(op, "lut"), shape_of(op, "indices")
    if op.kind != "constexpr_lut_to_dense" or len(lut) != len(indices) + 2:
        return None
    tables = prod(size or 1 for size in lut[:-2])
    small = [
        (size or 1) // (count or 1) for size, count in zip(indices, lut[:-2], strict=True) if (count or 1) > 1
    ]
    return (
        Hit(f"{tables} tables, one per {min(small)} channels")
        if min(small, default=SMALLEST_GROUP) < SMALLEST_GROUP
        else None
    )


def thin_sparsity(op: Op, family: str | None) -> Hit | None:
    """Sparse weights with too few zeros to be skipped."""
    kept, dense = (
        elements(shape_of(op, "nonzero_data")),
        elements(op.results[0].shape) if op.results else None,
    )
    if op.kind != "constexpr_sparse_to_dense" or kept is None or not dense:
        return None
    zeros = 1 - kept / dense
    return Hit(f"{zeros:.0%} zeros, below {SKIPPED_FROM:.0%}") if zeros < SKIPPED_FROM else None


def byte_activations(op: Op, family: str | None) -> Hit | None:
    """Quantisers on activations."""
    return Hit(op.kind) if op.kind in ("quantize", "dequantize") and op.data else None


def _dtype(op: Op, maker: Operation, parameter: str) -> str:
    argument = maker.inputs.get(parameter)
    bound: Constant | None = op.facts.function.constant(argument)
    return bound.type.dtype if bound is not None and isinstance(bound.type, TensorType) else ""
