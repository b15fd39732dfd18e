"""Decoder speed on one core and the cost of the first call: ``python benchmarks/bench_decode.py [--json]``.

Scores are random (uniform noise around a confident path), 20,000 frames; times are CPU seconds, the best of
five, so that a busy machine does not change them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from rubicc.genomics.decode import decode_read
from rubicc.spec import DecoderSpec, ModelMeta

FRAMES = 20_000
CASES: dict[str, tuple[DecoderSpec, str, int, int, int]] = {
    # decoder, alphabet, columns, stride, frames
    "flipflop": (DecoderSpec("flipflop"), "ACGT", 40, 4, FRAMES),
    "ctc greedy": (DecoderSpec("ctc", {"beam_size": 1}), "NACGT", 5, 3, FRAMES),
    "ctc beam 5": (DecoderSpec("ctc"), "NACGT", 5, 3, FRAMES),
    "crf fast (64 states)": (DecoderSpec("crf", {"state_len": 3}), "NACGT", 320, 5, 4000),
    "crf hac (256 states)": (DecoderSpec("crf", {"state_len": 4}), "NACGT", 1280, 5, 4000),
    "crf sup (1024 states)": (DecoderSpec("crf", {"state_len": 5}), "NACGT", 5120, 6, 2000),
}


def scores(kind: str, columns: int, frames: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    if kind == "ctc":
        z = rng.normal(size=(frames, columns))
        z[np.arange(frames), np.where(rng.random(frames) < 0.35, rng.integers(1, columns, frames), 0)] += 5
        return (z - np.log(np.exp(z).sum(axis=1, keepdims=True))).astype(np.float32)
    return (5 * np.tanh(rng.normal(size=(frames, columns)))).astype(np.float32)


def best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def first_call(name: str, cache: str) -> float:
    """Seconds of the first decode in a fresh process, imports included, with ``cache`` as numba's cache."""
    code = (
        "import sys, time; sys.path.insert(0, 'benchmarks'); import numpy, bench_decode as b\n"
        f"spec, alphabet, columns, _, _ = b.CASES[{name!r}]\n"
        "meta = b.ModelMeta('custom', (), (), alphabet=alphabet, decoder=spec)\n"
        "x = b.scores(spec.kind, columns, 10); began = time.process_time()\n"
        "b.decode_read(x, meta); print(time.process_time() - began)"
    )
    env = {**os.environ, "NUMBA_CACHE_DIR": cache}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return float(out.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for name, (spec, alphabet, columns, stride, frames) in CASES.items():
        meta = ModelMeta("custom", (), (), alphabet=alphabet, decoder=spec)
        x = scores(spec.kind, columns, frames)
        seconds = best(lambda x=x, meta=meta: decode_read(x, meta))  # type: ignore[misc]
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = first_call(name, cache), first_call(name, cache)
        rows.append(
            {
                "decoder": name,
                "us_per_frame": seconds / frames * 1e6,
                "msamples_per_s": frames * stride / seconds / 1e6,
                "first_call_cold_s": cold,
                "first_call_warm_s": warm,
            }
        )
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print("| decoder | us per frame | Msamples/s | first call ever, s | first call, cached, s |")
    print("|---|---|---|---|---|")
    for row in rows:
        print("| {} | {:.3f} | {:.2f} | {:.2f} | {:.2f} |".format(*row.values()))


if __name__ == "__main__":
    main()
