"""Devices as data: sources, unknown facts refused, overrides checked."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from rubicc.backends.aie.plan.devices import NEEDED, Shape, device, names
from rubicc.errors import Unsupported, UsageError


@pytest.mark.parametrize("name", names())
def test_every_fact_has_a_source(name: str) -> None:
    made = device(name)
    assert set(made.facts) == set(made.sources) >= set(NEEDED)
    assert all(len(source) > 2 for source in made.sources.values())


def test_multiplications_have_sources() -> None:
    text = resources.files("rubicc.backends.aie.plan").joinpath("devices.json").read_text()
    rows = [row for g in json.loads(text)["generations"].values() for row in g["mmul"].values()]
    assert len(rows) >= 9 and all(row["source"] and row["cycles"] >= 1 for row in rows)


@pytest.mark.parametrize(
    ("name", "part", "tiles", "clock"), [("vck190", "VC1902", 400, 1250e6), ("VEK280", "VE2802", 304, 1250e6),
                                         ("2ve3858", "2VE3858", 144, 1050e6)],
)  # fmt: skip
def test_published_numbers(name: str, part: str, tiles: int, clock: float) -> None:
    made = device(name)
    assert (made.part, made.tiles, made.clock) == (part, tiles, clock)
    assert made.plio_bytes() * made.clock == pytest.approx(5e9), "a PLIO moves 5 GB/s"


@pytest.mark.parametrize(
    ("name", "widths", "macs"), [("vck190", (8, 8), 128), ("vck190", (16, 8), 64), ("vck190", (16, 16), 32),
                                 ("vek280", (8, 8), 256), ("vek280", (8, 4), 512), ("vek280", (16, 8), 128),
                                 ("vek280", (16, 16), 64), ("vek385", (8, 8), 512), ("vek385", (8, 4), 1024)],
)  # fmt: skip
def test_rates_are_the_vendors(name: str, widths: tuple[int, int], macs: int) -> None:
    shape = device(name).shapes[widths]
    assert isinstance(shape, Shape) and shape.macs == macs


def test_an_unknown_fact_is_refused_until_it_is_given() -> None:
    with pytest.raises(Unsupported) as raised:
        device("vek385")["memory_tile_rows"]
    assert raised.value.code == "RUB-AIE-202" and "memory_tile_rows=NUMBER" in raised.value.hint
    given = device("vek385", {"memory_tile_rows": 1})
    assert given["memory_tile_rows"] == 1 and given.given == ("memory_tile_rows",)
    assert given.sources["memory_tile_rows"] == "given by option"


@pytest.mark.parametrize("name", ["", "vek", "vek281", "xdna1", "../vek280", "vek280;rm"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as raised:
        device(name)
    assert raised.value.code == "RUB-AIE-201" and "vek280" in raised.value.hint


@pytest.mark.parametrize(
    "given", [{"colums": 3}, {"columns": 0}, {"columns": -1}, {"columns": 2.5}, {"columns": True},
              {"clock_mhz": "fast"}, {"clock_mhz": float("nan")}, {"clock_mhz": 1e9}, {"cascade_steps": 1}],
)  # fmt: skip
def test_facts_that_mean_nothing_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(UsageError) as raised:
        device("vek280", given)
    assert raised.value.code == "RUB-AIE-203"
