"""What shrinking costs in identity, on real R9.4.1 signal: ``python benchmarks/shrink_studies.py FOLDER``.

Every arm is a command of rubicc, run for every seed. Its result is scored by calling six mapped reads that no
arm sees in training: mean over reads of edlib's identity over the whole reference, which scores a poor call,
too (minimap2's, of the reads that map, is kept beside it). Choices are made on a seventh read. A run that was
stopped goes on where it was, and finished arms are not run again: FOLDER/scores.json holds them.
``--workers 2`` runs two arms at a time, on one thread each; ``--only`` takes names of arms; ``--table``
prints what there is so far. Needs the data folder beside the project (``RUBICC_SHARED_DATA``). All seeds take
about four hours of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("RUBICC_SHARED_DATA", HERE.parents[1] / "shared" / "data"))
MGRU = SHARED / "weights" / "r9_mgru_flipflop.safetensors"
CHOICES = SHARED / "mapped" / "69bfff9f-18eb-4aa0-a781-e55dc99674bf.npz"
# The mapped reads that are raw reads, too: scored, so not trained on.
SCORED_RAW = ("db6b45aa", "de1508c4")
LOCK = threading.Lock()


@dataclass(frozen=True)
class Arm:
    """One command.

    Attributes:
        verb: of rubicc, with its options.
        model: ``mgru``, a factory of ``flipflop_student``, or the arm whose result of the same seed is meant.
        steps: of distillation from the mGru; 0: nothing is trained.
        lr: where the rate begins to fall.
        seeds: how many; 1 where nothing is random.
    """

    verb: tuple[str, ...]
    model: str = "mgru"
    steps: int = 0
    lr: float = 0.001
    seeds: int = 3


def _taiyaki(first: int, recurrent: int) -> str:
    """Taiyaki's file of shares, by layer."""
    rows = [
        f"gru.{i}.weight_{name}_l0 {share / 100}"
        for i in range(5)
        for name, share in (("ih", first), ("hh", recurrent))
    ]
    return "\n".join(rows) + "\n"


LAYERS = {"v1": _taiyaki(25, 50), "v2": _taiyaki(40, 60)}
STUDENT_STEPS = 900
GLOBAL = ("--align", "8", "--scope", "global")
STRETCHED = ("--stretch", "0.15")  # ten reads are learned by heart in long runs
ARMS: dict[str, Arm] = {
    "mgru in float": Arm(("compile", "--target", "cpu"), seeds=1),
    "prune to 50 % MACs": Arm(("prune", "--macs", "50%", *GLOBAL, *STRETCHED), steps=4500, lr=0.01),
    "prune to 50 % MACs, trained on": Arm(
        ("train", "--copies", "0", "--warmup", "50", *STRETCHED), "prune to 50 % MACs", 1500, 0.004
    ),
    "prune to 25 % MACs": Arm(("prune", "--macs", "25%", *STRETCHED), steps=7000, lr=0.01),
    "prune to 50 % MACs, short": Arm(("prune", "--macs", "50%", *GLOBAL, *STRETCHED), steps=1000, lr=0.01),
    "prune to 25 % MACs, short": Arm(("prune", "--macs", "25%", *STRETCHED), steps=1000, lr=0.01),
    **{
        f"prune to {share} % MACs{how}, no training": Arm(("prune", "--macs", f"{share}%", *flags), seeds=1)
        for share in (90, 80, 70, 60, 50, 40, 25)
        for how, flags in (("", ()), (" over all layers", GLOBAL))
    },
    "student with skips": Arm(("train",), "with_skips", STUDENT_STEPS, 0.006),
    "student trained without skips": Arm(("train",), "without_skips", STUDENT_STEPS, 0.006),
    "student, skips removed on the way": Arm(("skipclip",), "with_skips", STUDENT_STEPS, 0.006),
    "int8 weights and activations": Arm(("quantize", "--bits", "8", "--activations", "8"), seeds=1),
    "mean 5.5 bits, no training": Arm(("quantize", "--weights-mean-bits", "5.5"), seeds=1),
    "mean 5.5 bits": Arm(("quantize", "--weights-mean-bits", "5.5"), steps=120),
    "at most 1 % of identity lost, no training": Arm(("quantize", "--identity-loss", "1%"), seeds=1),
    "mean 5.5 bits of coreml:iOS18's widths, no training": Arm(
        ("quantize", "--target", "coreml:iOS18", "--weights-mean-bits", "5.5"), seeds=1
    ),
    "4 bits, no training": Arm(("quantize", "--bits", "4"), seeds=1),
    "4 bits": Arm(("quantize", "--bits", "4"), steps=250),
    "taiyaki 8 bits (asymmetric, tensor)": Arm(
        ("quantize", "--bits", "8", "--asymmetric", "--granularity", "tensor"), seeds=1
    ),
    "taiyaki v1 (36.4 % zeros), no training": Arm(("prune", "--layers", "v1"), seeds=1),
    "taiyaki v2 (48.5 % zeros), no training": Arm(("prune", "--layers", "v2"), seeds=1),
    "taiyaki v1 (36.4 % zeros)": Arm(("prune", "--layers", "v1", *STRETCHED), steps=800, lr=0.002),
    "taiyaki v2 (48.5 % zeros)": Arm(("prune", "--layers", "v2", *STRETCHED), steps=1500, lr=0.004),
    **{
        f"{share} % zeros, no training": Arm(("prune", "--sparsity", f"{share}%"), seeds=1)
        for share in (10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
    },
    **{
        f"{share} % zeros": Arm(
            ("prune", "--sparsity", f"{share}%", *STRETCHED), steps=250, lr=0.004, seeds=1
        )
        for share in (10, 30, 50, 70, 80, 90, 95)
    },
}


def main() -> None:
    """Run what is missing, seed by seed, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    todo = [
        (name, seed)
        for once in (False, True)
        for seed in range(args.seeds)
        for name, arm in ARMS.items()
        if seed < arm.seeds and once == (arm.seeds == 1) and any(fnmatch(name, one) for one in args.only)
    ]
    for later in (False, True):  # arms that go on from others' results
        now = [one for one in todo if (ARMS[one[0]].model in ARMS) == later and not args.table]
        with ThreadPoolExecutor(args.workers) as pool:
            list(pool.map(lambda one: run(args.folder, *one), now))
    print("\n".join(table(known(args.folder))))


def run(folder: Path, name: str, seed: int) -> None:
    """Run one arm for one seed and note its scores; a failure is printed and leaves the others alone."""
    key = f"{name} #{seed}"
    if key in known(folder):
        return
    out = home(folder, name, seed)
    began = time.perf_counter()
    if not (out / "manifest.json").is_file():
        made = rubicc(command(folder, ARMS[name], seed, out))
        if made.returncode:
            print(f"{key}: {made.stderr[-2000:]}", file=sys.stderr)
            return
    seconds = time.perf_counter() - began
    scores = score(out)
    report = json.loads((out / "report.json").read_text())
    figures = {row["what"]: row["after"] for row in report.get("figures", ())}
    with LOCK:
        every = known(folder)
        every[key] = {"reads": scores, "seconds": round(seconds), "figures": figures}
        partial = folder / "scores.json.tmp"
        partial.write_text(json.dumps(every, indent=1))
        partial.replace(folder / "scores.json")
    print(f"{key}: identity {mean(scores):.4f}, {seconds:.0f} s", file=sys.stderr)


def home(folder: Path, name: str, seed: int) -> Path:
    """Where an arm's result lies."""
    return folder / "".join(c if c.isalnum() else "_" for c in f"{name} #{seed}")


def command(folder: Path, arm: Arm, seed: int, out: Path) -> list[str]:
    """The arm as words of the command line."""
    words = list(arm.verb)
    if "--layers" in words:
        at = words.index("--layers") + 1
        file = folder / f"{words[at]}.txt"
        file.write_text(LAYERS[words[at]])
        words[at] = str(file)
    if arm.model == "mgru":
        words += [str(MGRU), "--arch", "taiyaki-mgru"]
    elif arm.model in ARMS:
        words.append(str(home(folder, arm.model, seed)))
        seed += 100  # other items than before
    else:
        words += [f"python:flipflop_student:{arm.model}", "--allow-code"]
    words += ["-o", str(out), "--threads", "1", "--quiet"]
    if words[0] == "compile":
        return words
    if words[0] in ("prune", "quantize") or arm.steps:
        reads = [path for path in sorted((SHARED / "r9_reads").glob("*.fast5")) if not scored(path)]
        words += ["--data", *map(str, reads), "--teacher", str(MGRU), "--teacher-arch", "taiyaki-mgru"]
        words += ["--seed", str(seed), "--chunk", "2400", "--validation", str(CHOICES)]
        words += [] if words[0] == "prune" or "--copies" in words else ["--copies", "4"]
    if arm.steps:
        words += ["--alpha", "1", "--lr", str(arm.lr)]
        return [*words, "--steps", str(arm.steps), "--validate-every", "250"]
    return [*words, "--epochs", "0"] if "--data" in words else words


def six() -> list[Path]:
    """The mapped reads but that for choices."""
    return [path for path in sorted((SHARED / "mapped").glob("*.npz")) if path != CHOICES]


def scored(path: Path) -> bool:
    """Whether a raw read is scored."""
    return path.name.startswith(SCORED_RAW)


def score(result: Path) -> dict[str, dict]:
    """What `rubicc evaluate` says of the calls of each mapped read."""
    calls = result.with_suffix(".fasta")
    made = rubicc(
        ["basecall", str(result), *map(str, six()), "-o", str(calls), "--force", "--quiet", "--threads", "1"]
    )
    if made.returncode:
        raise SystemExit(made.stderr)
    truth = str(SHARED / "mapped" / "references_train.fasta")
    made = rubicc(["evaluate", str(calls), "--reference", truth, "--whole-reference", "--format", "json"])
    if made.returncode:
        raise SystemExit(made.stderr)
    return {row["read_id"]: row for row in json.loads(made.stdout)["result"]["per_read"]}


def mean(reads: dict[str, dict]) -> float:
    """Identity over the whole reference, mean over reads."""
    return statistics.mean(row["whole_reference_identity"] or 0.0 for row in reads.values())


def rubicc(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """One command, on one thread."""
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-m", "rubicc", *words], env=env, capture_output=True, text=True, check=False
    )


def known(folder: Path) -> dict[str, dict]:
    """Scores so far, by arm and seed."""
    path = folder / "scores.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def table(scores: dict[str, dict]) -> list[str]:
    """Mean, least and most over seeds of the mean identity over reads."""
    rows = [
        "| arm | steps | seeds | identity, mean (least to most) | MACs | bytes of weights |",
        "|---|---|---|---|---|---|",
    ]
    for name, arm in ARMS.items():
        found = [row for key, row in scores.items() if key.rpartition(" #")[0] == name]
        if not found:
            continue
        means = [mean(row["reads"]) for row in found]
        spread = f" ({min(means):.4f} to {max(means):.4f})" if len(means) > 1 else ""
        costs = found[0]["figures"]
        shown = [f"{costs[what]:,.0f}" if what in costs else "" for what in ("MACs", "bytes of weights")]
        rows.append(
            f"| {name} | {arm.steps or ''} | {len(found)} | {statistics.mean(means):.4f}{spread} | "
            + " | ".join(shown)
            + " |"
        )
    return rows


if __name__ == "__main__":
    main()
