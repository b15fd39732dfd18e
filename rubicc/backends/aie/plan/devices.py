"""Devices as data: :file:`devices.json` holds every number with its source; unknown ones are null.

A null is never guessed: whoever needs it gets a refusal that names the option to give it with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from rubicc.errors import Unsupported, UsageError

PARTS = {"vc1902": "vck190", "ve2802": "vek280", "2ve3858": "vek385"}
_INTEGERS = (
    "columns", "rows", "memory_tile_rows", "memory_bytes", "banks", "program_bytes", "load_bits", "loads",
    "store_bits", "stream_bits", "core_streams", "cascade_bits", "dma_channels", "dma_descriptors",
    "column_down", "column_up", "row_streams", "memory_tile_bytes", "memory_tile_channels",
    "memory_tile_descriptors", "plio_bits", "plio_columns", "first_plio_column",
)  # fmt: skip
_NUMBERS = ("clock_mhz", "plio_mhz")
# What a plan cannot be made without.
NEEDED = tuple(name for name in (*_INTEGERS, *_NUMBERS) if name not in ("plio_columns", "program_bytes"))


@dataclass(frozen=True)
class Shape:
    """A native matrix multiplication of (rows x depth) by (depth x columns).

    Attributes:
        m, k, n: frames, input channels, output channels.
        cycles: issue slots it takes.
    """

    m: int
    k: int
    n: int
    cycles: int

    @property
    def macs(self) -> float:
        """Multiplications per cycle."""
        return self.m * self.k * self.n / self.cycles


@dataclass(frozen=True)
class Device:
    """A device of the table.

    Attributes:
        name: board, as in ``aie:vek280``.
        part, generation: silicon.
        facts: value by name; None where unknown. ``given`` names those that came from options.
        sources: where each fact comes from.
        shapes: native multiplications by (activation bits, weight bits).
    """

    name: str
    part: str
    generation: str
    facts: Mapping[str, Any]
    sources: Mapping[str, str]
    shapes: Mapping[tuple[int, int], Shape]
    given: tuple[str, ...] = field(default=())

    def __getitem__(self, fact: str) -> Any:
        """The value of ``fact``.

        Raises:
            Unsupported: RUB-AIE-202, when it is unknown.
        """
        value = self.facts[fact]
        if value is None:
            raise Unsupported(
                "RUB-AIE-202",
                f"{fact} of {self.part} is not known ({self.sources[fact]})",
                where=self.name,
                hint=f"give it with --device-fact {fact}=NUMBER",
            )
        return value

    @property
    def tiles(self) -> int:
        """Cores."""
        return int(self["columns"]) * int(self["rows"])

    @property
    def clock(self) -> float:
        """Hz."""
        return float(self["clock_mhz"]) * 1e6

    @property
    def stream_bytes(self) -> float:
        """Bytes a stream moves per cycle of the cores."""
        return int(self["stream_bits"]) / 8

    def plio_bytes(self) -> float:
        """Bytes a PLIO moves per cycle of the cores."""
        return float(self["plio_bits"]) / 8 * float(self["plio_mhz"]) / float(self["clock_mhz"])


@cache
def _table() -> dict[str, Any]:
    text = resources.files("rubicc.backends.aie.plan").joinpath("devices.json").read_text("utf-8")
    return json.loads(text)


def names() -> tuple[str, ...]:
    """Boards in the table."""
    return tuple(sorted(_table()["boards"]))


def device(name: str, given: Mapping[str, float | int] | None = None) -> Device:
    """The device called ``name`` (board or part, any case).

    Args:
        given: facts that replace the table's, e.g. ``{"clock_mhz": 1000}``.

    Raises:
        UsageError: RUB-AIE-201, no such device; RUB-AIE-203, a fact that does not exist or is no positive
            number.
    """
    key = name.strip().lower()
    key = PARTS.get(key, key)
    boards = _table()["boards"]
    if key not in boards:
        raise UsageError(
            "RUB-AIE-201", f"no AI Engine device {name!r}", hint=f"known: {', '.join(names())}, "
            f"{', '.join(sorted(PARTS))}",
        )  # fmt: skip
    row = dict(boards[key])
    part, generation = row.pop("part"), row.pop("generation")
    rows = dict(_table()["generations"][generation])
    shapes = {_widths(k): Shape(*(*v["shape"], v["cycles"])) for k, v in rows.pop("mmul").items()}
    rows |= row
    facts = {fact: entry["value"] for fact, entry in rows.items()}
    sources = {fact: entry["source"] for fact, entry in rows.items()}
    for fact, value in (given or {}).items():
        facts[fact] = _checked(fact, value, facts)
        sources[fact] = "given by option"
    return Device(key, part, generation, facts, sources, shapes, tuple(sorted(given or {})))


def _widths(text: str) -> tuple[int, int]:
    activation, weight = text.split("x")
    return int(activation), int(weight)


def _checked(fact: str, value: float | int, facts: Mapping[str, Any]) -> float | int:
    whole = fact in _INTEGERS and isinstance(value, int) and not isinstance(value, bool)
    broken = fact in _NUMBERS and isinstance(value, (int, float)) and not isinstance(value, bool)
    if fact not in facts or not (whole or broken) or not 0 < value < 1e6 + 1:
        raise UsageError(
            "RUB-AIE-203",
            f"{fact}={value!r} is no fact of a device that can be given",
            hint=f"positive numbers for one of: {', '.join((*_INTEGERS, *_NUMBERS))}",
        )
    return value
