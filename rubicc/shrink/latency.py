"""Tables of latencies, and budgets for them: seconds of each layer at each pair of widths.

::

    {"version": 1, "seconds": {"LAYER": {"w4a8": 1.2e-4, "w8a8": 2.1e-4}, ...}, "band": [0.9, 1.2]}

Weights of 4 bits and inputs of 8 are ``w4a8``, inputs in float ``a32``. Whoever has measured layers on a
device, or has a model of it, writes such a file; nothing here guesses a time. ``band`` may say between which
multiples of the predicted time the true one lies.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rubicc.errors import RubiccError, UsageError
from rubicc.evidence.manifest import read_json
from rubicc.passes.quantize.assign import Pair
from rubicc.quantities import parse_seconds

VERSION, LONGEST = 1, 1e9
LONGEST_BUDGET = 3600.0
_PAIR = re.compile(r"w([1-9]\d?)a([1-9]\d?)")
_KEYS = {"version", "seconds", "band"}


@dataclass(frozen=True)
class Table:
    """What a file says; empty where none was given.

    Attributes:
        seconds: by layer and (weight bits, activation bits).
        band: (low, high) multiples of a predicted time between which the true one lies; None: nobody said.
    """

    seconds: Mapping[str, Mapping[Pair, float]] = field(default_factory=dict)
    band: tuple[float, float] | None = None

    def __bool__(self) -> bool:
        return bool(self.seconds)

    def timed(self, widths: Mapping[str, int], activations: int) -> bool:
        """Whether the table holds all layers at these widths."""
        return bool(self) and all((w, activations) in self.seconds.get(n, {}) for n, w in widths.items())

    def total(self, widths: Mapping[str, int], activations: int) -> float:
        """Seconds of all layers at these widths."""
        return sum(self.seconds[name][width, activations] for name, width in widths.items())

    @property
    def how(self) -> str:
        """Where a time predicted by it comes from, for people."""
        return f"estimate: sum over the table given; {band_words(self.band)}"


def band_words(band: tuple[float, float] | None) -> str:
    """The error band of an estimate, for people."""
    if band is None:
        return "its error is not known"
    return f"error band {band[0]:.3g} to {band[1]:.3g} times"


def read_latency(path: str | Path) -> Table:
    """The table in a file.

    Raises:
        UsageError: ``RUB-SHRINK-076``: no such file, or one of another form.
    """
    path = Path(path)
    try:
        data = read_json(path.parent, path.name)
    except RubiccError as err:
        raise _bad(path, err.what) from err
    wrong = not {"version", "seconds"} <= set(data) <= _KEYS
    if wrong or data["version"] != VERSION or isinstance(data["version"], bool):
        raise _bad(path, f"it has the keys {', '.join(map(str, data))[:80] or 'none'}")
    rows = data["seconds"]
    if not isinstance(rows, dict) or not rows:
        raise _bad(path, "'seconds' holds no layers")
    return Table({name: _row(path, name, row) for name, row in rows.items()}, _band(path, data.get("band")))


def _row(path: Path, layer: str, row: Any) -> dict[Pair, float]:
    if not isinstance(row, dict) or not row:
        raise _bad(path, f"layer {layer[:60]!r} has no pairs of widths")
    made = {}
    for name, seconds in row.items():
        pair = _PAIR.fullmatch(name)
        if pair is None:
            raise _bad(path, f"layer {layer[:60]!r} has {name[:40]!r} for a pair of widths")
        if type(seconds) not in (int, float) or not 0 < seconds <= LONGEST:
            raise _bad(path, f"{name} of layer {layer[:60]!r} is {str(seconds)[:40]!r}")
        made[int(pair[1]), int(pair[2])] = float(seconds)
    return made


def _band(path: Path, band: Any) -> tuple[float, float] | None:
    if band is None:
        return None
    numbers = isinstance(band, list) and len(band) == 2 and all(type(x) in (int, float) for x in band)
    if not numbers or not 0 < band[0] <= 1 <= band[1] <= LONGEST:
        raise _bad(path, f"'band' is {str(band)[:40]!r}, not two multiples around 1")
    return float(band[0]), float(band[1])


def _bad(path: Path, what: str) -> UsageError:
    form = '{"version": 1, "seconds": {"LAYER": {"w4a8": 0.0001}}}'
    return UsageError("RUB-SHRINK-076", what, where=str(path), hint=f"write seconds above 0 as in {form}")


@dataclass(frozen=True)
class LatencyBudget:
    """The latency that a network may have when channels are cut.

    Attributes:
        seconds: at most so many; None: ``share`` of what is predicted before anything is cut.
        table: where predictions come from, or
        target: such as ``aie:vek280``, whose own model makes them.
    """

    seconds: float | None = None
    share: float | None = None
    table: Table = field(default_factory=Table)
    target: str = ""

    def __post_init__(self) -> None:
        given = [value for value in (self.seconds, self.share) if value is not None]
        why = hint = ""
        if len(given) != 1 or not 0 < given[0] < math.inf or (self.share or 0) >= 1:
            why, hint = "a budget of latency is a time above 0, or a share below 100 %", "give 5ms or 50%"
        elif bool(self.table) == bool(self.target):
            why = "a latency is predicted by a table or by a target's own model"
            hint = "give --latency-table FILE or --target T[:device], one of the two"
        if why:
            raise UsageError("RUB-SHRINK-040", why, hint=hint)

    def facts(self) -> dict[str, str]:
        """For the report."""
        budget = f"{self.share:.4g} of what it was" if self.seconds is None else f"{self.seconds:g} s"
        by = self.target or f"a table of {len(self.table.seconds)} layers"
        return {"channels: latency": budget, "channels: latency by": by}

    def limit(self, before: float) -> float:
        """Seconds allowed, where ``before`` is predicted of the network as it was."""
        return self.seconds if self.seconds is not None else (self.share or 0.0) * before


def parse_budget(text: str) -> dict[str, float]:
    """``seconds`` or ``share`` of a :class:`LatencyBudget`: ``5ms``, ``50%``.

    Raises:
        UsageError: ``RUB-SHRINK-040``: neither, such as a number that could be both.
    """
    text = text.strip()
    try:
        if text.endswith("%"):
            return {"share": float(text[:-1]) / 100}
        if not text.endswith("s"):
            raise ValueError("no unit")
        return {"seconds": parse_seconds("--latency", text, "", LONGEST_BUDGET)}
    except (ValueError, UsageError):
        what = f"--latency is {text[:40]!r}, not a time with its unit or a share"
        raise UsageError("RUB-SHRINK-040", what, hint="give for example 5ms or 50%") from None
