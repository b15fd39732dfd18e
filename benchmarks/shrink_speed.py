"""Networks beside each other, compiled for this CPU: ``python benchmarks/shrink_speed.py MODEL MODEL ...``.

Each MODEL (a result of ``rubicc prune``, a checkpoint, an artefact) is compiled for ``cpu`` and run in turns
on the same signal. Prints the median time of a batch, its quartiles, and how many times faster than the first
MODEL each one is: the ratio of the medians and, as its noise, of opposite quartiles.
``python benchmarks/shrink_speed.py --arch taiyaki-mgru weights.safetensors pruned``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rubicc
from benchmarks.speed.turns import Watch, in_turns
from rubicc.errors import RubiccError
from rubicc.settings import resolve


def opened(model: Path, arch: str | None, folder: Path, threads: int) -> Any:
    """A session of the artefact, made where ``model`` is none."""
    try:
        return rubicc.load(model, threads=threads)
    except RubiccError:
        settings = resolve({"target": "cpu", "threads": threads} | ({"arch": arch} if arch else {}))
        rubicc.compile(model, out=folder, settings=settings)
        return rubicc.load(folder, threads=threads)


def main() -> None:
    """Print one row per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--arch", help="of a first MODEL that is a bare state dict")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    x = np.random.default_rng(0).standard_normal((args.batch, 1, args.samples)).astype(np.float32)
    calls: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, model in enumerate(args.models):
            home = Path(folder) / str(number)
            session = opened(model, args.arch if number == 0 else None, home, args.threads)
            calls[str(model)] = partial(session.run, {session.inputs[0].name: x})
        with Watch() as watch:
            times = in_turns(calls, args.rounds)
    first = times[str(args.models[0])]
    print(f"{args.batch} x {args.samples} samples, {args.threads} threads; other programs {watch.others:.0%}")
    for model, timing in times.items():
        low, middle, high = (timing.percentile(q) for q in (25, 50, 75))
        faster = first.percentile(50) / middle
        noise = (first.percentile(25) / high, first.percentile(75) / low)
        print(
            f"{middle * 1e3:8.2f} ms ({low * 1e3:.2f} to {high * 1e3:.2f})"
            f"  {faster:5.2f}x ({noise[0]:.2f} to {noise[1]:.2f})  {model}"
        )


if __name__ == "__main__":
    main()
