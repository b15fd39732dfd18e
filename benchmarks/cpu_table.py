"""Every network in every engine of this machine's CPU, timed in turns: `make bench-cpu`.

    python benchmarks/cpu_table.py                              all of it (about half an hour)
    python benchmarks/cpu_table.py --only rubicall-fp --rounds 3
    python benchmarks/cpu_table.py --json cpu.json --work DIR   keep what was measured, keep the artefacts
    python benchmarks/cpu_table.py --show cpu.json              the tables of an earlier run

One process per network: all its engines and this machine's peak kernels take turns in it, with numpy arrays
in and out. Baselines are what their documentation gives a user, with the number of threads set; where torch's
two exporters differ, the faster file of each runtime counts. Exit status 0; with --strict 1 when a target is
missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from speed import results  # noqa: E402
from speed.networks import NETWORKS  # noqa: E402
from speed.render import render  # noqa: E402

ROUNDS, TUNE = 7, 30.0
IDENTITY = "identity"


def main(argv: list[str] | None = None) -> int:
    """Measure or show, print, judge."""
    args = _arguments(argv)
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    if args.worker:
        return _work(args)
    if args.show:
        machine, networks, identities = results.from_json(json.loads(args.show.read_text("utf-8")))
    else:
        with tempfile.TemporaryDirectory(prefix="rubicc-bench-") as scratch:
            machine, networks, identities = _measure(args, args.work or Path(scratch))
    print(render(machine, networks, identities))
    if args.json:
        text = json.dumps(results.to_json(machine, networks, identities), indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")
    missed = [goal for goal in results.targets(networks, identities) if goal.verdict == "FAIL"]
    return int(args.strict and bool(missed))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=[*NETWORKS, IDENTITY], default=[*NETWORKS, IDENTITY], metavar="NAME"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each engine (default {ROUNDS})")
    parser.add_argument("--threads", type=int, default=_cores(), help="of every engine (default: all CPUs)")
    parser.add_argument("--tune", type=float, default=TUNE, help="seconds of tuning per artefact of ours")
    parser.add_argument("--ours", nargs="+", default=["auto"], help="precisions that compete for `ours best`")
    parser.add_argument("--work", type=Path, help="keep files and artefacts here, and use those there")
    parser.add_argument("--json", type=Path, help="also write everything measured into this file")
    parser.add_argument("--show", type=Path, metavar="JSON", help="measure nothing, print an earlier run")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measure(
    args: argparse.Namespace, home: Path
) -> tuple[dict[str, Any], list[results.NetworkResult], list[results.Identity]]:
    """Each network in a process of its own: its memory goes back, and a crash loses only its rows."""
    home.mkdir(parents=True, exist_ok=True)
    networks: list[results.NetworkResult] = []
    identities: list[results.Identity] = []
    for name in args.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found = _child(args, name, home)
        if name == IDENTITY:
            identities = [results.Identity(**item) for item in found or []]
        elif found is not None:
            networks.append(results.network_from_json(found))
    return _machine(args.threads), networks, identities


def _child(args: argparse.Namespace, name: str, home: Path) -> Any:
    out = home / f"{name}.json"
    out.unlink(missing_ok=True)
    options = ["--rounds", args.rounds, "--threads", args.threads, "--tune", args.tune]
    line = [sys.executable, __file__, "--worker", name, *map(str, options), "--work", str(home)]
    code = subprocess.run([*line, "--ours", *args.ours, "--json", str(out)]).returncode
    if code or not out.is_file():
        print(f"{name}: its process ended with {code}; its rows are missing", file=sys.stderr)
        return None
    return json.loads(out.read_text("utf-8"))


def _machine(threads: int) -> dict[str, Any]:
    from importlib.metadata import version

    names = ("torch", "onnxruntime", "openvino", "rubicc")
    model = "unknown"
    if (cpuinfo := Path("/proc/cpuinfo")).is_file():
        lines = [line for line in cpuinfo.read_text("utf-8").splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "machine": f"{model}, {_cores()} CPUs, {threads} threads used, load average after the run {load}",
        "versions": ", ".join(f"{name} {version(name)}" for name in names),
    }


def _work(args: argparse.Namespace) -> int:
    import torch
    from speed import worker

    torch.set_num_threads(args.threads)
    if args.worker == IDENTITY:
        value: Any = [asdict(item) for item in worker.identities(args)]
    else:
        value = asdict(worker.network(args.worker, args))
    args.json.write_text(json.dumps(value), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
