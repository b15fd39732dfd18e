"""Makes a graph integer-only; the graph given stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rubicc.backends.aie.check import LEAST_SHARE, shared_out
from rubicc.backends.aie.extract import extract
from rubicc.backends.aie.plan import devices
from rubicc.backends.aie.session import RUNTIMES
from rubicc.backends.base import Prepared, Target
from rubicc.errors import UsageError
from rubicc.ir.graph import Graph

Arrays = Mapping[str, np.ndarray]
DEFAULT_DEVICE = "vek280"
# Bits of values and weights; None: as the model's own quantisers say, 8 x 8 where it has none.
PRECISIONS: dict[str, tuple[int, int] | None] = {
    "int8": (8, 8),
    "w8a16": (16, 8),
    "int16": (16, 16),
    "mixed": None,
}
OBJECTIVES = ("throughput", "latency", "tiles")


def prepare(
    graph: Graph,
    target: Target,
    *,
    precision: str = "int8",
    layout: str = "auto",
    runtime: str = "auto",
    objective: str = "throughput",
    feeds: Arrays | None = None,
    calib: Sequence[Arrays] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **_: Any,
) -> Prepared:
    """The integer-only form of ``graph``, behind the pipeline of this target.

    Args:
        precision: key of :data:`PRECISIONS`.
        feeds, calib: what is seen of the values; calibration data where there is some.

    Raises:
        UsageError: an impossible combination (``RUB-AIE-001``).
        Unsupported: ``RUB-PASS-03x``, ``RUB-AIE-10x``: what integers cannot be.
    """
    from rubicc.passes.integer import fit

    possible(target, precision, runtime, layout, objective)
    share = shared_out(graph)
    made = fit.quantise(graph, list(calib) or ([feeds] if feeds is not None else []), widths(precision))
    extract(made.graph, target)  # the table of what the array cannot take, before anything is planned
    evidence = {**made.evidence, "array_share": round(share.part, 4), "least_share": LEAST_SHARE}
    return Prepared(made.graph, made.decisions, evidence, {"precision": precision, "layout": layout})


def widths(precision: str) -> Any:
    """Options of the integer passes for a precision."""
    from rubicc.passes.integer import fit

    asked = PRECISIONS[precision]
    if asked is None:
        return fit.Options(own_widths=True)
    bits, weight_bits = asked
    return fit.Options(bits=bits, weight_bits=weight_bits, entry_bits=bits, own_widths=False)


def possible(target: Target, precision: str, runtime: str, layout: str, objective: str) -> None:
    """Refuse what cannot be, whatever the model.

    Raises:
        UsageError: ``RUB-AIE-001``.
    """
    problems = [
        (precision not in PRECISIONS, f"precision {precision!r}", f"one of {', '.join(PRECISIONS)}"),
        (runtime not in ("auto", *RUNTIMES), f"runtime {runtime!r}", f"one of auto, {', '.join(RUNTIMES)}"),
        (layout == "polyphase", "layout 'polyphase'", "this target packs strided layers by itself"),
        (objective not in OBJECTIVES, f"objective {objective!r}", f"one of {', '.join(OBJECTIVES)}"),
    ]
    for wrong, what, hint in problems:
        if wrong:
            raise UsageError("RUB-AIE-001", f"{what} means nothing here", where=f"target {target}", hint=hint)


def device_of(target: Target) -> str:
    """The device that a target means."""
    assert DEFAULT_DEVICE in devices.names()
    return target.device or DEFAULT_DEVICE
