"""The zoo as Core ML packages for three releases, proven without a Mac: `make bench-coreml`.

   python benchmarks/coreml_zoo.py                                   all of it (about an hour)
   python benchmarks/coreml_zoo.py --only rubicall-fp --targets iOS17 --precisions fp16
   python benchmarks/coreml_zoo.py --json zoo.json --work DIR        keep figures and artefacts; run again
                                                                     after a stop, it goes on where it was
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
from itertools import product
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
    kept = Kept(args.show or args.json)
    if not args.show:
        with tempfile.TemporaryDirectory(prefix="rubicc-coreml-") as scratch:
            _measure(args, args.work or Path(scratch), kept)
    print("\n".join(f"* {text}" for text in kept.notes), render.table(kept.found), sep="\n\n")
    if kept.called:
        print(
            "\nIdentity of the real R9 network on the mapped reads\n",
            render.identity_table(kept.called),
            sep="\n",
        )
    return int(args.strict and _missed(kept.found, kept.called))


class Kept:
    """What has been measured, in a file after each step, so that a stopped run goes on."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.notes: list[str] = []
        self.found: list[work.Compilation] = []
        self.called: list[Identity] = []
        if path is not None and path.is_file():
            data: dict[str, Any] = json.loads(path.read_text("utf-8"))
            self.notes = data["notes"]
            self.found = [
                work.Compilation(**{**one, "noise": float(one["noise"])}) for one in data["compilations"]
            ]
            self.called = [Identity(**one) for one in data["calls"]]

    def has(self, name: str, target: str, precision: str) -> bool:
        """Whether this compilation has been measured."""
        return (name, target, precision) in {(one.name, one.target, one.precision) for one in self.found}

    def note(self, text: str) -> None:
        """Say something once above the tables."""
        if text not in self.notes:
            self.notes.append(text)

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is None:
            return
        data = {
            "notes": self.notes,
            "compilations": [asdict(one) for one in self.found],
            "calls": [asdict(one) for one in self.called],
        }
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [*cases.NETWORKS, IDENTITY]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), metavar="iOSxx")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--work", type=Path, help="keep files and artefacts here")
    parser.add_argument(
        "--json", type=Path, help="keep everything measured here; what it holds is not measured again"
    )
    parser.add_argument("--show", type=Path, metavar="JSON", help="measure nothing, print an earlier run")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a goal is missed")
    return parser.parse_args(argv)


def _measure(args: argparse.Namespace, home: Path, kept: Kept) -> None:
    home.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        if name == IDENTITY:
            continue
        case = cases.make(cases.NETWORKS[name], home)
        kept.note(f"{name}: {', '.join(case.notes)}")
        for target, precision in product(args.targets, args.precisions):
            if kept.has(name, f"coreml:{target}", precision):
                continue
            print(f"{name} {target} {precision} ...", file=sys.stderr, flush=True)
            kept.found.append(work.measured(case, f"coreml:{target}", precision, home))
            kept.save()
    if IDENTITY in args.only and not kept.called:
        kept.called = identities(tuple(f"coreml:{t}" for t in args.targets), home)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    kept.note(f"{os.cpu_count()} CPUs, load average at the end of a run {load}")
    kept.save()


def _missed(found: list[work.Compilation], called: list[Identity]) -> bool:
    wrong = [
        one
        for one in found
        if any("FAIL" in text for text in render.verdicts(cases.NETWORKS[one.name], {one.precision: one}))
    ]
    return bool(wrong) or any(not math.isfinite(o.value) or not render.kept(called[0], o) for o in called[1:])


if __name__ == "__main__":
    sys.exit(main())
