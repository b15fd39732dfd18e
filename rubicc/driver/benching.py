"""Times of artefacts whose target has no measuring of its own: sessions on recorded inputs, in turns."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rubicc.backends.cpu_gpu.bench import Bench, BenchRow, Comparison
from rubicc.driver.artefact import Artefact
from rubicc.driver.vectors import read_npz
from rubicc.errors import ToolMissing, UsageError
from rubicc.evidence import measure


def bench_sessions(
    artefacts: Mapping[str, Artefact],
    runtimes: Sequence[str],
    seconds: float,
    accuracy: Mapping[tuple[str, str], float],
) -> Bench:
    """Measure every runtime of every artefact, each on the inputs recorded in ``verify/``.

    Where the target's own device is not here, that is said under ``left_out``: what runs instead proves the
    files, and its time is not the device's.

    Args:
        runtimes: ``all`` = those each artefact offers here.

    Raises:
        UsageError: ``RUB-DRV-007`` none of the runtimes is there.
    """
    rows: list[BenchRow] = []
    comparisons: list[Comparison] = []
    left_out: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        opened: dict[str, tuple[str, Any, dict[str, Any], float]] = {}
        for name, artefact in artefacts.items():
            feeds = read_npz(artefact.folder / "verify" / "inputs.npz")
            for runtime in _offered(artefact, runtimes):
                label = " ".join(part for part in (name, runtime) if part)
                start = time.perf_counter()
                try:
                    session = stack.enter_context(artefact.session(runtime=runtime))
                except ToolMissing as err:
                    left_out[label] = err.what
                    continue
                opened[label] = (name, session, feeds, time.perf_counter() - start)
        if not opened:
            raise UsageError("RUB-DRV-007", "nothing to measure", hint=f"none runs in {', '.join(runtimes)}")
        calls = {label: functools.partial(one[1].run, one[2]) for label, one in opened.items()}
        timings = measure.interleave(calls, seconds, max_rounds=100_000)
        first = next(iter(timings))
        for label, (name, session, feeds, load) in opened.items():
            shapes = ", ".join(f"{key} {'x'.join(map(str, array.shape))}" for key, array in feeds.items())
            array = next(iter(feeds.values()))
            timing = timings[label]
            ratio = timings[first].median / timing.median
            verdict = measure.compare(timing, timings[first])
            if label != first:
                comparisons.append(Comparison(first, label, shapes, ratio, verdict))
            rows.append(
                BenchRow(
                    name=label,
                    runtime=session.runtime,
                    threads=1,
                    streams=1,
                    shapes=shapes,
                    positions_per_second=array.shape[0] * array.shape[-1] / timing.median,
                    timing=timing.to_dict(),
                    load_seconds=round(load, 4),
                    peak_bytes=None,
                    speed=ratio,
                    verdict=verdict,
                    snr_db=accuracy.get((name, session.runtime)),
                )
            )
    device = {getattr(artefact.backend, "device_runtime", "") for artefact in artefacts.values()}
    if not device & {row.runtime for row in rows}:
        left_out["the device"] = "not on this machine; the times above are those of the proof's interpreter"
    return Bench(tuple(rows), tuple(comparisons), left_out)


def _offered(artefact: Artefact, wanted: Sequence[str]) -> list[str]:
    with artefact.session() as session:
        known = list(getattr(session, "runtimes", (session.runtime,)))
    return known if "all" in wanted else [name for name in wanted if name in known]
