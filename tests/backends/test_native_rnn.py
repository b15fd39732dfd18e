"""GRU and LSTM kernels, compiled by themselves, against numpy in float64, torch and emulated rounding."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import shutil
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from rubicc.backends.cpu_gpu.native import pack_rnn
from rubicc.backends.cpu_gpu.native.pack import aligned, to_bf16
from rubicc.backends.cpu_gpu.native.program import Buffer, Program, Quantised, Recurrent
from rubicc.errors import Unsupported

KERNELS = Path(str(files("rubicc.backends.cpu_gpu.native"))) / "kernels"
X_QUANT = Quantised(0.03, 131)
ENTRY = """
#include "rnn.h"
extern "C" int rnn_size() { return sizeof(rubicc::RnnStep); }
extern "C" void rnn_run(const rubicc::RnnStep *s, const char *x, ptrdiff_t x_frame, char *y,
                        ptrdiff_t y_frame, int frames, int rows) {
    rubicc::Scratch scratch;
    rubicc::run_rnn(*s, x, x_frame, y, y_frame, frames, rows, scratch);
}
"""
Array = np.ndarray
Run = Callable[..., Array]


def compiled(folder: Path, *flags: str) -> ctypes.CDLL:
    """The kernels behind two C functions."""
    path = shutil.which("g++")
    if not path:
        pytest.skip("no g++ on this machine")
    source, target = folder / "entry.cpp", folder / "entry.so"
    source.write_text(ENTRY)
    command = [path, "-O3", *flags, "-std=c++17", "-shared", "-fPIC", "-w", f"-I{KERNELS}", str(source)]
    subprocess.run([*command, "-o", str(target)], check=True, capture_output=True, timeout=300)
    library = ctypes.CDLL(str(target))
    pointer, long = ctypes.c_void_p, ctypes.c_ssize_t
    library.rnn_run.argtypes = [pointer, pointer, long, pointer, long, ctypes.c_int, ctypes.c_int]
    return library


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ctypes.CDLL]:
    """The kernels for one kind of machine; compiled once."""
    return functools.cache(lambda arch: compiled(tmp_path_factory.mktemp("rnn"), f"-march={arch}"))


@pytest.fixture(scope="module", params=["native", "x86-64"])
def kernels(request: pytest.FixtureRequest, build: Callable[[str], ctypes.CDLL]) -> ctypes.CDLL:
    return build(request.param)


@pytest.fixture(scope="module")
def native(build: Callable[[str], ctypes.CDLL]) -> ctypes.CDLL:
    return build("native")


# ---- layers, storage, references


def layer(
    cell: str, inputs: int, hidden: int, compute: str = "f32", seed: int = 0, **more: object
) -> Recurrent:
    """A layer with weights of a trained one's size."""
    rng = np.random.default_rng(seed)
    rows = pack_rnn.GATES[cell] * hidden
    w = {
        "w_input": (rng.normal(size=(rows, inputs)) * 1.2 / np.sqrt(inputs)).astype(np.float32),
        "w_hidden": (rng.normal(size=(rows, hidden)) * 1.2 / np.sqrt(hidden)).astype(np.float32),
    }
    if compute == "u8":
        for name in ("input", "hidden"):
            scale = (np.abs(w[f"w_{name}"]).max(axis=1) / 127).astype(np.float32)
            w[f"w_{name}"] = np.rint(w[f"w_{name}"] / scale[:, None]).astype(np.float32) * scale[:, None]
            more[f"weight_scale_{name}"] = scale
        more["x_quant"] = X_QUANT
    biases = rng.normal(size=(2, rows)).astype(np.float32) * 0.3
    return Recurrent(cell, 0, 1, **w, bias_input=biases[0], bias_hidden=biases[1], compute=compute, **more)  # type: ignore[arg-type]


def signal(frames: int, rows: int, channels: int, seed: int = 1) -> Array:
    """Smooth along frames, as the outputs of a layer are."""
    noise = np.random.default_rng(seed).normal(size=(frames + 4, rows, channels))
    return (np.stack([noise[i : i + frames] for i in range(5)]).sum(axis=0) / 2.2).astype(np.float32)


def from_bf16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantised(x: Array, quant: Quantised) -> Array:
    return (np.rint(x / np.float64(quant.scale)) + quant.zero_point).clip(0, 255).astype(np.uint8)


def rounded(x: Array, kind: str, quant: Quantised) -> Array:
    """What storage in ``kind`` leaves of ``x``, float64."""
    if kind == "f32":
        return np.asarray(x, np.float64)
    if kind == "bf16":
        return from_bf16(to_bf16(np.asarray(x, np.float32))).astype(np.float64)
    return (quantised(x, quant).astype(np.float64) - quant.zero_point) * quant.scale


def stored(x: Array, kind: str, quant: Quantised) -> Array:
    """Rows padded to 16 elements in storage ``kind``; padding holds rubbish that must not count."""
    values = {"f32": lambda: x, "bf16": lambda: to_bf16(x), "u8": lambda: quantised(x, quant)}[kind]()
    out = np.full((*x.shape[:2], -(-x.shape[2] // 16) * 16), 77, values.dtype)
    out[..., : x.shape[2]] = values
    return aligned(out)


def sigmoid(x: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(x / 2)


def reference(r: Recurrent, x: Array, exact: bool = False, mutant: str = "") -> Array:
    """ONNX GRU (linear_before_reset) or LSTM in float64, rounding as ``r.compute`` does unless ``exact``."""
    kind = "f32" if exact else r.compute
    weights = [rounded(w, kind if kind == "bf16" else "f32", X_QUANT) for w in (r.w_input, r.w_hidden)]
    inputs = rounded(x, kind, r.x_quant or X_QUANT) @ weights[0].T + r.bias_input.astype(np.float64)
    bias = r.bias_hidden.astype(np.float64)
    hidden, order = r.w_hidden.shape[1], range(len(x))
    h = c = np.zeros((x.shape[1], hidden))
    out = np.zeros((*x.shape[:2], hidden))
    for t in reversed(order) if r.reverse and mutant != "forwards" else order:
        seen = rounded(h, kind, pack_rnn.STATE)
        a = np.split(inputs[t], len(bias) // hidden, axis=1)
        b = np.split(seen @ weights[1].T + bias, len(bias) // hidden, axis=1)
        if mutant == "swapped":
            a[0], a[1], b[0], b[1] = a[1], a[0], b[1], b[0]
        if r.cell == "gru":
            z, reset = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
            late = reset * b[2]
            if mutant == "reset first":
                late = (reset * seen) @ weights[1][2 * hidden :].T + bias[2 * hidden :]
            n = np.tanh(a[2] + late)
            h = n + z * (h - n)
        else:
            i, o, f = (sigmoid(a[k] + b[k]) for k in range(3))
            c = f * c + i * np.tanh(a[3] + b[3])
            h = o * np.tanh(c)
        out[t] = h
    return out


def run(library: ctypes.CDLL, r: Recurrent, x: Array, y_kind: str = "f32", y_quant: Quantised | None = None,
        gap: int = 0) -> Array:  # fmt: skip
    """The kernel's result as floats, all padded channels; ``gap`` rows lie unused between frames."""
    frames, rows, _ = x.shape
    kept: list[Array] = []

    def keep(array: Array) -> int:
        kept.append(array)
        return int(array.ctypes.data)

    buffer = stored(np.pad(x, ((0, 0), (0, gap), (0, 0))), r.compute, r.x_quant or X_QUANT)
    packed = pack_rnn.pack(r, buffer.shape[2])
    quant = y_quant or pack_rnn.STATE
    step = pack_rnn.step_of(r, packed, y_kind, quant, keep)
    dtype = {"f32": np.float32, "bf16": np.uint16, "u8": np.uint8}[y_kind]
    y = np.full((frames, rows + gap, packed.hidden), 99, dtype)
    library.rnn_run(
        ctypes.addressof(step),
        buffer.ctypes.data,
        buffer.strides[0],
        y.ctypes.data,
        y.strides[0],
        frames,
        rows,
    )
    assert (y[:, rows:] == 99).all()
    y = y[:, :rows]
    if y_kind == "bf16":
        return from_bf16(y)
    return y if y_kind == "f32" else (y.astype(np.float32) - quant.zero_point) * np.float32(quant.scale)


def snr(got: Array, want: Array) -> float:
    """Decibels."""
    return float(10 * np.log10((want**2).sum() / max(((got - want) ** 2).sum(), 1e-30)))


def real(got: Array, r: Recurrent) -> Array:
    return got[..., : r.w_hidden.shape[1]]


# ---- tests

# Against an emulation: bf16 and u8 differ where a state lies on a rounding boundary, once in a while.
EMULATED = {"f32": 110, "bf16": 60, "u8": 50}
EXACT = {"f32": 110, "bf16": 40, "u8": 35}


@pytest.mark.parametrize("compute", ["f32", "bf16", "u8"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_matches_float64_and_the_emulated_rounding(kernels: ctypes.CDLL, cell: str, compute: str) -> None:
    r = layer(cell, 48, 32, compute)
    x = signal(60, 7, 48)
    got = real(run(kernels, r, x), r)
    assert snr(got, reference(r, x)) > EMULATED[compute]
    assert snr(got, reference(r, x, exact=True)) > EXACT[compute]
    if compute == "f32":
        np.testing.assert_allclose(got, reference(r, x), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("compute", ["f32", "bf16", "u8"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_rows_do_not_see_each_other(native: ctypes.CDLL, cell: str, compute: str) -> None:
    r = layer(cell, 32, 32, compute)
    x = signal(9, 33, 32)
    whole = run(native, r, x)
    assert snr(whole, reference(r, x)) > EMULATED[compute]
    for rows in range(1, 34):
        np.testing.assert_array_equal(run(native, r, np.ascontiguousarray(x[:, :rows])), whole[:, :rows])


@pytest.mark.parametrize("compute", ["f32", "bf16", "u8"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize(("inputs", "hidden"), [(1, 5), (17, 33), (40, 16), (5, 50)])
def test_padding_is_exactly_zero(
    kernels: ctypes.CDLL, cell: str, compute: str, inputs: int, hidden: int
) -> None:
    r = layer(cell, inputs, hidden, compute)
    x = signal(12, 3, inputs)
    for kind in ("f32", compute):
        got = run(kernels, r, x, y_kind=kind)
        assert (got[..., hidden:] == 0).all()
        limit = {"f32": EMULATED[compute], "bf16": 45, "u8": 35}[kind]
        assert snr(real(got, r), reference(r, x)) > limit


@pytest.mark.parametrize("compute", ["f32", "bf16", "u8"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_reverse_runs_from_the_last_frame(native: ctypes.CDLL, cell: str, compute: str) -> None:
    r = layer(cell, 32, 48, compute)
    back = dataclasses.replace(r, reverse=True)
    x = signal(700, 11, 32)  # several blocks of frames, the last one short
    got = run(native, back, x)
    np.testing.assert_array_equal(got, run(native, r, np.ascontiguousarray(x[::-1]))[::-1])
    assert snr(got, reference(back, x)) > EMULATED[compute]
    assert snr(got, reference(back, x, mutant="forwards")) < 10


@pytest.mark.parametrize(
    ("cell", "mutant"), [("gru", "swapped"), ("lstm", "swapped"), ("gru", "reset first")]
)
def test_mutants_of_the_definition_fail(native: ctypes.CDLL, cell: str, mutant: str) -> None:
    r = layer(cell, 32, 32, "u8")
    x = signal(20, 4, 32)
    assert snr(run(native, r, x), reference(r, x, mutant=mutant)) < 25


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_few_frames(native: ctypes.CDLL, frames: int, reverse: bool) -> None:
    r = layer("lstm", 16, 16, reverse=reverse)
    x = signal(frames, 2, 16)
    np.testing.assert_allclose(run(native, r, x), reference(r, x), rtol=1e-5, atol=1e-6)


def test_frames_with_gaps_between_them(native: ctypes.CDLL) -> None:
    for compute in ("f32", "bf16", "u8"):
        r = layer("gru", 32, 32, compute)
        x = signal(30, 5, 32)
        np.testing.assert_array_equal(run(native, r, x, gap=3), run(native, r, x))


def test_results_in_another_quantisation(native: ctypes.CDLL) -> None:
    r = layer("gru", 32, 32, "u8")
    x = signal(30, 5, 32)
    wide = Quantised(1 / 100, 100)
    floats, got = run(native, r, x), run(native, r, x, "u8", wide)
    np.testing.assert_allclose(got, rounded(floats, "u8", wide), atol=1e-6)


def test_saturated_gates_stay_finite(kernels: ctypes.CDLL) -> None:
    for cell in ("gru", "lstm"):
        for compute in ("f32", "bf16"):
            r = layer(cell, 16, 16, compute)
            x = signal(20, 3, 16) * 1e4
            got = run(kernels, r, x)
            assert np.isfinite(got).all() and (np.abs(got) <= 1).all()
            assert snr(got, reference(r, x)) > 30


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_matches_torch(native: ctypes.CDLL, cell: str) -> None:
    torch = pytest.importorskip("torch")
    r = layer(cell, 24, 20)
    x = signal(40, 6, 24)
    module = (torch.nn.GRU if cell == "gru" else torch.nn.LSTM)(24, 20)
    order = [1, 0, 2] if cell == "gru" else [0, 2, 3, 1]  # torch: r z n, i f g o; ONNX: z r h, i o f c
    with torch.no_grad():
        for name in ("w_input", "w_hidden", "bias_input", "bias_hidden"):
            value = getattr(r, name)
            parts = value.reshape(pack_rnn.GATES[cell], 20, *value.shape[1:])[order]
            kind, place = name.split("_")
            target = f"{'weight' if kind == 'w' else 'bias'}_{'ih' if place == 'input' else 'hh'}_l0"
            getattr(module, target).copy_(torch.from_numpy(parts.reshape(value.shape)))
        want = module(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(real(run(native, r, x), r), want, rtol=1e-5, atol=3e-6)


def test_struct_has_the_size_that_the_kernels_expect(native: ctypes.CDLL) -> None:
    assert native.rnn_size() == ctypes.sizeof(pack_rnn.RnnStep)


def test_fill_keeps_what_the_struct_refers_to() -> None:
    r = layer("gru", 20, 24, "u8")
    buffers = (Buffer(20, "u8", X_QUANT), Buffer(24, "u8", Quantised(1 / 64, 64)))
    program = Program(buffers, (r,), 0, 1, "TNC", "x", "y")
    kept: list[object] = []
    step = pack_rnn.RnnStep.from_address(pack_rnn.fill(r, program, kept))
    assert (step.inputs, step.hidden, step.compute, step.y_kind, step.y_zero) == (32, 32, 2, 2, 64)
    assert step.y_scale == 1 / 64
    addresses = {a.ctypes.data for a in kept if isinstance(a, np.ndarray)}
    named = {step.w_input, step.w_hidden, step.bias, step.scale_input, step.scale_hidden}
    assert named == addresses and all(a % 64 == 0 for a in named)


def test_what_the_kernels_cannot_run_is_said() -> None:
    r = layer("gru", 16, 16, "u8")
    with pytest.raises(Unsupported) as caught:
        pack_rnn.pack(dataclasses.replace(r, weight_scale_input=None), 16)
    assert caught.value.code == "RUB-CPU-063"
    other = Program((Buffer(16, "f32"), Buffer(16, "f32")), (r,), 0, 1, "TNC", "x", "y")
    with pytest.raises(Unsupported, match="stored otherwise"):
        pack_rnn.fill(r, other, [])
