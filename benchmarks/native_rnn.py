"""Native recurrent layers beside torch: ``python benchmarks/native_rnn.py [--threads 2] [--torch]``.

Stacks of five layers of random weights in alternating directions, the sizes of mGru (GRU 96), bonito's fast
(LSTM 96) and hac (LSTM 384). Milliseconds per batch, the least of several runs: by the clock, and of CPU time
divided by the threads, what the clock would say were the cores free; thousand million products per core
and second of CPU time. Input and output in float32; the layers between pass their results on in the precision
they compute in. Nothing is timed before its result was seen to be that of the layers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from rubicc.backends.cpu_gpu.native import pack_rnn
from rubicc.backends.cpu_gpu.native.engine import Kernels
from rubicc.backends.cpu_gpu.native.program import Buffer, Kind, Program, Quantised, Recurrent

LAYERS = 5
# cell, hidden units, batch, frames
CASES = {
    "mGru: GRU 96": ("gru", 96, 32, 900),
    "bonito fast: LSTM 96": ("lstm", 96, 32, 800),
    "bonito hac: LSTM 384": ("lstm", 384, 16, 800),
}
KINDS: tuple[Kind, ...] = ("f32", "bf16", "u8")
AGREE = {
    "f32": 90.0,
    "bf16": 30.0,
    "u8": 20.0,
}  # decibels; random weights pass errors on more than trained ones


def layer(cell: str, hidden: int, index: int, compute: Kind) -> Recurrent:
    """Layer ``index`` of a stack; its input is quantised as the state of the layer before."""
    rng = np.random.default_rng(index)
    rows = pack_rnn.GATES[cell] * hidden
    weights = [(rng.normal(size=(rows, hidden)) / np.sqrt(hidden)).astype(np.float32) for _ in range(2)]
    biases = [(rng.normal(size=rows) * 0.1).astype(np.float32) for _ in range(2)]
    made = Recurrent(
        "gru" if cell == "gru" else "lstm",
        index,
        index + 1,
        w_input=weights[0],
        w_hidden=weights[1],
        bias_input=biases[0],
        bias_hidden=biases[1],
        reverse=index % 2 == 0,
        compute=compute,
    )
    if compute != "u8":
        return made
    scales = [(np.abs(w).max(axis=1) / 127).astype(np.float32) for w in weights]
    return replace(
        made,
        weight_scale_input=scales[0],
        weight_scale_hidden=scales[1],
        x_quant=Quantised(0.04, 128) if index == 0 else pack_rnn.STATE,
    )


def stack(cell: str, hidden: int, compute: Kind) -> Program:
    """Five layers between float32 buffers."""
    quant = pack_rnn.STATE if compute == "u8" else None
    between = [Buffer(hidden, compute, quant) for _ in range(LAYERS - 1)]
    buffers = (Buffer(hidden, "f32"), *between, Buffer(hidden, "f32"))
    steps = tuple(layer(cell, hidden, index, compute) for index in range(LAYERS))
    return Program(buffers, steps, 0, LAYERS, "TNC", "x", "y")


def least(work: Callable[[], object], runs: int) -> tuple[float, float]:
    """Milliseconds by the clock and of CPU time."""
    clock, cpu = [], []
    for _ in range(runs):
        began, spent = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
    return min(clock) * 1e3, min(cpu) * 1e3


def stack_of_torch(program: Program) -> Callable[[np.ndarray], np.ndarray]:
    """The same layers in torch, float32, on (frames, items, channels)."""
    import torch

    first = program.steps[0]
    assert isinstance(first, Recurrent)
    hidden = first.w_hidden.shape[1]
    order = [1, 0, 2] if first.cell == "gru" else [0, 2, 3, 1]  # torch: r z n, i f g o
    modules = []
    for step in program.steps:
        assert isinstance(step, Recurrent)
        module = (torch.nn.GRU if step.cell == "gru" else torch.nn.LSTM)(hidden, hidden)
        arrays = (step.w_input, step.w_hidden, step.bias_input, step.bias_hidden)
        for target, value in zip(module.parameters(), arrays, strict=True):
            parts = value.reshape(len(order), hidden, *value.shape[1:])[order]
            target.data = torch.from_numpy(parts.reshape(value.shape))
        modules.append((module.eval(), step.reverse))

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            y = torch.from_numpy(x)
            for module, reverse in modules:
                y = module(y.flip(0))[0].flip(0) if reverse else module(y)[0]
            return np.asarray(y.numpy())

    return run


def decibels(got: np.ndarray, want: np.ndarray) -> float:
    return float(10 * np.log10((want**2).sum() / max(float(((got - want) ** 2).sum()), 1e-30)))


def checked(program: Program, x: np.ndarray, want: np.ndarray, kind: Kind, threads: int) -> Kernels:
    """The kernels, after every item of the batch came out right."""
    kernels = Kernels(program)
    got = kernels.run(x, threads)
    worst = min(decibels(got[:, item], want[:, item]) for item in range(len(x)))
    if worst < AGREE[kind]:
        raise SystemExit(f"{kind}: an item's result is {worst:.1f} dB from torch's: not timed")
    return kernels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--torch", action="store_true", help="time torch too")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    for name, (cell, hidden, batch, frames) in CASES.items():
        x = np.random.default_rng(0).normal(size=(batch, hidden, frames)).astype(np.float32)
        products = 2 * LAYERS * pack_rnn.GATES[cell] * hidden**2 * batch * frames
        eager, feed = stack_of_torch(stack(cell, hidden, "f32")), np.ascontiguousarray(x.transpose(2, 0, 1))
        want = eager(feed)
        for kind in KINDS:
            kernels = checked(stack(cell, hidden, kind), x, want, kind, options.threads)
            clock, cpu = least(partial(kernels.run, x, options.threads), options.runs)
            free, rate = cpu / options.threads, products / cpu / 1e6
            print(f"{name:22}{kind:6}{clock:9.1f} ms{free:9.1f} ms free{rate:7.0f} G/s per core")
        if options.torch:
            clock, cpu = least(partial(eager, feed), min(3, options.runs))
            print(f"{name:22}torch {clock:9.1f} ms{cpu / options.threads:9.1f} ms free")


if __name__ == "__main__":
    main()
