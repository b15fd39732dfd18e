"""End-to-end basecalling speed: fast5 input, network, decoding, output; and where the time goes.

    python benchmarks/basecall_speed.py [--data ../shared/data] [--copies 8] [--rounds 3]

With the real R9 data beside the project: taiyaki-mgru with its real weights on the real fast5 files, copied
``--copies`` times (each copy a folder called in the same run; read ids repeat, so each copy has a run of its
own in turn). Without it: the embedded demo network and reads. The artefact in fp32 and the one that the tuner
chooses (``--precision auto``), each in every runtime that takes it, in turns; and a plain PyTorch and numpy
pipeline (one process, chunk by chunk, Python loop over time in the decoder) on one read for comparison.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

PRECISIONS = ("fp32", "auto")


def plain_pipeline(model: Any, meta: Any, reads: list[Any]) -> float:
    """Samples per second of the obvious way: torch on chunks, forward-backward and Viterbi in numpy."""
    import torch

    from rubicc.genomics.normalise import normalise

    start, samples = time.perf_counter(), 0
    for read in reads:
        signal = normalise(read, meta.signal)
        samples += len(signal)
        parts = [signal[at : at + meta.chunk] for at in range(0, len(signal), meta.chunk)]
        with torch.no_grad():
            scores = [model(torch.from_numpy(part)[None, None]).numpy()[:, 0] for part in parts]
        _decode_by_loop(np.concatenate(scores))
    return samples / (time.perf_counter() - start)


def _decode_by_loop(scores: np.ndarray) -> np.ndarray:
    """Flip-flop posteriors and Viterbi with a Python loop over time (8 states)."""
    to, source = np.arange(40), np.arange(40)
    to, source = (
        np.where(to < 32, to // 8, 4 + (to - 32) % 4),
        np.where(source < 32, source % 8, (source - 32) % 8),
    )
    forward = np.full((len(scores) + 1, 8), -1e30)
    forward[0, :4] = 0
    backward = np.zeros((len(scores) + 1, 8))
    table = np.full((8, 8), -1e30)
    for t, row in enumerate(scores):
        table[source, to] = row
        forward[t + 1] = np.logaddexp.reduce(forward[t][:, None] + table, axis=0)
    for t in range(len(scores) - 1, -1, -1):
        table[source, to] = scores[t]
        backward[t] = np.logaddexp.reduce(table + backward[t + 1][None], axis=1)
    total = np.logaddexp.reduce(forward[-1])
    posterior = np.exp(forward[:-1][:, source] + scores + backward[1:][:, to] - total)
    best, choice = np.where(np.arange(8) < 4, 0.0, -1e30), []
    for row in np.log(posterior + 1e-8):
        table[:] = -1e30
        table[source, to] = row
        step = best[:, None] + table
        choice.append(step.argmax(0))
        best = step.max(0)
    path = [int(best.argmax())]
    for back in reversed(choice):
        path.append(int(back[path[-1]]))
    return np.array(path[::-1])


def cases(data: Path, home: Path) -> Iterator[tuple[str, Path, list[str], list[Path]]]:
    """(name, model, extra compile flags, reads)."""
    weights = data / "weights" / "r9_mgru_flipflop_state_dict.pt"
    if weights.is_file():
        yield "taiyaki-mgru, real fast5", weights, ["--arch", "taiyaki-mgru"], [data / "r9_reads"]
        return
    from importlib.resources import files

    folder = Path(str(files("rubicc") / "data"))
    yield "demo-ctc, simulated reads", folder / "demo_ctc.pt", [], [folder / "demo_reads.npz"]


def main() -> None:
    """Print one table of speeds and one of busy seconds by stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    from rubicc import api
    from rubicc.cli.main import main as rubicc
    from rubicc.genomics.reads import iter_reads

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for title, model, flags, reads in cases(args.data, home):
            speeds: dict[tuple[str, str], list[Any]] = {}
            for asked in PRECISIONS:
                out = home / asked
                how = ["--target", "cpu", "--precision", asked, "-o", str(out), "-q"]
                assert rubicc(["compile", str(model), *flags, *how]) == 0
                made = json.loads((out / "cpu_gpu" / "runtime.json").read_text("utf-8"))
                speeds |= {(asked, runtime): [] for runtime in made["runtimes"]}
                print(
                    f"{asked}: {made['precision']}, {made['runtime']} is the tuner's choice", file=sys.stderr
                )
            for _ in range(args.rounds):
                for (asked, runtime), runs in speeds.items():
                    for copy in range(args.copies):
                        calls = home / f"{asked}-{runtime}{copy}.fastq"
                        run = api.basecall(home / asked, reads, out=calls, runtime=runtime, force=True)
                        runs.append(run)
            print(f"\n{title}; whole runs, opening and writing included\n")
            print("| runtime | best ksamples/s | median | busy s by stage (median run) |\n|---|---|---|---|")
            for key, runs in speeds.items():
                rates = [run.samples_per_second / 1e3 for run in runs]
                middle = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
                busy = ", ".join(f"{k} {v:.2f}" for k, v in middle.stage_seconds.items())
                print(f"| {' '.join(key)} | {max(rates):.0f} | {statistics.median(rates):.0f} | {busy} |")
            if flags:
                from rubicc.frontend import read_model

                source = read_model(model, arch=flags[1])
                some = [read for _, read in zip(range(3), iter_reads(reads), strict=False)]
                rate = plain_pipeline(source.module, source.meta, some)
                print(f"| torch + numpy loop, one process | {rate / 1e3:.0f} | | |")


if __name__ == "__main__":
    main()
