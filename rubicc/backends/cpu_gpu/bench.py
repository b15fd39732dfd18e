"""Measures artefacts on this machine: throughput, latency percentiles, memory, and how noisy it was."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rubicc.backends.cpu_gpu import shapes
from rubicc.backends.cpu_gpu.run import CpuGpuSession, home_of, open_session, translated
from rubicc.backends.cpu_gpu.templates import run as runner
from rubicc.errors import UsageError
from rubicc.evidence import measure

SECONDS = 5.0


@dataclass(frozen=True)
class BenchRow:
    """One candidate at one input shape.

    Attributes:
        name: candidate.
        runtime, threads, streams: how it ran.
        shapes: input shapes, e.g. ``x 16x1x4000``.
        positions_per_second: batch times length of the first input (samples or tokens), per second.
        timing: milliseconds per call (min, median, p90, p99), noise and number of calls. With ``streams``
            above 1 a call is one of ``streams`` that ran at the same time.
        load_seconds: opening the artefact, first call not included.
        peak_bytes: most memory opening and running this candidate added to the process; ``None`` where the
            system does not say.
        speed: how many times as fast as the first candidate at these shapes, by medians.
        verdict: of that comparison; UNSURE below 5 % or inside the noise.
        snr_db: of the outputs against the fp32 source, where that was proven; ``None`` = not known.
    """

    name: str
    runtime: str
    threads: int
    streams: int
    shapes: str
    positions_per_second: float
    timing: Mapping[str, float | int]
    load_seconds: float
    peak_bytes: int | None
    speed: float = 1.0
    verdict: measure.Verdict = "UNSURE"
    snr_db: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """``ratio``: median of ``a`` over that of ``b``: how many times as fast ``b`` is; its ``verdict``."""

    a: str
    b: str
    shapes: str
    ratio: float
    verdict: measure.Verdict


@dataclass(frozen=True)
class Bench:
    """Rows, and every candidate compared with the first at the same shape.

    Attributes:
        left_out: candidates that could not be had, and why.
    """

    rows: tuple[BenchRow, ...]
    comparisons: tuple[Comparison, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "comparisons": [asdict(c) for c in self.comparisons],
            "left_out": dict(self.left_out),
        }


@dataclass
class _Candidate:
    name: str
    artefact: str
    session: CpuGpuSession
    load_seconds: float
    held: int  # bytes that opening and earlier runs added to the process and that stay
    peak: int | None = None

    def warm_up(self, feeds: dict[str, np.ndarray]) -> None:
        """Run once, alone, watching the memory (Linux: VmHWM, reset first)."""
        before = _resident()
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.session.run(feeds)
            status = Path("/proc/self/status").read_text(encoding="utf-8")
        except OSError:
            self.session.run(feeds)
            return
        line = next(row for row in status.splitlines() if row.startswith("VmHWM:"))
        self.peak = self.held + max(0, int(line.split()[1]) * 1024 - before)
        self.held += max(0, _resident() - before)


def bench(
    folders: str | Path | Mapping[str, str | Path],
    sizes: Sequence[Mapping[str, int]] = (),
    *,
    seconds: float = SECONDS,
    runtimes: Sequence[str] = (),
    threads: int | None = None,
    streams: int = 1,
    feeds: Mapping[str, np.ndarray] | None = None,
    accuracy: Mapping[tuple[str, str], float] | None = None,
) -> Bench:
    """Measure one artefact or several against each other, in turns.

    Args:
        folders: an artefact, or name to artefact.
        sizes: numbers for the free dimensions, e.g. ``{"N": 16, "T": 4000}``, one measurement each; those
            left out get the recorded batch and the model's chunk length. Empty = one measurement of those.
        seconds: per shape, over all candidates.
        runtimes: empty = the recorded one; several are candidates of their own, those that an artefact does
            not offer are left out for it; ``all`` = whatever each artefact offers.
        streams: calls in flight at the same time (throughput); 1 measures latency.
        feeds: real input instead of seeded arrays; its shape is the only one measured.
        accuracy: (name, runtime) to the SNR in dB shown beside the times.

    Raises:
        UsageError: nothing to measure, an unknown dimension (RUB-CPU-020).
        ModelRefused, ToolMissing: as ``open_session``.
    """
    named = dict(folders) if isinstance(folders, Mapping) else {"": folders}
    if not named or seconds <= 0:
        raise UsageError("RUB-CPU-020", "nothing to measure", hint="give an artefact and a time above 0")
    with contextlib.ExitStack() as stack:
        candidates = [
            _open(name, folder, runtime, threads, streams, stack)
            for name, folder in named.items()
            for runtime in _offered(Path(folder), runtimes, len(named) > 1)
        ]
        if not candidates:
            hint = f"none offers {', '.join(runtimes)}"
            raise UsageError("RUB-CPU-020", "nothing to measure", hint=hint)
        rows: list[BenchRow] = []
        comparisons: list[Comparison] = []
        for wanted in [{}] if feeds is not None or not sizes else sizes:
            arrays = dict(feeds) if feeds is not None else _feeds(candidates[0].session, wanted)
            found, compared = _measure(candidates, arrays, seconds, accuracy or {})
            rows += found
            comparisons += compared
    return Bench(tuple(rows), tuple(comparisons))


def _offered(folder: Path, wanted: Sequence[str], several: bool) -> list[str | None]:
    """Runtimes to open an artefact in; ``None`` = the recorded one."""
    if not wanted:
        return [None]
    if "all" not in wanted and not several:
        return [*wanted]
    home = home_of(folder)
    with translated(home.name):
        known = runner.read_description(home)["runtimes"]
    return [name for name in known if name in wanted or "all" in wanted]


def _open(
    name: str,
    folder: str | Path,
    runtime: str | None,
    threads: int | None,
    streams: int,
    stack: contextlib.ExitStack,
) -> _Candidate:
    before = _resident()
    start = time.perf_counter()
    session = stack.enter_context(open_session(folder, runtime=runtime, threads=threads, streams=streams))
    label = " ".join(part for part in (name, session.runtime if runtime or not name else "") if part)
    return _Candidate(label, name, session, time.perf_counter() - start, max(0, _resident() - before))


def _feeds(session: CpuGpuSession, wanted: Mapping[str, int]) -> dict[str, np.ndarray]:
    batch = int(session.description.get("batch", 1))
    bound = shapes.sizes(session.inputs, session.meta, batch)
    unknown = sorted(set(wanted) - set(bound))
    if unknown:
        raise UsageError(
            "RUB-CPU-020",
            f"the model has no dimension {unknown[0]!r}",
            hint=f"free dimensions: {sorted(bound)}",
        )
    return shapes.example_feeds(session.inputs, bound | dict(wanted))


def _measure(
    candidates: Sequence[_Candidate],
    feeds: dict[str, np.ndarray],
    seconds: float,
    accuracy: Mapping[tuple[str, str], float],
) -> tuple[list[BenchRow], list[Comparison]]:
    for candidate in candidates:
        candidate.warm_up(feeds)
    calls = {c.name: functools.partial(_call, c.session, feeds) for c in candidates}
    timings = measure.interleave(calls, seconds, max_rounds=100_000)
    shape = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in feeds.items())
    first = next(iter(feeds.values()))
    positions = first.shape[0] * first.shape[-1]
    first_name = candidates[0].name
    compared = [
        Comparison(
            first_name,
            c.name,
            shape,
            timings[first_name].median / timings[c.name].median,
            measure.compare(timings[c.name], timings[first_name]),
        )
        for c in candidates[1:]
    ]
    against = {c.b: c for c in compared}
    rows = []
    for c in candidates:
        speed = against[c.name].ratio if c.name in against else 1.0
        rows.append(
            BenchRow(
                name=c.name,
                runtime=c.session.runtime,
                threads=c.session.threads,
                streams=c.session.streams,
                shapes=shape,
                positions_per_second=positions * c.session.streams / timings[c.name].median,
                timing=timings[c.name].to_dict(),
                load_seconds=round(c.load_seconds, 4),
                peak_bytes=c.peak,
                speed=speed,
                verdict=against[c.name].verdict if c.name in against else "UNSURE",
                snr_db=accuracy.get((c.artefact, c.session.runtime)),
            )
        )
    return rows, compared


def _call(session: CpuGpuSession, feeds: dict[str, np.ndarray]) -> None:
    if session.streams == 1:
        session.run(feeds)
        return
    for future in [session.submit(feeds) for _ in range(session.streams)]:
        future.result()


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
