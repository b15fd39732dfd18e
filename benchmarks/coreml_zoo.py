"""The zoo as Core ML packages for three releases, proven without a Mac: `make bench-coreml`.

   python benchmarks/coreml_zoo.py                                   all of it (about an hour)
   python benchmarks/coreml_zoo.py --only rubicall-fp --targets iOS17 --precisions fp16
   python benchmarks/coreml_zoo.py --json zoo.json --work DIR        keep figures and artefacts
   python benchmarks/coreml_zoo.py --show zoo.json                   the tables of an earlier run

One process per compilation. Accuracy is that of the package read from disk by rubicc's interpreter, in the
arithmetic of its own precision, against torch: the worst of all inputs of the proof, real ones among them.
Seconds and memory are those of the whole `rubicc compile`, proof and report included. Exit status 0; with
--strict 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from coreml_bench import cases, render, work  # noqa: E402
from coreml_bench.identity import Identity, identities  # noqa: E402

TARGETS, PRECISIONS = ("iOS16", "iOS17", "iOS18"), ("fp16", "fp32")
IDENTITY = "identity"


def main(argv: list[str] | None = None) -> int:
    """Measure or show, print, judge."""
    args = _arguments(argv)
    if args.show:
        notes, found, called = _read(args.show)
    else:
        with tempfile.TemporaryDirectory(prefix="rubicc-coreml-") as scratch:
            notes, found, called = _measure(args, args.work or Path(scratch))
    print("\n".join(notes), render.table(found), sep="\n\n")
    if called:
        print(
            "\nIdentity of the real R9 network on the mapped reads\n", render.identity_table(called), sep="\n"
        )
    if args.json:
        data = {
            "notes": notes,
            "compilations": [asdict(one) for one in found],
            "calls": [asdict(one) for one in called],
        }
        args.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return int(args.strict and _missed(found, called))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [*cases.NETWORKS, IDENTITY]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), metavar="iOSxx")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--work", type=Path, help="keep files and artefacts here")
    parser.add_argument("--json", type=Path, help="also write everything measured into this file")
    parser.add_argument("--show", type=Path, metavar="JSON", help="measure nothing, print an earlier run")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a goal is missed")
    return parser.parse_args(argv)


def _measure(
    args: argparse.Namespace, home: Path
) -> tuple[list[str], list[work.Compilation], list[Identity]]:
    home.mkdir(parents=True, exist_ok=True)
    notes, found = [], []
    for name in args.only:
        if name == IDENTITY:
            continue
        case = cases.make(cases.NETWORKS[name], home)
        notes.append(f"* {name}: {', '.join(case.notes)}")
        for target in args.targets:
            for precision in args.precisions:
                print(f"{name} {target} {precision} ...", file=sys.stderr, flush=True)
                found.append(work.measured(case, f"coreml:{target}", precision, home))
    called = identities(tuple(f"coreml:{t}" for t in args.targets), home) if IDENTITY in args.only else []
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [*notes, f"* {os.cpu_count()} CPUs, load average at the end {load}"], found, called


def _read(path: Path) -> tuple[list[str], list[work.Compilation], list[Identity]]:
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    found = [work.Compilation(**{**one, "noise": float(one["noise"])}) for one in data["compilations"]]
    return data["notes"], found, [Identity(**one) for one in data["calls"]]


def _missed(found: list[work.Compilation], called: list[Identity]) -> bool:
    wrong = [
        one
        for one in found
        if any("FAIL" in text for text in render.verdicts(cases.NETWORKS[one.name], {one.precision: one}))
    ]
    return bool(wrong) or any(not math.isfinite(o.value) or not render.kept(called[0], o) for o in called[1:])


if __name__ == "__main__":
    sys.exit(main())
