"""Rounds weights to integers with a scale; activations stay in float."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from rubicc.ir.graph import QONNX_DOMAIN, Graph, source_of
from rubicc.passes.quantize.products import Seen, fitted
from rubicc.passes.quantize.quantiser import quantiser
from rubicc.passes.quantize.sites import LEAST, SPARSE_KEY, Site, divisor, grouped, sites
from rubicc.passes.registry import Pass, register
from rubicc.passes.rewrite import Editor

BITS = (2, 3, 4, 5, 6, 7, 8)
# Shares of the largest magnitude that may be the end of the grid. At 8 bits clipping gains nothing.
SHRINKS = tuple(float(share) for share in np.linspace(1.0, 0.4, 16))
SLAB = 1 << 22  # elements looked at together
SMALLEST_HALF, LARGEST_HALF = 2.0**-24, 65504.0


@dataclass(frozen=True)
class WeightOptions:
    """Format of the integers.

    Attributes:
        bits: 2 to 8, signed and narrow: 4 = -7 to 7.
        granularity: one scale per ``tensor``, per output ``channel``, or per ``block`` of weights that are
            summed together.
        block: weights in a block; where it does not divide the axis, the largest divisor below it.
        fit: end of the grid: the largest magnitude (``absmax``) or the share of it that leaves the least
            squared error (``mse``; below 8 bits).
        least: elements that a weight must have.
        recurrent: also the weights of GRU and LSTM.
        skip: names of nodes whose weights stay in float.
        rounding: ``nearest``, or ``optimised``: the integers that leave products as they are on ``inputs``
            (GPTQ), where a product's input is among them.
        inputs: arrays seen at the inputs of products, by value name.
        widths: bits by node name, over ``bits``.
        symmetric: False: the grid runs from the smallest to the largest weight, 0 included, with a whole
            zero point, not narrow; for whole tensors and channels, rounded to nearest.
    """

    bits: int = 8
    granularity: Literal["tensor", "channel", "block"] = "channel"
    block: int = 32
    fit: Literal["mse", "absmax"] = "mse"
    least: int = LEAST
    recurrent: bool = True
    skip: tuple[str, ...] = ()
    rounding: Literal["nearest", "optimised"] = "nearest"
    inputs: Seen = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    symmetric: bool = True

    def __post_init__(self) -> None:
        wrong = [bits for bits in (self.bits, *self.widths.values()) if bits not in BITS]
        if wrong:
            raise ValueError(f"bits is {wrong[0]}: one of {', '.join(map(str, BITS))}")
        if not self.symmetric and (self.granularity == "block" or self.rounding != "nearest"):
            raise ValueError("an asymmetric grid is per tensor or channel, rounded to nearest")
        if self.block < 2:
            raise ValueError(f"block is {self.block}: at least 2")


@register
class QuantiseWeights(Pass):
    """Weights of products, look-ups and recurrent layers become integers with a scale; no data is needed.

    Scales are numbers that fp16 holds, so a package in fp16 stores them as they are.

    ::

        before   Conv(x, W)
        after    Conv(x, Quant(W, scale (O,1,1)))                            tensor, channel
                 Conv(x, Reshape(Quant(W (O,I/b,b,k), scale (O,I/b,1,1))))   block of b
    """

    id = "quantize.weights"
    exact = False
    tolerance = 1.0
    ensures = frozenset({"weights-quantised"})
    Options = WeightOptions
    options: WeightOptions

    def run(self, graph: Graph) -> bool:
        """See :class:`Pass`."""
        edit, opts = Editor(graph, self.id), self.options
        found = sites(graph, least=opts.least, recurrent=opts.recurrent, skip=opts.skip)
        for site in found:
            blocks = block_length(site, opts) is not None
            site.replace(self._in_blocks(edit, site) if blocks else self._whole(edit, site))
        if found:
            graph.model.opset_imports.setdefault(QONNX_DOMAIN, 1)
        return bool(found)

    def _whole(self, edit: Editor, site: Site) -> ir.Value:
        """One scale per tensor or channel."""
        if self.options.granularity == "block":
            size = site.array.shape[site.into]
            self.note(source_of(site.node), f"one scale per channel: {size} summed weights have no blocks")
        axes = by_scale(site, self.options)[1]
        if not self.options.symmetric:
            scale, zero = asymmetric(site.array, axes, self._bits(site))
            return self._quantiser(edit, site, site.value, scale, zero)
        scale = self._scale(site, site.array, axes)
        better = self._fitted(site, scale)
        value = site.value if better is None else self._initializer(edit, site, "rounded", better)
        return self._quantiser(edit, site, value, scale)

    def _in_blocks(self, edit: Editor, site: Site) -> ir.Value:
        """One scale per block: groups and blocks are two axes of the stored weight."""
        view, axes = by_scale(site, self.options)
        scale = self._scale(site, view, axes)
        better = self._fitted(site, np.broadcast_to(scale, view.shape).reshape(site.array.shape))
        whole = view if better is None else better.reshape(view.shape)
        made = self._quantiser(edit, site, self._initializer(edit, site, "blocks", whole), scale)
        shape = edit.initializer(
            f"{site.name}_shape", np.asarray(site.array.shape, np.int64), site.first.graph
        )
        kept_shape = ir.Shape(site.array.shape)
        return edit.node(
            "Reshape", [made, shape], like=site.first, shape=kept_shape, dtype=ir.DataType.FLOAT
        ).outputs[0]

    def _initializer(self, edit: Editor, site: Site, what: str, array: np.ndarray) -> ir.Value:
        """A new initializer in place of the weight's."""
        made = edit.initializer(f"{site.name}_{what}", array, site.first.graph)
        if SPARSE_KEY in site.value.metadata_props:
            made.metadata_props[SPARSE_KEY] = site.value.metadata_props[SPARSE_KEY]
        return made

    def _fitted(self, site: Site, scale: np.ndarray) -> np.ndarray | None:
        """The weight on its grid as its product wants it; ``None`` for the nearest integers.

        Weights to be stored without their zeros keep every zero only when each is rounded by itself.
        """
        if self.options.rounding == "nearest" or SPARSE_KEY in site.value.metadata_props:
            return None
        limit = 2 ** (self._bits(site) - 1) - 1
        steps, places = np.unique(scale, return_inverse=True)
        numbers = steps.astype(np.float64)

        def nearest(column: np.ndarray, where: np.ndarray) -> np.ndarray:
            step = numbers[where]
            return np.clip(np.rint(column / step), -limit, limit) * step

        made = fitted(site, self.options.inputs, places.reshape(scale.shape), nearest)
        if made is None:
            self.note(source_of(site.node), "rounded to nearest: its input was not seen")
        return made

    def _bits(self, site: Site) -> int:
        return self.options.widths.get(site.node.name or "", self.options.bits)

    def _scale(self, site: Site, weight: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return best_scale(weight, axes, self._bits(site), fit=self.options.fit)

    def _quantiser(
        self, edit: Editor, site: Site, value: ir.Value, scale: np.ndarray, zero: np.ndarray | int = 0
    ) -> ir.Value:
        return quantiser(
            edit, site.first, value, scale, self._bits(site), signed=True, narrow=self.options.symmetric,
            zero=zero, name=site.name, source=site.node,
        )  # fmt: skip


def block_length(site: Site, options: WeightOptions) -> int | None:
    """Weights in a block; ``None`` for other granularities and where no block is longer than 1."""
    if options.granularity != "block":
        return None
    length = divisor(site.array.shape[site.into], options.block)
    return None if length == 1 else length


def by_scale(site: Site, options: WeightOptions) -> tuple[np.ndarray, tuple[int, ...]]:
    """A view of the weight in the shape that its scales belong to, and its axes that share one scale."""
    length = block_length(site, options)
    view, kept = site.array, {site.out} if options.granularity != "tensor" else set()
    if length is not None:
        view = grouped(site.array, site.into, length)
        kept = {site.into, site.out + (site.out > site.into)}
    return view, tuple(axis for axis in range(view.ndim) if axis not in kept)


def scale_bits(site: Site, options: WeightOptions) -> int:
    """Bits stored beside the integers of a weight: a float32 for each scale, 8 for its zero point if any."""
    view, axes = by_scale(site, options)
    count = math.prod(size for axis, size in enumerate(view.shape) if axis not in axes)
    return count * (32 if options.symmetric else 40)


def rounding_error(site: Site, bits: int, options: WeightOptions) -> float:
    """Sum of squares that rounding each weight to nearest changes it by."""
    view, axes = by_scale(site, options)
    if options.symmetric:
        scale = best_scale(view, axes, bits, fit=options.fit)
        return float(_errors(view, scale, tuple(range(view.ndim)), 2 ** (bits - 1) - 1).sum())
    scale, zero = asymmetric(view, axes, bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    made = (np.clip(np.rint(view / scale + zero), low, high) - zero) * scale
    return float(np.square(made - view, dtype=np.float64).sum())


def asymmetric(weight: np.ndarray, axes: tuple[int, ...], bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales and whole zero points of grids from the smallest to the largest weight along ``axes``."""
    low = np.minimum(weight.min(axis=axes, keepdims=True), 0.0)
    high = np.maximum(weight.max(axis=axes, keepdims=True), 0.0)
    steps = 2**bits - 1
    scale = half_above(np.where(high > low, high - low, 1.0) / steps)
    zero = np.clip(np.rint(-(2.0 ** (bits - 1)) - low / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return scale, zero.astype(np.float32)


def best_scale(weight: np.ndarray, axes: tuple[int, ...], bits: int, *, fit: str = "mse") -> np.ndarray:
    """One scale for all weights along ``axes``: float32 that fp16 holds, ``axes`` kept with length 1.

    A scale is rounded up to fp16, so the largest weight stays inside the grid under ``absmax``. Where all
    weights are 0 it is 1 / limit.
    """
    limit = 2 ** (bits - 1) - 1
    peak = np.abs(weight).max(axis=axes, keepdims=True, initial=0.0)
    best = half_above(np.where(peak > 0, peak, 1.0) / limit)
    if fit == "absmax" or bits >= 8:
        return best
    whole, least = best, _errors(weight, best, axes, limit)
    for share in SHRINKS[1:]:
        scale = half_above(whole * np.float32(share))
        error = _errors(weight, scale, axes, limit)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def half_above(scale: np.ndarray) -> np.ndarray:
    """The smallest fp16 number not below each ``scale``, as float32; what is too large for fp16 stays."""
    scale = np.asarray(scale, np.float32)
    inside = np.clip(scale, SMALLEST_HALF, LARGEST_HALF).astype(np.float32)
    half = inside.astype(np.float16)
    largest = np.float16(LARGEST_HALF)
    up = np.where(half.astype(np.float32) < inside, np.nextafter(half, largest), half)
    return np.where(scale <= LARGEST_HALF, up.astype(np.float32), scale)


def _errors(weight: np.ndarray, scale: np.ndarray, axes: tuple[int, ...], limit: int) -> np.ndarray:
    """Squared error that rounding leaves, summed over ``axes``, in slabs along the first axis."""
    rows = max(1, SLAB // max(1, weight[0].size))
    parts = []
    for at in range(0, len(weight), rows):
        part = weight[at : at + rows]
        step = scale if scale.shape[0] == 1 else scale[at : at + rows]
        grid = np.rint(part / step)
        np.clip(grid, -limit, limit, out=grid)
        parts.append(np.square(grid * step - part).sum(axis=axes, keepdims=True, dtype=np.float64))
    return np.sum(parts, axis=0) if 0 in axes else np.concatenate(parts)
