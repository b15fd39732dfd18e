"""Recurrent layers of the interpreter against formulas written out here and PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coreml_kernels import ran
from torch import nn

from rubicc.backends.coreml.run.kernels import cells
from rubicc.errors import ModelRefused

RNG = np.random.default_rng(5)
STEPS, BATCH, INPUTS, SIZE = 6, 2, 3, 4


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gru_reference(
    x: np.ndarray, h: np.ndarray, w: np.ndarray, r: np.ndarray, b: np.ndarray, back: bool
) -> np.ndarray:
    """Reset before the product, as the older file format's layer defines it; states in the order made."""
    made = []
    for step in x[::-1] if back else x:
        w_r, w_o, w_z = np.split(w.astype(np.float64), 3)
        r_r, r_o, r_z = np.split(r.astype(np.float64), 3)
        b_r, b_o, b_z = np.split(b.astype(np.float64), 3)
        reset = sigmoid(step @ w_r.T + h @ r_r.T + b_r)
        update = sigmoid(step @ w_z.T + h @ r_z.T + b_z)
        new = np.tanh(step @ w_o.T + (reset * h) @ r_o.T + b_o)
        h = (1 - update) * new + update * h
        made.append(h)
    return np.stack(made)


def gru_results(whole: bool, dtype: str = "fp32") -> list[tuple[str, str, tuple[int, ...]]]:
    return [("o", dtype, (STEPS if whole else 1, BATCH, SIZE)), ("h", dtype, (BATCH, SIZE))]


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("whole", [True, False])
def test_gru_resets_before_the_product(direction: str, whole: bool, tmp_path: Path) -> None:
    x, h = random(STEPS, BATCH, INPUTS), random(BATCH, SIZE)
    w, r, b = random(3 * SIZE, INPUTS), random(3 * SIZE, SIZE), random(3 * SIZE)
    given = {"initial_h": h, "weight_ih": w, "weight_hh": r, "bias": b}
    more = {"direction": direction, "output_sequence": np.bool_(whole)}
    made, last = ran(tmp_path, "gru", gru_results(whole), x=x, **given, **more)
    want = gru_reference(x, h, w, r, b, direction == "reverse")
    assert np.allclose(made, want if whole else want[-1:], rtol=0, atol=1e-12)
    assert np.allclose(last, want[-1], rtol=0, atol=1e-12)


def test_gru_with_reset_after_is_pytorchs(tmp_path: Path) -> None:
    torch.manual_seed(3)
    layer = nn.GRU(INPUTS, SIZE).double()
    x, h = random(STEPS, BATCH, INPUTS), random(BATCH, SIZE)
    held = {name: tensor.detach().float() for name, tensor in layer.named_parameters()}
    layer.load_state_dict({f"{name}": tensor.double() for name, tensor in held.items()})
    want, last = layer(torch.from_numpy(x).double(), torch.from_numpy(h).double()[None])

    def ordered(tensor: torch.Tensor) -> np.ndarray:
        # PyTorch: reset, update, new. MIL: reset, new, update.
        reset, update, new = tensor.split(SIZE)
        return torch.cat([reset, new, update]).numpy()

    given = {
        "weight_ih": ordered(held["weight_ih_l0"]),
        "weight_hh": ordered(held["weight_hh_l0"]),
        "bias": ordered(held["bias_hh_l0"]),
        "input_bias": ordered(held["bias_ih_l0"]),
        "reset_after": np.True_,
        "output_sequence": np.True_,
    }
    made, final = ran(tmp_path, "gru", gru_results(True), "CoreML8", x=x, initial_h=h, **given)
    assert np.allclose(made, want.detach().numpy(), rtol=0, atol=1e-12)
    assert np.allclose(final, last[0].detach().numpy(), rtol=0, atol=1e-12)


def test_states_are_rounded_after_every_step_under_fp16(tmp_path: Path) -> None:
    """A state of fp16 is what the next step reads: one unit that adds 2**-12 to 1 never leaves 1."""
    steps = 8
    x = np.full((steps, 1, 1), 2.0**-12, np.float32)
    one_ = np.ones((1, 1), np.float32)
    results = [("o", "fp16", (steps, 1, 1)), ("h", "fp16", (1, 1))]
    given = {"x": x, "initial_h": one_, "weight_ih": one_, "weight_hh": one_, "activation": "linear"}
    (made, _) = ran(tmp_path, "rnn", results, "CoreML7", "fp16", output_sequence=np.True_, **given)
    assert made.dtype == np.float16 and (made == 1).all()
    (tmp_path / "b").mkdir()
    (made, _) = ran(tmp_path / "b", "rnn", results, "CoreML7", "fp32", output_sequence=np.True_, **given)
    assert np.array_equal(made.reshape(-1), 1 + 2.0**-12 * np.arange(1, steps + 1, dtype=np.float32))


def lstm_reference(
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    w: np.ndarray,
    r: np.ndarray,
    b: np.ndarray,
    peep: np.ndarray,
    clip: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Gates input, forget, output, cell; the output gate looks at the new cell."""
    made = []
    p_i, p_f, p_o = np.split(peep.astype(np.float64), 3)
    for step in x:
        i, f, o, g = np.split(step @ w.astype(np.float64).T + h @ r.astype(np.float64).T + b, 4, -1)
        c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(g)
        c = np.clip(c, -clip, clip)
        h = sigmoid(o + p_o * c) * np.tanh(c)
        made.append(h)
    return np.stack(made), c


@pytest.mark.parametrize("peeking", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lstm(direction: str, peeking: bool, tmp_path: Path) -> None:
    ways = 2 if direction == "bidirectional" else 1
    clip = 0.4 if peeking else 1e9
    x = random(STEPS, BATCH, INPUTS)
    h, c = random(BATCH, ways * SIZE), random(BATCH, ways * SIZE)
    peep = [random(3 * SIZE) if peeking else np.zeros(3 * SIZE, np.float32) for _ in range(ways)]
    weights = [(random(4 * SIZE, INPUTS), random(4 * SIZE, SIZE), random(4 * SIZE)) for _ in range(ways)]
    given: dict[str, Any] = {"x": x, "initial_h": h, "initial_c": c, "direction": direction}
    for (w, r, b), p, end in zip(weights, peep, ("", "_back"), strict=False):
        given |= {f"weight_ih{end}": w, f"weight_hh{end}": r, f"bias{end}": b}
        if peeking:
            given[f"peephole{end}"] = p
    if peeking:
        given["clip"] = np.float32(clip)
    wide = ways * SIZE
    results = [
        ("o", "fp32", (STEPS, BATCH, wide)),
        ("h", "fp32", (BATCH, wide)),
        ("c", "fp32", (BATCH, wide)),
    ]
    made, last, cell = ran(tmp_path, "lstm", results, output_sequence=np.True_, **given)
    if direction == "reverse":
        want, want_c = lstm_reference(x[::-1], h, c, *weights[0], peep[0], np.float32(clip))
        want_h = want[-1]
    else:
        want, want_c = lstm_reference(x, h[:, :SIZE], c[:, :SIZE], *weights[0], peep[0], np.float32(clip))
        want_h = want[-1]
    if ways == 2:
        back, back_c = lstm_reference(
            x[::-1], h[:, SIZE:], c[:, SIZE:], *weights[1], peep[1], np.float32(clip)
        )
        want_h, want_c = np.concatenate([want_h, back[-1]], 1), np.concatenate([want_c, back_c], 1)
        want = np.concatenate([want, back[::-1]], 2)
    for got, right in ((made, want), (last, want_h), (cell, want_c)):
        assert np.allclose(got, right, rtol=0, atol=1e-12)


def test_an_activation_not_known_is_refused(tmp_path: Path) -> None:
    one_ = np.ones((1, 1), np.float32)
    given = {"initial_h": one_, "weight_ih": one_, "weight_hh": one_, "activation": "swish"}
    with pytest.raises(ModelRefused, match=r"RUB-COREML-240.*activation swish.*rnn"):
        ran(tmp_path, "rnn", [("o", "fp32", (1, 1, 1)), ("h", "fp32", (1, 1))], x=one_[None], **given)


def test_the_steps_are_the_same_with_and_without_torchscript(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch has no TorchScript any more, the functions run as they stand."""

    def gone(steps: object) -> object:
        raise RuntimeError("not here")

    monkeypatch.setattr(torch.jit, "script", gone)
    plain = cells.quick(cells._lstm)
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    given = (draw(5, 2, 16), draw(2, 4), draw(2, 4), draw(4, 16), draw(12))
    made, cell = plain(*given, "sigmoid", "tanh", "relu", 0.5, True)
    want, want_cell = cells.lstm_steps(*given, "sigmoid", "tanh", "relu", 0.5, True)
    assert torch.equal(torch.stack(made), torch.stack(want)) and torch.equal(cell, want_cell)
