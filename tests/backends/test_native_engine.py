"""The compiled kernels against the numpy reference on random programs and networks of the zoo; mutants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rubicc.backends.cpu_gpu.native import build, pack, reference
from rubicc.backends.cpu_gpu.native.engine import Kernels
from rubicc.backends.cpu_gpu.native.program import (
    Activation,
    Buffer,
    Conv,
    Elementwise,
    Gather,
    Kind,
    LogSoftmax,
    Program,
    Quantised,
    Recurrent,
    Step,
    frames_after,
)

pytestmark = pytest.mark.skipif(not build.compiler(), reason="no C++ compiler on this machine")

FUNCTIONS = (
    Activation("relu"), Activation("silu"), Activation("tanh"), Activation("sigmoid"), Activation("gelu"),
    Activation("clip", -0.7, 1.1), Activation("affine", -1.5, 0.25),
)  # fmt: skip
SIZES = (1, 2, 4, 5, 8, 16, 17, 32, 48)
GROUPED = (
    (8, 8, 2),
    (16, 16, 2),
    (32, 32, 4),
    (32, 64, 4),
    (48, 48, 6),
    (24, 24, 24),
    (64, 64, 2),
    (16, 32, 8),
)


class Drawn:
    """A random program: a chain of steps, each drawn from everything the definitions allow."""

    def __init__(self, seed: int, kind: Kind) -> None:
        self.rng = np.random.default_rng(seed)
        self.kind = kind
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.frames = int(self.rng.integers(20, 150))
        self.counts: list[int] = []  # frames by buffer
        first = self.pick((1, 1, 5, 16, 24))
        self.x = self.rng.standard_normal((int(self.rng.integers(1, 4)), first, self.frames)).astype(
            np.float32
        )
        self.add_buffer(Buffer(first, "f32"), self.frames)

    def pick(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def add_buffer(self, buffer: Buffer, frames: int) -> int:
        self.buffers.append(buffer)
        self.counts.append(frames)
        return len(self.buffers) - 1

    def storage(self, channels: int, frames: int) -> int:
        """A buffer of a random kind that the program's precision uses."""
        kind = self.pick({"f32": ("f32",), "bf16": ("f32", "bf16"), "u8": ("u8", "u8", "f32")}[self.kind])
        return self.add_buffer(Buffer(channels, kind, self.scale() if kind == "u8" else None), frames)

    def scale(self) -> Quantised:
        return Quantised(float(np.float32(self.rng.uniform(0.01, 0.05))), int(self.rng.integers(0, 256)))

    def functions(self) -> tuple[Activation, ...]:
        return tuple(self.pick(FUNCTIONS) for _ in range(int(self.rng.integers(0, 3))))

    def conv(self) -> None:
        rng, x = self.rng, len(self.buffers) - 1
        cin = self.buffers[x].channels
        cout, groups = int(self.pick(SIZES)), 1
        grouped = [(b, g) for a, b, g in GROUPED if a == cin]
        if grouped and rng.random() < 0.7:
            cout, groups = self.pick(grouped)
        taps, stride, dilation = (
            self.pick((1, 2, 3, 5, 9, 12)),
            self.pick((1, 1, 2, 3)),
            self.pick((1, 1, 2, 3)),
        )
        pads = (int(rng.integers(0, 12)), int(rng.integers(0, 12)))
        weight = rng.standard_normal((cout, cin // groups, taps)) / np.sqrt(cin // groups * taps)
        compute, scale = self.kind, None
        if self.kind == "u8" and self.buffers[x].kind == "u8":
            scale = (np.abs(weight).max((1, 2)) / 127).astype(np.float32)
            weight = np.rint(weight / scale[:, None, None]).astype(np.int8)
        elif self.kind == "u8":
            compute = "f32"
        conv = Conv(
            x, x + 1, weight.astype(np.float32 if scale is None else np.int8),
            rng.standard_normal(cout).astype(np.float32) * 0.3, scale, stride, dilation, groups, pads,
            activations=self.functions(), compute=compute,
        )  # fmt: skip
        frames = frames_after(self.counts[x], conv)
        if frames < 1 or pack.unsupported(conv):
            return
        others = [i for i, b in enumerate(self.buffers) if b.channels == cout and self.counts[i] == frames]
        add = int(self.pick(others)) if others and rng.random() < 0.8 else None
        rounding = self.scale() if self.kind == "u8" and rng.random() < 0.3 else None
        self.steps.append(replace(conv, y=self.storage(cout, frames), add=add, output_quant=rounding))

    def residual(self) -> None:
        """A convolution that keeps channels and frames and adds its own input."""
        x = len(self.buffers) - 1
        channels, taps = self.buffers[x].channels, self.pick((1, 3, 7))
        weight = self.rng.standard_normal((channels, channels, taps)) / np.sqrt(channels * taps)
        pads = (taps // 2, taps // 2)
        compute: Kind = "f32" if self.kind == "u8" else self.kind
        conv = Conv(
            x, x + 1, weight.astype(np.float32), np.zeros(channels, np.float32), pads=pads, add=x,
            activations=self.functions(), compute=compute,
        )  # fmt: skip
        self.steps.append(replace(conv, y=self.storage(channels, self.counts[x])))

    def elementwise(self) -> None:
        x = len(self.buffers) - 1
        channels, frames = self.buffers[x].channels, self.counts[x]
        others = [
            i for i, b in enumerate(self.buffers) if b.channels == channels and self.counts[i] == frames
        ]
        add = int(self.pick(others)) if self.rng.random() < 0.5 else None
        self.steps.append(Elementwise(x, self.storage(channels, frames), add, self.functions()))

    def gather(self) -> None:
        x = len(self.buffers) - 1
        channels = self.buffers[x].channels
        index = self.rng.integers(-1, channels, int(self.pick(SIZES))).astype(np.int32)
        self.steps.append(Gather(x, self.add_buffer(Buffer(len(index), "f32"), self.counts[x]), index, 0.6))

    def recurrent(self) -> None:
        rng, x = self.rng, len(self.buffers) - 1
        cell = self.pick(("gru", "lstm"))
        channels, hidden = self.buffers[x].channels, int(self.pick((5, 16, 24)))
        rows = (3 if cell == "gru" else 4) * hidden
        w, r = (
            rng.standard_normal((rows, channels)) / channels**0.5,
            rng.standard_normal((rows, hidden)) / hidden**0.5,
        )
        more: dict[str, Any] = {}
        compute = self.kind
        if self.kind == "u8":
            if self.buffers[x].quant is None:
                compute = "bf16"
            else:
                scales = [(np.abs(m).max(1) / 127).astype(np.float32) for m in (w, r)]
                w, r = (np.rint(m / s[:, None]) * s[:, None] for m, s in zip((w, r), scales, strict=True))
                more = {"weight_scale_input": scales[0], "weight_scale_hidden": scales[1],
                        "x_quant": self.buffers[x].quant}  # fmt: skip
        bias = rng.standard_normal((2, rows)).astype(np.float32) * 0.3
        y = self.storage(hidden, self.counts[x])
        if self.buffers[y].kind == "u8":  # results of a layer lie in [-1, 1]
            self.buffers[y] = replace(self.buffers[y], quant=Quantised(1 / 127, 128))
        self.steps.append(
            Recurrent(
                cell,
                x,
                y,
                w.astype(np.float32),
                r.astype(np.float32),
                bias[0],
                bias[1],
                bool(rng.integers(2)),
                compute,
                **more,
            )
        )

    def program(self, steps: int, *, recurrent: bool) -> Program:
        if self.kind == "u8":
            self.steps.append(
                Elementwise(0, self.add_buffer(Buffer(self.x.shape[1], "u8", self.scale()), self.frames))
            )
        makers = [self.conv, self.conv, self.conv, self.residual, self.elementwise, self.gather]
        makers += [self.recurrent, self.recurrent] if recurrent else []
        for _ in range(steps):
            self.pick(makers)()
        last = len(self.buffers) - 1
        channels, frames = self.buffers[last].channels, self.counts[last]
        y = self.add_buffer(Buffer(channels, "f32"), frames)
        self.steps.append(LogSoftmax(last, y) if self.rng.random() < 0.3 else Elementwise(last, y))
        layout = self.pick(("TNC", "NCT"))
        return Program(tuple(self.buffers), tuple(self.steps), 0, y, layout, "x", "y")


def worst(program: Program, x: np.ndarray, threads: int = 2) -> float:
    """Largest difference from float64 relative to the largest value, infinite where shapes differ."""
    kernels = Kernels(program)
    kernels.run(np.full_like(x, np.nan), threads)  # whatever memory holds from before must not matter
    got, want = kernels.run(x, threads), reference.run(program, x)
    if got.shape != want.shape or not np.isfinite(got).all():
        return np.inf
    return float(np.abs(got - want).max() / max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("part", range(6))
def test_random_float_programs(part: int, recurrent: bool) -> None:
    for seed in range(part * 12, part * 12 + 12):
        drawn = Drawn(seed, "f32")
        program = drawn.program(5, recurrent=recurrent)
        assert worst(program, drawn.x, 1 + seed % 3) < 5e-5, f"seed {seed}"
