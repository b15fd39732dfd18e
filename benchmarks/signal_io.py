"""How fast everything around the network is: reading, normalising, chunking, stitching, writing.

    python benchmarks/signal_io.py [--reads 200] [--samples 100000]

The network is a constant and the decoder emits a base in every third frame, so what remains is ours. Prints
million samples per second of wall time and per second of processor time, parent and reader child together.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "genomics"))


def processor_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def main() -> None:
    from read_files import VBZ, read_id, signal, write_multi, write_npz, write_pod5
    from toy import META

    from rubicc.genomics.call import Call
    from rubicc.genomics.engine import Settings, basecall

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=200)
    parser.add_argument("--samples", type=int, default=100_000)
    args = parser.parse_args()

    def infer(x: np.ndarray) -> np.ndarray:
        return np.zeros((x.shape[2] // 5, x.shape[0], 40), np.float32)

    def decode(scores: np.ndarray, meta: object) -> Call:
        moves = (np.arange(len(scores)) % 3 == 0).astype(np.uint8)
        bases = int(moves.sum())
        return Call("A" * bases, "5" * bases, moves, 20.0)

    distinct = [signal(i, args.samples) for i in range(8)]
    reads = {read_id(i): distinct[i % 8] for i in range(args.reads)}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        write_multi(home / "vbz.fast5", reads, chunks=(20_000,), **VBZ)
        write_multi(home / "gzip.fast5", reads, chunks=(20_000,), compression="gzip", compression_opts=1)
        write_pod5(home / "x.pod5", reads)
        write_npz(home / "x.npz", reads)
        for source in ("vbz.fast5", "gzip.fast5", "x.pod5", "x.npz"):
            for suffix in ("fastq", "bam"):
                before = processor_seconds()
                settings = Settings(batch=64, chunk=4000, overlap=600)
                out = home / f"calls.{suffix}"
                done = basecall(
                    infer, META, [home / source], out, settings=settings, decode=decode, force=True
                )
                spent = processor_seconds() - before
                stages = ", ".join(f"{stage} {value:.2f}" for stage, value in done.stage_seconds.items())
                print(
                    f"{source:10} to {suffix:5} {done.samples_per_second / 1e6:6.1f} M/s wall "
                    f"{done.samples / spent / 1e6:6.1f} M per processor second ({stages})"
                )


if __name__ == "__main__":
    main()
