"""Tables of latencies that widths are chosen by: seconds of each layer at each pair of widths.

::

    {"version": 1, "seconds": {"LAYER": {"w4a8": 1.2e-4, "w8a8": 2.1e-4}, ...}}

Weights of 4 bits and inputs of 8 are ``w4a8``, inputs in float ``a32``. Whoever has measured layers on a
device, or has a model of it, writes such a file; nothing here guesses a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rubicc.errors import RubiccError, UsageError
from rubicc.evidence.manifest import read_json
from rubicc.passes.quantize.assign import Pair

VERSION, LONGEST = 1, 1e9
_PAIR = re.compile(r"w([1-9]\d?)a([1-9]\d?)")


def read_latency(path: str | Path) -> dict[str, dict[Pair, float]]:
    """Seconds by layer and (weight bits, activation bits).

    Raises:
        UsageError: ``RUB-SHRINK-076``: no such file, or one of another form.
    """
    path = Path(path)
    try:
        data = read_json(path.parent, path.name)
    except RubiccError as err:
        raise _bad(path, err.what) from err
    if set(data) != {"version", "seconds"} or data["version"] != VERSION or isinstance(data["version"], bool):
        raise _bad(path, f"it has the keys {', '.join(map(str, data))[:80] or 'none'}")
    rows = data["seconds"]
    if not isinstance(rows, dict) or not rows:
        raise _bad(path, "'seconds' holds no layers")
    return {name: _row(path, name, row) for name, row in rows.items()}


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


def total(table: Mapping[str, Mapping[Pair, float]], widths: Mapping[str, int], activations: int) -> float:
    """Seconds of all layers at these widths."""
    return sum(table[name][width, activations] for name, width in widths.items())


def _bad(path: Path, what: str) -> UsageError:
    form = '{"version": 1, "seconds": {"LAYER": {"w4a8": 0.0001}}}'
    return UsageError("RUB-SHRINK-076", what, where=str(path), hint=f"write seconds above 0 as in {form}")
