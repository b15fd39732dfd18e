"""Cycle model: every published figure, the band, and that estimates follow the slots."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rubicc.backends.aie.plan import cycles, variants
from rubicc.backends.aie.plan.devices import device
from rubicc.backends.aie.plan.variant import Loop, Schedule, Work

GROUPED = Work("conv", 64, out_blocks=4, in_blocks=4, taps=115, reach=114, channels=32)
POINTWISE = Work("conv", 64, out_blocks=8, in_blocks=28, depth=28, channels=64, together=64)


@pytest.mark.parametrize("figure", cycles.figures(), ids=lambda f: f"{f.name} {f.generation}")
def test_published_figures_lie_in_the_band(figure: cycles.Figure) -> None:
    low, high = cycles.band(figure.generation)
    assert low * figure.unseen <= figure.published * (1 + 1e-9)
    assert figure.published <= high * figure.unseen * (1 + 1e-9)
    assert abs(figure.error) < 0.25, "the model of this kernel says nothing"
    assert figure.source


def test_the_band_comes_from_figures_the_fit_has_not_seen() -> None:
    low, high = cycles.band("AIE-ML")
    ratios = [f.published / f.unseen for f in cycles.figures() if f.generation == "AIE-ML"]
    assert (low, high) == (min(ratios), max(ratios)) and low < 0.95 and high > 1.05
    seen = [f.published / f.estimated for f in cycles.figures() if f.generation == "AIE-ML"]
    assert high > max(seen), "leaving a figure out must hurt"


def test_whole_designs_are_compared_and_explained() -> None:
    rows = cycles.whole_designs()
    assert len(rows) == 2 and all(0 < high < share <= 1 and why for _, share, (_, high), why in rows)


@pytest.mark.parametrize("slot", ["mac", "store", "vector", "scalar", "data", "weight"])
def test_the_busiest_slot_sets_the_pace(slot: str) -> None:
    base = Loop("x", 10, 100, mac=1, data=32, weight=32, store=32, vector=1, scalar=1)
    assert cycles.initiation(base, "AIE-ML") == 1
    wide = {"data": 128, "weight": 128, "store": 128}
    slow: Loop = replace(base, **{slot: wide.get(slot, 4)})  # type: ignore[arg-type]
    assert cycles.initiation(slow, "AIE-ML") == 4
    assert cycles.loop_cycles(slow, "AIE-ML") - cycles.loop_cycles(base, "AIE-ML") == 10 * 100 * 3


def test_unaligned_data_costs_a_load() -> None:
    loop = Loop("x", 1, 10, mac=4, data=128, weight=64)
    assert cycles.initiation(loop, "AIE-ML") == 4
    assert cycles.initiation(replace(loop, unaligned=1), "AIE-ML") == 5


def estimate(work: Work, name: str = "vek280") -> float:
    made = device(name)
    variant = variants.choose(work, made.shapes)
    assert variant is not None
    found = cycles.kernel_cycles(variant, work, made, made.shapes[work.activation, work.weight])
    assert found.low < found.cycles < found.high and found.assumptions["band"]
    return found.cycles


@pytest.mark.parametrize("work", [GROUPED, POINTWISE], ids=["grouped", "pointwise"])
@pytest.mark.parametrize("name", ["vck190", "vek280"])
def test_no_kernel_beats_the_peak(work: Work, name: str) -> None:
    made = device(name)
    for widths, shape in made.shapes.items():
        if widths[1] < 8:
            continue
        wide = replace(work, activation=widths[0], weight=widths[1], stored=widths[0])
        variant = variants.choose(wide, made.shapes)
        assert variant is not None
        macs = variant.schedule(wide, shape).macs
        assert estimate(wide, name) > macs / shape.macs


def test_long_kernels_and_wide_layers_are_multiplier_bound() -> None:
    for work, least in ((GROUPED, 0.75), (POINTWISE, 0.65)):
        variant = variants.choose(work, device("vek280").shapes)
        assert variant is not None
        macs = variant.schedule(work, device("vek280").shapes[8, 8]).macs
        assert least < macs / 256 / estimate(work) < 1


def test_wider_numbers_and_cascades_cost_more() -> None:
    assert estimate(replace(POINTWISE, activation=16, stored=16, depth=56, in_blocks=56)) > estimate(
        POINTWISE
    )
    assert estimate(replace(POINTWISE, cascade_in=True)) > estimate(POINTWISE)
    assert estimate(replace(GROUPED, taps=116)) >= estimate(GROUPED)
    four = replace(POINTWISE, weight=4)
    assert estimate(four) < estimate(POINTWISE), "4-bit weights double the rate where the depth is even"


def test_recurrent_steps_are_counted() -> None:
    cell = Work("gru", 16, out_blocks=12, in_blocks=72, stored=16, hidden=96, table_entries=8192)
    longer = replace(cell, frames=32)
    once, twice = estimate(cell), estimate(longer)
    assert 1.8 < twice / once < 2.0
    assert once / 4 > 3 * 96 * 96 / 64, "a step takes at least its products"


def test_a_schedule_counts_calls_and_locks() -> None:
    empty = Schedule((), 3, 0)
    assert cycles.schedule_cycles(empty, "AIE-ML") == cycles.constant("call") + 3 * cycles.LOCK_CYCLES


def test_footprints_hold_weights_and_history() -> None:
    variant = variants.choose(GROUPED, device("vek280").shapes)
    assert variant is not None and variant.name == "conv_sliding"
    sizes = dict(variant.footprint(GROUPED).items)
    assert sizes["weights"] >= 32 * 115 * 8 and sizes["history:in0"] >= 4 * (114 + 64) * 8
    wide = variants.choose(POINTWISE, device("vek280").shapes)
    assert wide is not None and "history:in0" not in dict(wide.footprint(POINTWISE).items)
    two = replace(POINTWISE, ports=2)
    assert dict(wide.footprint(two).items)["history:in0"] >= 28 * 64 * 8, "two ports are gathered"
    assert estimate(two) > estimate(POINTWISE)
