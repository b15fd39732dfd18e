"""How calling grows with the number of reads: wall time, throughput and peak memory per size.

    python benchmarks/cost_growth.py [--sizes 1 10 100 1000 10000] [--threads 1] [--work DIR]

The embedded demo network on simulated reads of 500 to 2,000 bases, written as one pod5 file per size. Each
size is one `rubicc basecall` in a process of its own; peak memory is the sum over it and the child that reads
the file, sampled 20 times a second, without pages of mapped files (of pod5 files that were read, which the
system takes back whenever it wants them). Start-up (Python, opening the artefact) is in the wall time; the
throughput beside it is the engine's own, without.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path

import psutil

from rubicc import api
from rubicc.genomics.simulate import iter_simulated
from rubicc.genomics.simulate_pod5 import write_pod5

SIZES = (1, 10, 100, 1000, 10000)


def watch(command: list[str]) -> tuple[float, int, str]:
    """Wall seconds, peak resident bytes of the process with its children, and its stdout."""
    with tempfile.TemporaryFile("w+") as said:
        began, peak = time.perf_counter(), 0
        running = subprocess.Popen(command, stdout=said)
        while running.poll() is None:
            peak = max(peak, resident(running.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        if running.returncode:
            raise SystemExit(f"exit code {running.returncode}: {' '.join(command)}")
        said.seek(0)
        return seconds, peak, said.read()


def resident(pid: int) -> int:
    """Bytes of a process and its children that are in memory and in no file."""
    total = 0
    try:
        process = psutil.Process(pid)
        for part in (process, *process.children(recursive=True)):
            info = part.memory_info()
            total += info.rss - info.shared
    except psutil.Error:
        pass
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--threads", default="1")
    parser.add_argument("--runtime", default="openvino")
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        home = Path(folder)
        with as_file(files("rubicc") / "data" / "demo_ctc.pt") as model:
            api.compile(model, out=home / "art", target="cpu", runtime=args.runtime, tune="0")
        print("| reads | samples | wall | samples/s, engine | samples/s, wall | peak memory |")
        print("|---|---|---|---|---|---|")
        for size in args.sizes:
            reads = home / f"{size}.pod5"
            write_pod5(reads, iter_simulated(size, seed=7, length=(500, 2000)))
            command = [sys.executable, "-m", "rubicc", "basecall", str(home / "art"), str(reads)]
            command += ["-o", str(home / f"{size}.fastq"), "--threads", args.threads, "--format", "json"]
            seconds, peak, said = watch(command)
            done = json.loads(said)["result"]
            print(
                f"| {size:,} | {done['samples'] / 1e6:.2f} M | {seconds:.1f} s "
                f"| {done['samples_per_second'] / 1e3:,.0f} k | {done['samples'] / seconds / 1e3:,.0f} k "
                f"| {peak / 2**20:,.0f} MiB |",
                flush=True,
            )
            reads.unlink()


if __name__ == "__main__":
    main()
