"""Writes a constant weight into a MIL program in its compressed form, and keeps account of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from rubicc.backends.coreml.compress.forms import Choice, blocks_of, choices, granularity, plain, smallest
from rubicc.backends.coreml.compress.pack import pack
from rubicc.backends.coreml.compress.read import origin, weight
from rubicc.backends.coreml.compress.weight import Dense, Grid, Move, Palette, Weight
from rubicc.backends.coreml.tools import OPSETS, Opset
from rubicc.ir.graph import Graph

Var = Any  # coremltools.converters.mil.mil.Var


class Context(Protocol):
    """What writing a weight needs of the lowering."""

    graph: Graph
    opset: Opset
    mb: Any
    types: Any
    dtype: str
    weights: dict[str, Any]

    def unique(self, name: str) -> str:
        """A name for an operation, not given before."""

    def number(self, array: Any, dtype: str, where: str) -> np.ndarray:
        """``array`` in ``dtype``, with a Decision where it does not fit."""


@dataclass(frozen=True)
class Stored:
    """How one weight was stored.

    Attributes:
        initializer: QONNX initializer that holds it.
        stored: form in words.
        form: name of the form.
        bits: of the graph's codes; 0 for floats.
        width: bits of a stored code.
        elements: of the weight.
        nbytes: that it takes, alignment included.
        least: bytes of codes of ``bits`` bits and of scales or tables, without alignment.
        rounding: largest relative change by the precision of the program.
        cause: why a quantised weight is stored as floats; empty otherwise.
    """

    initializer: str
    stored: str
    form: str
    bits: int
    width: int
    elements: int
    nbytes: int
    least: int
    rounding: float
    cause: str = ""


def constant(value: ir.Value, context: Context, *, change: Move | None = None) -> Var | None:
    """The MIL variable of a compressed weight; ``None`` where the graph has plain floats, or it is no weight.

    Args:
        change: moves the weight's elements first (transpose, reorder, reshape, select); never computes.

    Raises:
        Unsupported: ``RUB-COREML-301``.
    """
    found = weight(context.graph, value)
    if found is None or (isinstance(found, Dense) and not found.sparse and not found.lost):
        return None
    if change is not None:
        found = found.moved(change)
    precision = context.dtype
    options = list(choices(found, packed=not context.opset >= OPSETS["iOS18"], precision=precision))
    best, cause = smallest(options), ""
    if best.form.name == "plain":
        best = plain(found, precision)
        cause = _cause(found) if len(options) == 1 else ""
    name = context.unique(value.name or "weight")
    var = _WRITERS[best.form.name](_Part(context, name), best, found)
    context.weights[name] = Stored(
        origin(value),
        describe(found, best),
        best.form.name,
        0 if isinstance(found, Dense) else found.bits,
        best.width,
        math.prod(found.shape),
        best.nbytes,
        least_bytes(found, precision),
        best.rounding,
        cause,
    )
    return var


def least_bytes(found: Weight, precision: str) -> int:
    """Bytes of the codes as the graph has them and of their scales or tables in ``precision``, unaligned."""
    item = 2 if precision == "fp16" else 4
    count = math.prod(found.shape)
    if isinstance(found, Dense):
        return count * item
    tables = math.prod(blocks_of(found)) * (found.tables.shape[1] if isinstance(found, Palette) else 1)
    return -(-count * found.bits // 8) + tables * item


def describe(found: Weight, choice: Choice) -> str:
    """The form in words: ``int4 per block of 32``, ``4-bit palette, 16 tables``."""
    name, width = choice.form.name, choice.width
    if name == "plain":
        return f"fp{width}"
    if name == "sparse":
        return f"fp{width}, zeros left out"
    zeros = ", zeros left out" if choice.form.sparse else ""
    if name.endswith("scaled"):
        sign = "" if isinstance(found, Grid) and found.low < 0 else "u"
        return f"{sign}int{width} per {_part(found)}{zeros}"
    tables = 1 if name.startswith("joined") else math.prod(blocks_of(found))
    return f"{width}-bit palette, {tables} {'table' if tables == 1 else 'tables'}{zeros}"


def _part(found: Weight) -> str:
    kind = granularity(found)
    if kind != "block":
        return kind
    lengths = [n // max(1, count) for n, count in zip(found.shape, blocks_of(found), strict=True)]
    return "block of " + "x".join(str(n) for n in lengths if n > 1)


def _cause(found: Weight) -> str:
    """Why no form holds the codes of a weight; empty where it is too small for any to pay."""
    if isinstance(found, Dense):
        return found.lost
    if found.bits > 8:
        return f"it has {found.bits} bits"
    smaller = least_bytes(found, "fp16") + 512 < 2 * math.prod(found.shape)
    return "no form holds its scales or zero points" if smaller else ""


class _Part:
    """Names and constants of one weight."""

    def __init__(self, context: Context, name: str) -> None:
        self.context, self.name, self.mb = context, name, context.mb

    def const(self, what: str, array: np.ndarray, dtype: str = "") -> Var:
        """A parameter as a constant; ``dtype`` is a MIL type that numpy lacks, ``uint4``."""
        if dtype:
            types = self.context.types
            array = array.astype(types.nptype_from_builtin(types.string_to_builtin(dtype)))
        value = np.ascontiguousarray(array) if array.ndim else array[()]
        return self.mb.const(val=value, name=self.context.unique(f"{self.name}_{what}"))


def _scaled(part: _Part, choice: Choice, found: Weight) -> Var:
    arrays, mb = choice.arrays(), part.mb
    if choice.form.packed:
        axes = [axis for axis, count in enumerate(arrays["scale"].shape) if count > 1]
        shape = (-1,) if axes else ()
        return mb.constexpr_affine_dequantize(
            quantized_data=part.const("codes", arrays["codes"]),
            zero_point=part.const("zero", arrays["zero"].reshape(shape)),
            scale=part.const("scale", arrays["scale"].reshape(shape)),
            axis=part.const("axis", np.asarray(axes[0] if axes else 0, np.int32)),
            name=part.name,
        )
    kind = f"{'int' if arrays['codes'].dtype.kind == 'i' else 'uint'}{choice.width}"
    scales = {"scale": part.const("scale", arrays["scale"])}
    if "zero" in arrays:
        scales["offset"] = part.const("zero", arrays["zero"], kind)
    codes = part.const("codes", arrays["codes"], kind)
    if not choice.form.sparse:
        return mb.constexpr_blockwise_shift_scale(data=codes, **scales, name=part.name)
    mask = part.const("mask", arrays["mask"], "uint1")
    places, values = mb.constexpr_sparse_blockwise_shift_scale(
        data_mask=mask, nonzero_data=codes, **scales, name=part.context.unique(f"{part.name}_values")
    )
    return mb.constexpr_sparse_to_dense(mask=places, nonzero_data=values, name=part.name)


def _palette(part: _Part, choice: Choice, found: Weight) -> Var:
    arrays, mb = choice.arrays(), part.mb
    if choice.form.packed:
        return mb.constexpr_lut_to_dense(
            indices=part.const("codes", pack(arrays["codes"], choice.width)),
            lut=part.const("table", arrays["table"].reshape(-1)),
            shape=part.const("shape", np.asarray(found.shape, np.uint32)),
            name=part.name,
        )
    codes = part.const("codes", arrays["codes"], f"uint{choice.width}")
    table = part.const("table", arrays["table"][..., None])
    if not choice.form.sparse:
        return mb.constexpr_lut_to_dense(indices=codes, lut=table, name=part.name)
    mask = part.const("mask", arrays["mask"], "uint1")
    places, values = mb.constexpr_lut_to_sparse(
        indices_mask=mask,
        indices_nonzero_data=codes,
        lut=table,
        name=part.context.unique(f"{part.name}_values"),
    )
    return mb.constexpr_sparse_to_dense(mask=places, nonzero_data=values, name=part.name)


def _sparse(part: _Part, choice: Choice, found: Weight) -> Var:
    arrays, context = choice.arrays(), part.context
    values = part.const("values", context.number(arrays["codes"], context.dtype, part.name))
    if not choice.form.packed:
        mask = part.const("mask", arrays["mask"], "uint1")
        return part.mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask, name=part.name)
    return part.mb.constexpr_sparse_to_dense(
        nonzero_data=values,
        mask=part.const("mask", pack(arrays["mask"].astype(np.uint8), 1)),
        shape=part.const("shape", np.asarray(found.shape, np.uint32)),
        name=part.name,
    )


def _plain(part: _Part, choice: Choice, found: Weight) -> Var:
    array = part.context.number(choice.arrays()["val"], part.context.dtype, part.name)
    return part.mb.const(val=array if array.ndim else array[()], name=part.name)


_WRITERS: dict[str, Callable[[_Part, Choice, Weight], Var]] = {
    "scaled": _scaled,
    "palette": _palette,
    "joined palette": _palette,
    "sparse": _sparse,
    "sparse scaled": _scaled,
    "sparse palette": _palette,
    "plain": _plain,
}
