"""Networks on AMD AI Engines: plan, estimate, emission, emulation, calls: `make bench-aie`.

   python benchmarks/aie_zoo.py                                     all rows (about half an hour)
   python benchmarks/aie_zoo.py --only rubicall taiyaki-mgru --devices vek280 --precisions int8
   python benchmarks/aie_zoo.py --json aie.json                     keep every row; run again after a stop, it
                                                                    goes on where it was
   python benchmarks/aie_zoo.py --show aie.json                     the table of an earlier run

One process per row: `rubicc compile` on real signal where there is some, then three chunks in one stream of
the emulated project against the integer-only graph in float64, integer by integer. Seconds of planning (with
the integer passes), of emission, of compiling the project for the emulation (its headers are compiled before)
and of running those three chunks; bases per second are estimates of the plan with their band, not
measurements. Exit status 0; with --strict 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from coreml_bench import cases  # noqa: E402
from speed.networks import real_data  # noqa: E402

from rubicc.backends.aie.sim import tools  # noqa: E402
from rubicc.backends.aie.sim.kept import FOLDER  # noqa: E402

CHUNK, CHUNKS = 3600, 3
# vek385: no public figures for these two; the row says what was taken.
FACTS = {"vek385": ("memory_tile_rows=1", "program_bytes=16384")}
ROWS = (
    ("rubicall", "vek280", "int8"),
    ("rubicall", "vek280", "mixed"),
    ("rubicall", "vek280", "w8a16"),
    ("rubicall", "vek280", "int16"),
    ("rubicall", "vck190", "int8"),
    ("rubicall", "vek385", "int8"),
    ("taiyaki-mgru", "vek280", "int8"),
    ("demo-ctc", "vek280", "int8"),
    ("bonito-ctc", "vek280", "int8"),
)
CALLED = "taiyaki-mgru"
LOSS = 0.01  # of identity, that the issue allows
BUSY, BASES, PLANNED, EMULATED = 0.7, 4e6, 60.0, 180.0


@dataclass(frozen=True)
class Row:
    """What one network on one device in one precision took and gave.

    Attributes:
        error: rubicc's refusal, which is a result; empty when it compiled.
        tiles, cores: planned, and there are.
        busy: mean share of the planned tiles' cycles.
        bases: per second, estimated, with its band in ``band``.
        plan, emission, build, run: seconds.
        compared, differing: integers of three chunks in one stream, against the integer-only graph.
        calls: identity of the calls on all mapped reads by engine, weighted by length.
    """

    network: str
    device: str
    precision: str
    error: str = ""
    tiles: int = 0
    cores: int = 0
    busy: float = 0.0
    bases: float = 0.0
    band: tuple[float, float] = (0.0, 0.0)
    plan: float = 0.0
    emission: float = 0.0
    build: float = 0.0
    run: float = 0.0
    compared: int = 0
    differing: int = 0
    calls: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """Which row it is."""
        return self.network, self.device, self.precision


def main(argv: Sequence[str] | None = None) -> int:
    """Measure or show, print, judge."""
    args = _arguments(argv)
    if args.row:
        _worker(json.loads(args.row))
        return 0
    path = args.show or args.json
    kept = _read(path)
    if not args.show:
        with tempfile.TemporaryDirectory(prefix="rubicc-aie-zoo-") as scratch:
            _measure(args, args.work or Path(scratch), kept, path)
    rows = [Row(**row) for row in kept["rows"]]
    print("\n".join(f"* {note}" for note in kept["notes"]), table(rows), sep="\n\n")
    return int(args.strict and any(missed(row) for row in rows))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for column, flag in enumerate(("--only", "--devices", "--precisions")):
        names = sorted({row[column] for row in ROWS})
        parser.add_argument(flag, nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--work", type=Path, help="keep checkpoints and artefacts here")
    parser.add_argument("--json", type=Path, help="keep every row here; what it holds is not measured again")
    parser.add_argument("--show", type=Path, metavar="JSON", help="measure nothing, print an earlier run")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a goal is missed")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _read(path: Path | None) -> dict[str, list[Any]]:
    if path is None or not path.is_file():
        return {"notes": [], "rows": []}
    kept: dict[str, list[Any]] = json.loads(path.read_text("utf-8"))
    return kept


def _measure(args: argparse.Namespace, home: Path, kept: dict[str, list[Any]], path: Path | None) -> None:
    home.mkdir(parents=True, exist_ok=True)
    done = {Row(**row).key for row in kept["rows"]}
    for name, device, precision in ROWS:
        wanted = name in args.only and device in args.devices and precision in args.precisions
        if not wanted or (name, device, precision) in done:
            continue
        print(f"{name} {device} {precision} ...", file=sys.stderr, flush=True)
        case = cases.make(cases.NETWORKS[name], home)
        note = f"{name}: {', '.join(case.notes)}"
        load = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
        kept["rows"].append(asdict(_row(case, device, precision, home)))
        kept["notes"] += [note] if note not in kept["notes"] else []
        kept["notes"].append(f"{name} {device} {precision}: load average before {load}")
        _save(kept, path)


def _save(kept: dict[str, list[Any]], path: Path | None) -> None:
    """Write the file, whole or not at all."""
    if path is not None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        part.replace(path)


def _row(case: cases.Case, device: str, precision: str, home: Path) -> Row:
    """A row, in a process of its own; no emulation that was compiled before is used."""
    name, cache = case.network.name, home / "cache"
    shutil.rmtree(cache / "rubicc" / FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="row-", dir=home) as scratch:
        asked: dict[str, Any] = {
            "row": (name, device, precision),
            "model": str(case.model),
            "arch": case.arch,
            "out": str(home / f"{name}-{device}-{precision}"),
            "answer": str(Path(scratch) / "row.json"),
        }
        line = [sys.executable, "-W", "ignore", __file__, "--row", json.dumps(asked)]
        variables = {**os.environ, "XDG_CACHE_HOME": str(cache.resolve())}
        done = subprocess.run(line, capture_output=True, text=True, env=variables)
        answer = Path(scratch) / "row.json"
        if done.returncode or not answer.is_file():
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            return Row(name, device, precision, error=f"FAULT {last}"[:300])
        return Row(**json.loads(answer.read_text("utf-8")))


def _worker(asked: Mapping[str, Any]) -> None:
    import rubicc
    from rubicc.backends.aie.artefact import opened
    from rubicc.backends.aie.sim import kept as emulations
    from rubicc.errors import RubiccError

    name, device, precision = asked["row"]
    row, seconds = Row(name, device, precision), [0.0]
    emulations.build = _timed(emulations.build, seconds)
    try:
        rubicc.compile(
            asked["model"],
            out=asked["out"],
            arch=asked["arch"] or None,
            target=f"aie:{device}",
            precision=precision,
            shapes=f"x=1x1x{CHUNK}",
            device_facts=FACTS.get(device),
            force=True,
            **_data(),
        )
        stages = json.loads((Path(asked["out"]) / "measured.json").read_text("utf-8"))["measured"]["seconds"]
        plan = opened(Path(asked["out"])).plan
        row = replace(
            row,
            tiles=len(plan.tiles),
            cores=int(plan.facts["columns"]) * int(plan.facts["rows"]),
            busy=plan.throughput.busy,
            bases=plan.throughput.bases,
            band=plan.throughput.bases_band,
            plan=stages["plan"],
            emission=stages["emit"],
            build=seconds[0],
        )
        row = _emulated(row, Path(asked["out"]))
        if name == CALLED and real_data() is not None:
            row = replace(row, calls=_calls(asked))
    except RubiccError as err:
        row = replace(row, error=str(err).splitlines()[0][:300])
    Path(asked["answer"]).write_text(json.dumps(asdict(row)), encoding="utf-8")


def _timed(build: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def timed(*args: Any, **options: Any) -> Any:
        tools.prepared(options["arch"])
        start = time.perf_counter()
        try:
            return build(*args, **options)
        finally:
            seconds[0] += time.perf_counter() - start

    return timed


def _data() -> dict[str, Path]:
    data = real_data()
    return {} if data is None else {"calib": data / "chunks", "reference": data / "mapped"}


def _signal(session: Any) -> np.ndarray:
    """Three chunks of real signal that nothing was calibrated on, else simulated."""
    from rubicc.driver.inputs import simulated

    data = real_data()
    if data is None:
        return simulated(session.meta, CHUNK, 77, CHUNKS)
    chunks = np.load(data / "chunks" / "validation" / "chunks.npy")[:CHUNKS, :CHUNK]
    return chunks.astype(np.float32)[:, None, :]


def _emulated(row: Row, folder: Path) -> Row:
    """Three chunks in one stream, against the integer-only graph chunk by chunk."""
    from rubicc import api
    from rubicc.backends.aie.host import to_net
    from rubicc.ir.executor import execute

    with api.load(folder) as session:
        host, signal = session.files.host, _signal(session)
        name = session.inputs[0].name
        fed = [host.integers({name: chunk[None]}) for chunk in signal]
        start = time.perf_counter()
        found = session.integers({edge: np.concatenate([one[edge] for one in fed]) for edge in fed[0]})
        took = time.perf_counter() - start
        compared = differing = 0
        for number, chunk in enumerate(signal):
            wanted = execute(host.integer_part, {name: chunk[None]}, dtype=np.dtype(np.float64))
            for edge, values in wanted.items():
                made = found[edge][number : number + 1]
                compared += made.size
                differing += int((made != to_net(values, host.axes(edge))).sum())
    return replace(row, run=took, compared=compared, differing=differing)


def _calls(asked: Mapping[str, Any]) -> dict[str, float]:
    """Identity of the real network's calls on all mapped reads: fp32, emulated, integers in numpy."""
    from rubicc import api
    from rubicc.genomics.evaluate import read_sequences

    data, out = real_data(), Path(asked["out"])
    assert data is not None
    references: dict[str, str] = {}
    for path in sorted((data / "mapped").glob("references_*.fasta")):
        references.update(read_sequences(path))
    cpu = out.with_name(f"{out.name}-cpu")
    api.compile(asked["model"], out=cpu, arch=asked["arch"], target="cpu", runtime="onnxruntime", force=True)
    found = {}
    for folder, runtime in ((cpu, "onnxruntime"), (out, "sim"), (out, "integer")):
        calls = out.with_name(f"{out.name}-{runtime}.fasta")
        api.basecall(folder, [data / "mapped"], out=calls, runtime=runtime, force=True)
        reads = api.evaluate(calls, reference=references).reads  # type: ignore[arg-type]
        sizes = [len(references[read.read_id]) for read in reads]
        found[runtime] = float(np.average([read.identity or 0.0 for read in reads], weights=sizes))
    return found


def missed(row: Row) -> list[str]:
    """Goals of the issue that a row does not reach."""
    if row.error:
        return ["FAULT"] if row.error.startswith("FAULT") else []
    found = ["integers differ"] if row.differing or not row.compared else []
    if (row.network, row.device) == ("rubicall", "vek280"):
        found += ["busy"] if row.busy < BUSY else []
        found += ["bases"] if row.precision == "int8" and row.bases < BASES else []
        found += ["plan and emission"] if row.plan + row.emission > PLANNED else []
        found += ["emulation"] if row.build + row.run > EMULATED else []
    if row.calls and row.calls["sim"] < row.calls["onnxruntime"] - LOSS:
        found.append("identity")
    return found


def table(rows: Sequence[Row]) -> str:
    """One line per row."""
    head = (
        "network", "device", "precision", "tiles", "busy", "M bases/s, estimated", "plan s", "emission s",
        "build s", "run s", "integers that differ", "goal",
    )  # fmt: skip
    lines = [head, tuple("---" for _ in head), *map(_cells, rows)]
    notes = [
        f"\n{row.network} on all mapped reads, identity weighted by length: "
        + ", ".join(f"{engine} {value:.4f}" for engine, value in row.calls.items())
        for row in rows
        if row.calls
    ]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *notes])


def _cells(row: Row) -> tuple[str, ...]:
    goal = ", ".join(missed(row)) or "-"
    if row.error:
        return (*row.key, row.error, *("" for _ in range(7)), goal)
    low, high = (value / 1e6 for value in row.band)
    bases = f"{row.bases / 1e6:.2f} ({low:.2f} to {high:.2f})" if row.bases else "-"
    seconds = (f"{value:.1f}" for value in (row.plan, row.emission, row.build, row.run))
    differ = f"{row.differing} of {row.compared:,}"
    return (*row.key, f"{row.tiles} of {row.cores}", f"{row.busy:.0%}", bases, *seconds, differ, goal)


if __name__ == "__main__":
    sys.exit(main())
