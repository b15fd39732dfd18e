"""The compiled kernels against float64 numpy, over shapes, kinds, paddings and thread counts; and mutants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rubicc.backends.cpu_gpu.native import build, pack
from rubicc.backends.cpu_gpu.native.engine import Kernels
from rubicc.backends.cpu_gpu.native.program import (
    Activation,
    Buffer,
    Conv,
    Elementwise,
    Gather,
    LogSoftmax,
    Program,
    Quantised,
)
from rubicc.errors import UsageError

pytestmark = pytest.mark.skipif(not build.compiler(), reason="no C++ compiler on this machine")

# cin, cout, taps, stride, dilation, groups, pads, frames
SHAPES = (
    (1, 16, 9, 3, 1, 1, (4, 4), 100),
    (1, 7, 5, 1, 1, 1, (2, 2), 101),
    (1, 24, 5, 2, 3, 1, (2, 7), 60),
    (32, 32, 11, 1, 1, 4, (5, 5), 77),
    (40, 40, 31, 1, 1, 5, (15, 15), 129),
    (16, 16, 8, 1, 2, 2, (3, 9), 50),
    (16, 16, 5, 2, 1, 2, (2, 2), 51),
    (20, 40, 3, 1, 1, 1, (1, 1), 33),
    (64, 5, 1, 1, 1, 1, (0, 0), 33),
    (64, 64, 3, 1, 1, 4, (1, 1), 33),
    (32, 32, 7, 1, 1, 32, (3, 3), 40),
    (48, 80, 4, 1, 1, 1, (0, 3), 1),
)
TOLERANCE = {"f32": 2e-5, "u8": 2e-5, "bf16": 4e-2}


def convolve(x: np.ndarray, w: np.ndarray, bias: np.ndarray, conv: Conv) -> np.ndarray:
    """float64 convolution by its definition."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), conv.pads))
    outputs, inputs, taps = w.shape
    frames = (x.shape[2] - conv.dilation * (taps - 1) - 1) // conv.stride + 1
    y = np.zeros((len(x), outputs, frames)) + bias[:, None]
    made = outputs // conv.groups
    for group in range(conv.groups):
        rows = slice(group * made, (group + 1) * made)
        part = x[:, group * inputs : (group + 1) * inputs]
        for tap in range(taps):
            at = tap * conv.dilation
            seen = part[:, :, at : at + (frames - 1) * conv.stride + 1 : conv.stride]
            y[:, rows] += np.einsum("oc,nct->not", w[rows, :, tap].astype(np.float64), seen)
    return y


def case(shape: tuple, kind: str, seed: int = 0, activations: tuple = ()) -> tuple[Program, np.ndarray, Conv]:
    cin, cout, taps, stride, dilation, groups, pads, frames = shape
    rng = np.random.default_rng(seed)
    w = (rng.standard_normal((cout, cin // groups, taps)) / np.sqrt(cin // groups * taps)).astype(np.float32)
    bias = rng.standard_normal(cout).astype(np.float32)
    x = rng.standard_normal((3, cin, frames)).astype(np.float32)
    scale = None
    buffers, steps = [Buffer(cin, "f32")], []
    if kind == "u8":
        scale = (np.abs(w).max((1, 2)) / 127).astype(np.float32)
        w = np.rint(w / scale[:, None, None]).astype(np.int8)
        buffers.append(Buffer(cin, "u8", Quantised(float(np.float32(4 / 127)), 100)))
        steps.append(Elementwise(0, 1))
    buffers.append(Buffer(cout, "f32"))
    conv = Conv(len(steps), len(steps) + 1, w, bias, scale, stride, dilation, groups, pads,
                activations=activations, compute=kind)  # type: ignore[arg-type]  # fmt: skip
    program = Program(tuple(buffers), (*steps, conv), 0, len(buffers) - 1, "NCT", "x", "y")
    return program, x, conv


def expected(program: Program, x: np.ndarray, conv: Conv) -> np.ndarray:
    w, quant = conv.weight.astype(np.float64), program.buffers[conv.x].quant
    real = x.astype(np.float64)
    if quant is not None and conv.weight_scale is not None:
        w = w * conv.weight_scale[:, None, None].astype(np.float64)
        inverse = np.float32(1.0 / quant.scale)
        real = (np.clip(np.rint(x * inverse) + quant.zero_point, 0, 255) - quant.zero_point) * quant.scale
    return convolve(real, w, conv.bias.astype(np.float64), conv)


@pytest.mark.parametrize("kind", ["f32", "bf16", "u8"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolution(shape: tuple, kind: str) -> None:
    program, x, conv = case(shape, kind)
    if pack.unsupported(conv):
        pytest.skip(pack.unsupported(conv))
    want = expected(program, x, conv)
    kernels = Kernels(program)
    for threads in (1, 2, 5):
        got = kernels.run(x, threads)
        assert got.shape == want.shape
        assert np.abs(got - want).max() < TOLERANCE[kind]


@pytest.mark.parametrize("change", ["stride", "dilation", "pads", "weight", "bias"])
def test_a_wrong_convolution_is_seen(change: str) -> None:
    program, x, conv = case((32, 32, 11, 1, 1, 4, (5, 5), 77), "u8")
    weight = np.array(conv.weight)
    weight[7, 3, 10] += 1
    wrong = {
        "stride": {"stride": 2, "pads": (5, 82)},
        "dilation": {"dilation": 2, "pads": (10, 10)},
        "pads": {"pads": (6, 4)},
        "weight": {"weight": weight},
        "bias": {"bias": conv.bias + np.float32(1e-3)},
    }[change]
    mutant = replace(program, steps=(*program.steps[:-1], replace(conv, **wrong)))  # type: ignore[arg-type]
    want = expected(program, x, conv)
    got = Kernels(mutant).run(x, 2)
    assert got.shape != want.shape or np.abs(got - want).max() > 10 * TOLERANCE["u8"]


@pytest.mark.parametrize(
    ("function", "formula"),
    [
        (Activation("relu"), lambda v: np.maximum(v, 0)),
        (Activation("silu"), lambda v: v / (1 + np.exp(-v))),
        (Activation("tanh"), np.tanh),
        (Activation("sigmoid"), lambda v: 1 / (1 + np.exp(-v))),
        (Activation("clip", -0.5, 0.7), lambda v: np.clip(v, -0.5, 0.7)),
        (Activation("affine", 2.0, -1.0), lambda v: 2 * v - 1),
        (Activation("gelu"), None),
    ],
)
def test_functions(function: Activation, formula) -> None:  # type: ignore[no-untyped-def]
    program, x, conv = case((16, 32, 3, 1, 1, 1, (1, 1), 40), "f32", activations=(function,))
    plain = expected(program, x, conv)
    if formula is None:
        from math import erf

        want = np.vectorize(lambda v: 0.5 * v * (1 + erf(v / 2**0.5)))(plain)
    else:
        want = formula(plain)
    assert np.abs(Kernels(program).run(x) - want).max() < 3e-5
    far = x * 40  # saturated tails
    want = expected(program, far, conv)
    if formula is not None and function.function in ("tanh", "sigmoid"):
        with np.errstate(over="ignore"):
            assert np.abs(Kernels(program).run(far) - formula(want)).max() < 3e-5


def test_int8_results_are_those_of_exact_arithmetic() -> None:
    """u8 in, residual, ReLU, u8 out: every integer is what float64 gives."""
    rng = np.random.default_rng(3)
    q = Quantised(0.05, 128)
    out = Quantised(0.031, 0)
    w = rng.integers(-127, 128, (32, 4, 9)).astype(np.int8)
    scale = rng.uniform(0.001, 0.002, 32).astype(np.float32)
    bias = rng.standard_normal(32).astype(np.float32)
    conv = Conv(1, 2, w, bias, scale, 1, 1, 8, (4, 4), None, 1, (Activation("relu"),), "u8")
    buffers = (Buffer(32, "f32"), Buffer(32, "u8", q), Buffer(32, "u8", out), Buffer(32, "f32"))
    program = Program(buffers, (Elementwise(0, 1), conv, Elementwise(2, 3)), 0, 3, "NCT", "x", "y")
    whole = rng.integers(0, 256, (2, 32, 200))
    x = ((whole - 128) * 0.05).astype(np.float32)
    real = (whole - 128) * q.scale
    exact = convolve(real, w * scale[:, None, None].astype(np.float64), bias.astype(np.float64), conv) + real
    want = np.clip(np.rint(np.maximum(exact, 0) / out.scale), 0, 255)
    got = np.rint(Kernels(program).run(x, 2) / np.float32(out.scale))
    assert np.array_equal(got, want)


def test_gather_and_log_softmax() -> None:
    rng = np.random.default_rng(0)
    index = np.array([-1, 0, 1, -1, 2, 3, 5], np.int32)
    buffers = (Buffer(6, "f32"), Buffer(7, "f32"), Buffer(7, "f32"))
    program = Program(buffers, (Gather(0, 1, index, 2.5), LogSoftmax(1, 2)), 0, 2, "TNC", "x", "y")
    x = rng.standard_normal((2, 6, 21)).astype(np.float32)
    picked = np.where(index[None, :, None] < 0, 2.5, x[:, index])
    want = picked - np.log(np.exp(picked).sum(axis=1, keepdims=True))
    assert np.abs(Kernels(program).run(x, 2) - want.transpose(2, 0, 1)).max() < 1e-5


def test_an_input_shorter_than_the_kernel_is_refused() -> None:
    program, _, _ = case((16, 16, 9, 1, 1, 1, (0, 0), 40), "f32")
    with pytest.raises(UsageError, match="RUB-CPU-062"):
        Kernels(program).run(np.zeros((1, 16, 5), np.float32))


def test_concurrent_calls_do_not_mix() -> None:
    from concurrent.futures import ThreadPoolExecutor

    program, x, _ = case((32, 32, 11, 1, 1, 4, (5, 5), 77), "f32")
    kernels = Kernels(program)
    arrays = [x * (1 + i) for i in range(12)]
    want = [kernels.run(array, 1) for array in arrays]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda array: kernels.run(array, 2), arrays))
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
