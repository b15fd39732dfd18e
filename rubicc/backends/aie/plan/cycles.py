"""Cycles of a kernel from its schedule, calibrated on every published figure we know.

An innermost loop costs ``entries * (trips * II + around)``. II is the busiest slot of the machine: the
multiplier, the load unit of the data, the load unit of the weights, the store unit, the vector and the scalar
unit. ``around`` is what filling and draining the pipeline, setting up accumulators, requantising and storing
cost where the compiler cannot overlap them; it is the one fitted number, by generation and by how the loop
is built (``flat`` or not), the mean over the published figures of that kind. The ratios published / estimated
that remain, each of a model fitted without that figure, are the band of every estimate. The published kernels
are not ours: what ours do in a compiler has never been measured here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from rubicc.backends.aie.plan.devices import Device, Shape
from rubicc.backends.aie.plan.variant import Estimate, Loop, Schedule, Variant, Work

# Generation -> bytes of one load and of one store (devices.json repeats them with sources).
_WIDTHS = {"AIE": (32, 32), "AIE-ML": (32, 32), "AIE-MLv2": (64, 64)}


@dataclass(frozen=True)
class Figure:
    """A published figure beside its estimate.

    Attributes:
        name, generation, source: what was measured, where and by whom.
        published, estimated: cycles.
        unseen: estimate of a model fitted without this figure.
    """

    name: str
    generation: str
    source: str
    published: float
    estimated: float
    unseen: float

    @property
    def error(self) -> float:
        """(estimated - published) / published."""
        return self.estimated / self.published - 1


@cache
def _published() -> dict[str, Any]:
    text = resources.files("rubicc.backends.aie.plan").joinpath("published.json").read_text("utf-8")
    return json.loads(text)


def constant(name: str) -> float:
    """``call``, ``hop`` (cycles) or ``load_bytes`` of the published table."""
    return float(_published()["constants"][name]["value"])


def _loop_of(figure: dict[str, Any]) -> Loop:
    """The published kernels as loops: 2 x 2 register blocks in dense ones, rows of up to 16 pixels by one or
    two blocks of 8 channels in convolutions (aie4ml's public kernels)."""
    m, k, n = figure["shape"]
    if figure["kernel"] == "dense":
        rows, columns = math.ceil(figure["rows"] / m), math.ceil(figure["outputs"] / n)
        two, wide = min(2, rows), min(2, columns)
        trips = math.ceil(figure["inputs"] / k)
        issues = two * wide * max(1, m * k * n / 256)
        loop = Loop("mac", math.ceil(rows / two) * math.ceil(columns / wide), trips, issues, two * m * k)
        return replace(loop, weight=wide * k * n, flat=True)
    side, blocks = figure["side"], math.ceil(figure["outputs"] / 8)
    together = min(side, {"AIE": 4}.get(figure["generation"], 16))
    tiles = math.ceil(together / m)
    loop = Loop(
        "taps", side * math.ceil(side / together), 9 * math.ceil(figure["inputs"] / 8), tiles * blocks
    )
    return replace(loop, data=tiles * m * 8, weight=64 * blocks, unaligned=1)


def initiation(loop: Loop, generation: str) -> float:
    """Cycles between iterations: the busiest slot."""
    load, store = _WIDTHS[generation]
    data = math.ceil(loop.data / load) + loop.unaligned if loop.data else 0
    weight = math.ceil(loop.weight / load)
    both = (data + weight) / 2
    return max(1.0, loop.mac, data, weight, both, math.ceil(loop.store / store), loop.vector, loop.scalar)


@cache
def around(generation: str, flat: bool, without: int = -1) -> float:
    """Cycles around one entry of a loop, fitted: the mean over the published figures of this kind.

    Flat loops were published for AIE-ML only; other generations take its value.

    Args:
        generation: of the array.
        flat: kind of loop.
        without: index of a figure to leave out.
    """
    kind = "dense" if flat else "conv"
    rests = []
    for at, figure in enumerate(_published()["figures"]):
        if at != without and figure["kernel"] == kind and (flat or figure["generation"] == generation):
            loop = _loop_of(figure)
            inside = loop.entries * loop.trips * initiation(loop, figure["generation"])
            rests.append((figure["cycles"] - constant("call") - inside) / loop.entries)
    return max(0.0, sum(rests) / len(rests))


def loop_cycles(loop: Loop, generation: str, without: int = -1) -> float:
    """Cycles of all entries of a loop; ``without``: see :func:`around`."""
    once = loop.trips * initiation(loop, generation) + loop.outer + around(generation, loop.flat, without)
    return loop.entries * once if loop.trips else 0.0


@cache
def figures() -> tuple[Figure, ...]:
    """Every published figure with its estimate."""
    made = []
    for at, row in enumerate(_published()["figures"]):
        loop, generation = _loop_of(row), row["generation"]
        both = [constant("call") + loop_cycles(loop, generation, without) for without in (-1, at)]
        made.append(Figure(row["name"], generation, row["source"], row["cycles"], *both))
    return tuple(made)


@cache
def band(generation: str) -> tuple[float, float]:
    """Factors (low, high) that turn an estimate into its band: the extremes of published / estimated, each
    figure estimated without itself, over ``generation`` and AIE-ML (which has the most figures)."""
    near = [f.published / f.unseen for f in figures() if f.generation in (generation, "AIE-ML")]
    return min(1.0, *near), max(1.0, *near)


def whole_designs() -> tuple[tuple[str, float, tuple[float, float], str], ...]:
    """Published shares of the peak of whole designs beside the share our model gives the kernel alone:
    ``(name, estimated share, (low, high) published, why it does not calibrate)``."""
    made = []
    for row in _published()["wholes"]:
        m = 8 if row["generation"] == "AIE-MLv2" else 4
        peak = 512 if m == 8 else 256
        loop = replace(_loop_of(row | {"kernel": "dense", "shape": [m, 8, 8]}), mac=4.0)
        cycles = constant("call") + loop_cycles(loop, row["generation"])
        share = row["rows"] * row["inputs"] * row["outputs"] / peak / cycles
        made.append(
            (row["name"], share, (row["share"][0], row["share"][1]), f"{row['why']} ({row['source']})")
        )
    return tuple(made)


def assumptions(generation: str) -> dict[str, str]:
    """Every assumption of the model, by name."""
    low, high = band(generation)
    return {
        "call": f"{constant('call'):.0f} cycles per call: {_published()['constants']['call']['source']}",
        "locks": "16 cycles per buffer port and call for taking and giving its lock; no published figure",
        "initiation": "an iteration takes as long as its busiest slot: multiplier, load unit of data, load "
        "unit of weights (32 bytes a cycle each, 64 on AIE-MLv2), store unit, vector unit, scalar unit",
        "around": f"{around(generation, False):.1f} cycles around an entry of a loop of taps, "
        f"{around(generation, True):.1f} where the loops are flattened: fitted to the published figures",
        "unaligned": "data that begins between two vectors costs one more load per iteration",
        "banks": "no stalls by bank conflicts: ping, pong and weights lie apart; the published figures "
        "contain what remains",
        "lookup": "2 scalar cycles per table entry; no published figure",
        "scalar": "40 cycles per integer division and 96 per integer root on the scalar unit (attention, "
        "layer normalisation); no published figure",
        "blanking": "zeros between sequences are written by the scalar unit once per sequence; not counted",
        "cascade": f"an accumulator of 4 x 8 is two words of 512 bits, one a cycle; "
        f"{constant('hop'):.0f} cycles of latency per hop",
        "streams": "4 bytes a cycle (8 on AIE-MLv2), no contention between circuit-switched streams; a "
        "memory tile stores a buffer before it passes it on",
        "band": f"published / estimated, each figure left out of the fit in turn, lies between {low:.2f} and "
        f"{high:.2f}; applied to every kernel, though the published kernels are not ours",
        "program": "6 KB of program memory per kernel, 10 KB for recurrent ones; not compiled here",
    }


def schedule_cycles(schedule: Schedule, generation: str) -> float:
    """Cycles of one call."""
    loops = sum(loop_cycles(loop, generation) for loop in schedule.loops)
    return constant("call") + LOCK_CYCLES * schedule.locks + loops


LOCK_CYCLES = 16


def kernel_cycles(variant: Variant, work: Work, device: Device, shape: Shape) -> Estimate:
    """Cycles of one call of a kernel.

    Args:
        variant: how the kernel is built.
        work: what one tile computes per work unit.
        device: gives the generation.
        shape: native multiplication used.
    """
    cycles = schedule_cycles(variant.schedule(work, shape), device.generation)
    low, high = band(device.generation)
    return Estimate(cycles, cycles * low, cycles * high, assumptions(device.generation))
