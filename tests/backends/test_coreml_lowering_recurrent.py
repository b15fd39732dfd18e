"""LSTM, GRU and RNN: gates, directions, states, layouts, and PyTorch's GRU on targets without its form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from coreml_graphs import TARGETS, Build, Net, compiled, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.backends.coreml.lowering import findings
from rubicc.backends.coreml.lowering.gru import STEP, two_step_weights

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, N, WIDTH, H = 6, 2, 3, 4
EXACT, TWO_STEPS = 2e-6, 2e-5  # the linear part of tanh errs by (v / 1024)^2 / 3


def layer(
    kind: str, directions: int = 1, *, states: bool = False, bias: bool = True, peepholes: bool = False,
    batch_first: bool = False, **attributes: Any,
) -> Build:  # fmt: skip
    """One layer with every output read."""
    gates = GATES[kind]
    shape = (N, T, WIDTH) if batch_first else (T, N, WIDTH)
    states_shape = (N, directions, H) if batch_first else (directions, N, H)
    feeds = {"x": normal(*shape)}
    if states:
        feeds["h"] = normal(*states_shape, seed=1)
        if kind == "LSTM":
            feeds["c"] = normal(*states_shape, seed=2)
    b = Build(**feeds)
    b(
        kind, "x", normal(directions, gates * H, WIDTH), normal(directions, gates * H, H),
        normal(directions, 2 * gates * H) if bias else None, None,
        *([] if not states else ["h", "c"] if kind == "LSTM" else ["h"]),
        *([normal(directions, 3 * H)] if peepholes else []),
        hidden_size=H, layout=int(batch_first), outputs=3 if kind == "LSTM" else 2, **attributes,
    )  # fmt: skip
    return b


def check(build: Build, target: str, most: float = EXACT, opset: int = 20) -> Net:
    made = compiled(build.graph(opset), target=target)
    assert made.gap(build.feeds) < most
    return made


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("states", [False, True])
def test_directions_and_states(kind: str, direction: str, states: bool) -> None:
    both = 2 if direction == "bidirectional" else 1
    made = check(layer(kind, both, states=states, direction=direction), "iOS17")
    assert made.counts[kind.lower()] == (2 if both == 2 and kind != "LSTM" else 1)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("directions", [1, 2])
def test_batch_first(kind: str, directions: int) -> None:
    direction = "bidirectional" if directions == 2 else "reverse"
    check(layer(kind, directions, states=True, batch_first=True, direction=direction), "iOS17")


def test_peepholes_activations_and_no_bias() -> None:
    check(layer("LSTM", peepholes=True, states=True), "iOS16")
    check(layer("LSTM", bias=False, activations=["Sigmoid", "Relu", "Tanh"]), "iOS17")
    check(layer("RNN", activations=["Relu"]), "iOS17")
    check(layer("GRU", bias=False), "iOS17")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_gru_in_pytorchs_form_is_exact(target: str, direction: str) -> None:
    build = layer(
        "GRU",
        2 if direction == "bidirectional" else 1,
        states=True,
        direction=direction,
        linear_before_reset=1,
    )
    native = target in ("iOS18", "iOS26")
    made = check(build, target, EXACT if native else TWO_STEPS)
    assert made.counts["gru"] == (2 if direction == "bidirectional" else 1)
    assert "while_loop" not in made.counts and "cond" not in made.counts
    (decision,) = made.lowered.decisions
    assert decision.code == "RUB-COREML-D12" and ("reset_after" in decision.what) == native


def test_the_two_forms_of_the_gru_differ() -> None:
    """Were they equal, the tests above could not tell them apart."""
    builds = [layer("GRU", linear_before_reset=form) for form in (0, 1)]
    before, after = (compiled(build.graph(), target="iOS18") for build in builds)
    assert before.gap(builds[0].feeds) < EXACT and after.gap(builds[1].feeds) < EXACT
    first, second = (net.run(builds[0].feeds)["gru0_0"] for net in (before, after))
    assert np.abs(first - second).max() > 1e-2


@pytest.mark.parametrize("hidden_bias", [False, True])
@pytest.mark.parametrize("target", ["iOS16", "iOS17", "iOS18"])
def test_torch_gru_with_and_without_hidden_bias(target: str, hidden_bias: bool) -> None:
    """Weights in PyTorch's order r z n; the hidden bias of n is inside the product with r."""
    torch.manual_seed(3)
    module = torch.nn.GRU(WIDTH, H).double()
    if not hidden_bias:
        torch.nn.init.zeros_(module.bias_hh_l0)
    x = normal(9, N, WIDTH)
    with torch.no_grad():
        want, last = module(torch.from_numpy(x).double())
    weights = [p.detach().numpy() for p in (module.weight_ih_l0, module.weight_hh_l0)]
    biases = [p.detach().numpy() for p in (module.bias_ih_l0, module.bias_hh_l0)]
    order = [1, 0, 2]  # ONNX: z r n
    w, r, *turned = (np.concatenate([np.split(a, 3)[k] for k in order]) for a in (*weights, *biases))
    b = Build(x=x)
    b(
        "GRU",
        "x",
        w[None],
        r[None],
        np.concatenate(turned)[None],
        hidden_size=H,
        linear_before_reset=1,
        outputs=2,
    )
    made = compiled(b.graph(), target=target).run(b.feeds)
    most = EXACT if target == "iOS18" else TWO_STEPS
    assert np.abs(made["gru0_0"][:, 0] - want.numpy()).max() < most
    assert np.abs(made["gru0_1"] - last.numpy()).max() < most


def numpy_gru(x: np.ndarray, h: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """MIL's gru as NeuralNetwork.proto writes it: the reset gate before the product; gates r o z."""

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    (w_r, w_o, w_z), (r_r, r_o, r_z), (b_r, b_o, b_z) = (
        np.split(weights[k], 3) for k in ("weight_ih", "weight_hh", "bias")
    )
    made = []
    for row in x:
        r, z = sigmoid(w_r @ row + r_r @ h + b_r), sigmoid(w_z @ row + r_z @ h + b_z)
        o = np.tanh(w_o @ row + r_o @ (r * h) + b_o)
        h = (1 - z) * o + z * h
        made.append(h)
    return np.array(made)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.floats(0.1, 3.0), st.integers(0, 2**32 - 1)
)
def test_two_steps_are_one_step_of_pytorchs_gru(h: int, i: int, steps: int, size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w, r = rng.normal(0, size, (3 * h, i)), rng.normal(0, size / h, (3 * h, h))
    bias, x = rng.normal(0, size, 6 * h), rng.normal(size=(steps, i))
    doubled = np.ones((2 * steps, i + 1))
    doubled[1::2] = np.hstack([x, np.zeros((steps, 1))])
    made = numpy_gru(doubled, np.zeros(2 * h), two_step_weights(w, r, bias))[1::2, :h]
    (w_z, w_r, w_n), (r_z, r_r, r_n) = np.split(w, 3), np.split(r, 3)
    b_z, b_r, b_n, h_z, h_r, h_n = np.split(bias, 6)
    state, largest = np.zeros(h), 0.0
    for step in range(steps):
        gate_r = 1 / (1 + np.exp(-(w_r @ x[step] + b_r + r_r @ state + h_r)))
        gate_z = 1 / (1 + np.exp(-(w_z @ x[step] + b_z + r_z @ state + h_z)))
        inner = r_n @ state + h_n
        largest = max(largest, float(np.abs(inner).max()))
        state = (1 - gate_z) * np.tanh(w_n @ x[step] + b_n + gate_r * inner) + gate_z * state
        bound = steps * (largest**3 * STEP**2 / 3 + 1e-9)  # each step's error, as if all were kept
        assert np.abs(made[step] - state).max() <= 10 * bound


def test_recurrent_layers_before_ios17_are_fp32_inside_fp16() -> None:
    for kind in GATES:
        build = layer(kind)
        old, new = (compiled(build.graph(), target=t, precision="fp16") for t in ("iOS16", "iOS17"))
        assert "RUB-COREML-D15" in old.codes and "RUB-COREML-D15" not in new.codes
        types = [
            {
                o.type.dtype
                for op in made.package.main.operations()
                if op.type == kind.lower()
                for o in op.outputs
            }
            for made in (old, new)
        ]
        assert types == [{"fp32"}, {"fp16"}]
        assert max(made.gap(build.feeds, "fp16") for made in (old, new)) < 2e-3


def test_two_steps_are_fp32_inside_fp16() -> None:
    """A power of two goes in and out of a half's range of exactness; fp32 keeps its digits."""
    build = layer("GRU", linear_before_reset=1)
    made = compiled(build.graph(), target="iOS17", precision="fp16")
    (operation,) = (op for op in made.package.main.operations() if op.type == "gru")
    assert {value.type.dtype for value in operation.outputs} == {"fp32"}
    assert made.gap(build.feeds, "fp16") < 2e-3


def test_the_axis_of_directions_is_never_made_for_those_who_drop_it() -> None:
    """Exporters squeeze it at once, or move it beside the units."""
    b = Build(x=normal(T, N, WIDTH))
    one, _ = b("GRU", "x", normal(1, 3 * H, WIDTH), normal(1, 3 * H, H), hidden_size=H, outputs=2)
    b("Relu", b("Squeeze", one, np.array([1])))
    two, _ = b(
        "LSTM",
        "x",
        normal(2, 4 * H, WIDTH),
        normal(2, 4 * H, H),
        hidden_size=H,
        direction="bidirectional",
        outputs=2,
    )
    b("Relu", b("Reshape", b("Transpose", two, perm=[0, 2, 1, 3]), np.array([T, N, 2 * H])))
    made = check(b, "iOS17")
    states = {"expand_dims": 1, "reshape": 1, "transpose": 1}  # of the final states, which are outputs here
    assert {k: v for k, v in made.counts.items() if k in ("squeeze", *states)} == states


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("ranges", ["x=6x1..4x3", "x=2..9x2x3", "x=2..9x1..4x3"])
def test_free_time_and_batch(kind: str, ranges: str) -> None:
    build = layer(kind, 2, direction="bidirectional", **({"linear_before_reset": 1} if kind == "GRU" else {}))
    steps = "T" if ranges.startswith("x=2..9") else T
    batch = "N" if "1..4" in ranges else N
    made = compiled(build.graph(x=(steps, batch, WIDTH)), shapes=ranges)
    for t, n in ((steps if steps == T else 3, batch if batch == N else 1), (T, N)):
        assert made.gap({"x": normal(t, n, WIDTH)}) < TWO_STEPS


@pytest.mark.parametrize(
    ("kind", "attributes", "code"),
    [
        ("LSTM", {"clip": 1.0}, "RUB-COREML-103"),
        ("LSTM", {"input_forget": 1}, "RUB-COREML-103"),
        ("RNN", {"activations": ["Softsign"]}, "RUB-COREML-103"),
        ("GRU", {"linear_before_reset": 1, "activations": ["Sigmoid", "Relu"]}, "RUB-COREML-102"),
    ],
)
def test_what_the_operations_cannot_do_is_refused(kind: str, attributes: Any, code: str) -> None:
    (finding,) = findings(layer(kind, **attributes).graph(), "iOS17")
    assert finding.rule == code and finding.source == f"net.{kind.lower()}0_0"


def test_the_target_that_takes_other_activations_after_the_reset_is_named() -> None:
    build = layer("GRU", linear_before_reset=1, activations=["Sigmoid", "Relu"])
    (finding,) = findings(build.graph(), "iOS16")
    assert "iOS18" in finding.reason and "coreml:iOS18" in finding.remedy
    check(build, "iOS18")
