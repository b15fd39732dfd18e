"""What a wide convolution kernel costs in each exact form, and which form is best.

A model of the M1's Neural Engine as published by people who measured it: every node takes the longer of its
arithmetic and its traffic (ane-guide, chapter 18: 3.25 TFLOP/s in fp16; effective 40 GB/s), plus an assumed
microsecond, because programs load and start slower the more nodes they have. Times of whole networks it
predicts badly (that source: 31 percent off in the median); it only ranks forms of one convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rubicc.passes.layout.phases import Geometry, fold, macs_per_output

FormName = Literal["phases", "tall", "sum"]
MACS_PER_NS = 1625.0  # 3.25 TFLOP/s
BYTES_PER_NS = 40.0
NODE_NS = 1000.0
HALF = 2  # bytes of a number
LIMIT = (
    13  # taps, dilated: ane-guide chapter 17; "(dilated)kernel width = 28 > 13", hollance/neural-engine #2
)
# Products of two of 1, 2, 3, 4, 8: the engine's compiler splits strides so (coremltools #2173), and loading a
# convolution of stride 5 or 7 was seen not to end (coremltools #2473).
STRIDES = frozenset((1, 2, 3, 4, 6, 8, 9, 12, 16, 24, 32, 64))
GROWTH = 1.5  # times the weights that a grouped convolution may get where nobody asks for a form
UNKNOWN_LENGTH = 4096  # where time is symbolic; only ratios matter


@dataclass(frozen=True)
class Form:
    """One exact form of a convolution.

    Attributes:
        name: ``phases``, ``tall`` or ``sum``.
        parts: phases s; rows of the tall kernel; addends.
        nodes: operators it takes, the original Conv being one.
        macs: multiplications, as a multiple of the original ones.
        weights: numbers in its kernels, as a multiple of the original ones.
        nanoseconds: by the model above.
    """

    name: FormName
    parts: int
    nodes: int
    macs: float
    weights: float
    nanoseconds: float


def extent(taps: int, dilation: int) -> int:
    """Positions a kernel spans."""
    return dilation * (taps - 1) + 1


def taps_within(limit: int, dilation: int) -> int:
    """Most taps whose kernel spans no more than ``limit`` positions."""
    return (limit - 1) // dilation + 1


def split(taps: int, limit: int, dilation: int) -> list[int]:
    """Taps of each addend: as few addends as possible, of sizes that differ by at most one."""
    count = -(-taps // taps_within(limit, dilation))
    small, more = divmod(taps, count)
    return [small + 1] * more + [small] * (count - more)


def forms(geometry: Geometry, limit: int, length: int | None, *, rows: bool = True) -> list[Form]:
    """Every form that can be had, with its cost.

    Args:
        length: of the input where it is a number; phases need one (the last step must be cut).
        rows: whether the kernel and the input have one row, so that more can be stacked.
    """
    found = [_sum(geometry, limit, length or UNKNOWN_LENGTH)]
    if rows:
        stacked = _tall(geometry, limit, length or UNKNOWN_LENGTH)
        if stacked.parts <= limit:
            found.append(stacked)
    if rows and length is not None:
        found += [_phases(geometry, count, length) for count in phase_counts(geometry, limit)]
    return found


def phase_counts(geometry: Geometry, limit: int) -> list[int]:
    """Phases whose three kernels (into them, between, back) stay within ``limit``, by known strides."""
    most, plain = limit // geometry.stride, unpadded(geometry)
    counts = [n for n in range(2, most + 1) if {n, n * geometry.stride} <= STRIDES]
    return [count for count in counts if fold(plain, count).taps <= limit]


def unpadded(geometry: Geometry) -> Geometry:
    """The same kernel without padding: what folds its weights, wherever the zeros before are put."""
    return replace(geometry, before=0, after=0)


def lean(found: list[Form], geometry: Geometry) -> list[Form]:
    """Those that keep a package small: phases mix channels, so grouped kernels become many times as large."""
    return [form for form in found if geometry.groups == 1 or form.weights <= GROWTH] or found


def best(found: list[Form], wanted: FormName | Literal["auto"]) -> Form | None:
    """The fastest form, or the fastest of the kind ``wanted``; ``None`` where there is none of it."""
    if wanted != "auto":
        found = [form for form in found if form.name == wanted]
    return min(found, key=lambda form: form.nanoseconds, default=None)


def _out(geometry: Geometry, length: int) -> int:
    return max((length + geometry.excess) // geometry.stride + 1, 1)


def _sizes(geometry: Geometry, length: int) -> tuple[int, int, float]:
    """Bytes of input and output, and products of the plain convolution."""
    g = geometry
    out = _out(g, length)
    whole_in, whole_out = g.groups * g.inputs * length * HALF, g.groups * g.outputs * out * HALF
    return whole_in, whole_out, float(g.groups * g.outputs * g.inputs * g.taps * out)


def _time(*nodes: tuple[float, float]) -> float:
    """Of nodes given as (products, bytes)."""
    return sum(max(macs / MACS_PER_NS, moved / BYTES_PER_NS) + NODE_NS for macs, moved in nodes)


def _kernel(geometry: Geometry) -> int:
    """Bytes of the plain kernel, which are streamed like activations."""
    g = geometry
    return g.groups * g.outputs * g.inputs * g.taps * HALF


def _sum(geometry: Geometry, limit: int, length: int) -> Form:
    whole_in, whole_out, macs = _sizes(geometry, length)
    parts = split(geometry.taps, limit, geometry.dilation)
    nodes = [(0.0, 2.0 * whole_in)] * (1 + len(parts))
    shares = [taps / geometry.taps for taps in parts]
    nodes += [(macs * share, whole_in + whole_out + _kernel(geometry) * share) for share in shares]
    nodes += [(0.0, 3.0 * whole_out)] * (len(parts) - 1)
    return Form("sum", len(parts), len(nodes), 1.0, 1.0, _time(*nodes))


def _tall(geometry: Geometry, limit: int, length: int) -> Form:
    whole_in, whole_out, macs = _sizes(geometry, length)
    parts = split(geometry.taps, limit, geometry.dilation)
    rows, wasted = len(parts), len(parts) * max(parts) / geometry.taps
    nodes = [(0.0, 2.0 * whole_in)] * (1 + rows)
    nodes += [
        (0.0, 2.0 * rows * whole_in),
        (macs * wasted, rows * whole_in + whole_out + _kernel(geometry) * wasted),
    ]
    return Form("tall", rows, len(nodes), wasted, wasted, _time(*nodes))


def _phases(geometry: Geometry, count: int, length: int) -> Form:
    whole_in, whole_out, macs = _sizes(geometry, length)
    g = geometry
    folded = macs * macs_per_output(unpadded(g), count) / (g.inputs * g.taps)
    moves = g.groups * g.inputs * length * count * g.stride, g.groups * g.outputs * _out(g, length) * count
    weights = count * folded / macs  # a kernel of count times as many positions is used at fewer places
    nodes = (
        (float(moves[0]), 2.0 * whole_in),
        (folded, whole_in + whole_out + _kernel(g) * weights),
        (float(moves[1]), 2.0 * whole_out),
    )
    return Form("phases", count, 3, (folded + sum(moves)) / macs, weights, _time(*nodes))
