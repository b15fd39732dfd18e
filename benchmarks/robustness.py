"""Every hostile and malformed input we know, through the real command; prints one Markdown table.

    python benchmarks/robustness.py                    the whole table
    python benchmarks/robustness.py --only pt2 fast5   names that contain one of these
    python benchmarks/robustness.py --fresh            each command a new process (slow: imports each time)

For each input: what each verb exited with, the error, and the proofs: no payload ran, no file was left or
changed (folder of the command, its temporary and home folders, before and after), no traceback, peak memory,
time. Rows that fail any expectation are listed again below the table, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "robustness")]
os.environ["OMP_NUM_THREADS"] = "1"

import controls  # noqa: E402
import corpora  # noqa: E402
import hostile_artefacts  # noqa: E402
import hostile_cli  # noqa: E402
import hostile_recipes  # noqa: E402
from mounts import private_mounts, unmount  # noqa: E402
from proof import MAX_PEAK_MB, Outcome, prove, remove  # noqa: E402
from trials import Bench, Trial  # noqa: E402

PRELOAD = ("torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "numba", "h5py", "safetensors.torch")
PRELOAD_OWN = ("rubicc.api", "rubicc.frontend", "rubicc.driver.compile", "rubicc.genomics.engine")
TRIALS: tuple[Trial, ...] = ()
STATE: dict[str, object] = {}


def all_trials() -> tuple[Trial, ...]:
    """Every trial of every corpus."""
    found = (
        *corpora.trials(),
        *hostile_recipes.trials(),
        *hostile_cli.trials(),
        *hostile_artefacts.trials(),
    )
    names = Counter(trial.name for trial in found)
    assert max(names.values()) == 1, names.most_common(1)
    return found


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="names that contain one of these"
    )
    parser.add_argument("--exact", nargs="+", default=[], metavar="NAME", help="exactly these names")
    parser.add_argument("--limit", type=int, help="at most so many, spread over the table")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time (default 2)")
    parser.add_argument(
        "--fresh", nargs="*", metavar="NAME", help="a new process for each command (of these trials)"
    )
    parser.add_argument("--controls", action="store_true", help="trials that must fail, to test the judge")
    parser.add_argument("--json", action="store_true", help="outcomes as JSON lines instead of the table")
    parser.add_argument("--list", action="store_true", help="names only")
    args = parser.parse_args()
    global TRIALS
    TRIALS = controls.trials() if args.controls else select(all_trials(), args)
    if args.list:
        print("\n".join(trial.name for trial in TRIALS))
        return 0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rubicc-robustness-") as home:
        outcomes = run(Path(home), args.jobs, fresh_names(args.fresh), args.controls)
    seconds = time.perf_counter() - start
    if args.json:
        print("\n".join(json.dumps(asdict(outcome)) for outcome in outcomes))
    else:
        print("\n".join(table(outcomes, seconds, args.fresh is not None)))
    return int(any(outcome.wrong for outcome in outcomes))


def select(found: tuple[Trial, ...], args: argparse.Namespace) -> tuple[Trial, ...]:
    """What the flags ask for."""
    if args.only or args.exact:
        found = tuple(t for t in found if t.name in args.exact or any(text in t.name for text in args.only))
    if args.limit and args.limit < len(found):
        found = tuple(found[i * len(found) // args.limit] for i in range(args.limit))
    return found


def fresh_names(given: list[str] | None) -> frozenset[str]:
    """Names of the trials whose commands get a process of their own."""
    return frozenset(given or [trial.name for trial in TRIALS]) if given is not None else frozenset()


def run(home: Path, jobs: int, fresh: frozenset[str], controls_only: bool) -> list[Outcome]:
    """Prepare what trials share, then run them, ``jobs`` at a time; controls read no artefact and no read."""
    for name in (*PRELOAD, *PRELOAD_OWN):
        importlib.import_module(name)
    shared = Bench(home, home / "artefact", home / "good.npz", b"") if controls_only else prepare(home)
    STATE.update(mounts=private_mounts(), home=home, fresh=fresh, shared=shared)
    if jobs < 2:
        return [work(index) for index in range(len(TRIALS))]
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        return list(pool.map(work, range(len(TRIALS))))


def prepare(home: Path) -> Bench:
    """The good artefact, the good read and its calls, made by the command itself."""

    def rubicc(*line: str) -> None:
        command = [sys.executable, "-m", "rubicc", *line, "-q", "--threads", "1"]
        subprocess.run(command, cwd=home, check=True, stdout=subprocess.DEVNULL)

    import importlib.resources

    from rubicc.genomics.simulate import simulate_reads, write_reads

    good = home / "good.npz"
    write_reads(good, simulate_reads(1, seed=1, length=300))
    with importlib.resources.as_file(importlib.resources.files("rubicc") / "data/demo_ctc.pt") as model:
        rubicc("compile", str(model), "--target", "cpu", "--runtime", "onnxruntime", "-o", "artefact")
    rubicc("basecall", "artefact", "good.npz", "-o", "good.fasta")
    return Bench(home, home / "artefact", good, (home / "good.fasta").read_bytes())


def work(index: int) -> Outcome:
    """One trial, in a worker."""
    trial = TRIALS[index]
    if trial.needs == "mount" and not STATE["mounts"]:
        return Outcome(trial.name, trial.form, skipped="this machine does not let us mount a tmpfs")
    home, shared = STATE["home"], STATE["shared"]
    fresh = STATE["fresh"]
    assert isinstance(home, Path) and isinstance(shared, Bench) and isinstance(fresh, frozenset)
    place = home / f"t{index:03d}"
    try:
        return prove(trial, place, shared, fresh=trial.name in fresh)
    finally:
        if trial.needs == "mount":
            unmount(place / "cwd" / "small")
        remove(place)


def table(outcomes: list[Outcome], seconds: float, fresh: bool) -> list[str]:
    """The Markdown table, its summary, and the rows that failed."""
    lines = [
        "| input | command: exit | error | payload | left | traceback | MB | s | |",
        "|---|---|---|---|---|---|---:|---:|---|",
    ]
    lines += [_row(outcome) for outcome in outcomes]
    ran = [outcome for outcome in outcomes if not outcome.skipped]
    bad = [outcome for outcome in ran if outcome.wrong]
    forms = Counter(outcome.form for outcome in ran)
    lines += [
        "",
        f"{len(ran)} distinct inputs ({', '.join(f'{form} {n}' for form, n in forms.items())}), "
        f"{sum(len(outcome.exits) for outcome in ran)} command lines "
        f"({'new processes' if fresh else 'forked from one that had imported torch'}), {seconds:.0f} s.",
        f"Payloads executed: {sum(o.executed for o in ran)} (of {sum(o.live is True for o in ran)} payloads "
        f"proved to work when opened the unsafe way). Files left or changed: "
        f"{sum(bool(o.left) for o in ran)}. "
        f"Tracebacks: {sum(o.traceback for o in ran)}. Highest peak memory "
        f"{max((o.peak_mb for o in ran), default=0):.0f} MB (limit {MAX_PEAK_MB}), longest command "
        f"{max((o.seconds for o in ran), default=0):.1f} s. Skipped: {len(outcomes) - len(ran)}. "
        f"As expected: {len(ran) - len(bad)} of {len(ran)}.",
    ]
    lines += [f"- NOT AS EXPECTED {o.name}: {'; '.join(o.wrong)} [{o.message[:300]}]" for o in bad]
    lines += [f"- skipped {o.name}: {o.skipped}" for o in outcomes if o.skipped]
    return lines


def _row(outcome: Outcome) -> str:
    if outcome.skipped:
        return f"| {outcome.name} | skipped | | | | | | | |"
    exits = ", ".join(f"{verb} {code}" for verb, code in zip(outcome.verbs, outcome.exits, strict=True))
    payload = "RAN" if outcome.executed else "not run" if outcome.live else "none ran"
    cells = [
        outcome.name,
        exits,
        " ".join(outcome.codes) or "(dangerous part dropped; compiles, verifies)",
        payload,
        ", ".join(outcome.left) or "nothing",
        "yes" if outcome.traceback else "no",
        f"{outcome.peak_mb:.0f}",
        f"{outcome.seconds:.1f}",
        "FAIL" if outcome.wrong else "ok",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
