"""Quantisers as standard arithmetic: the numbers of our executor, and of qonnx itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pass_graphs import graph, node, weights

from rubicc.errors import Unsupported
from rubicc.ir.executor import execute
from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.lower import expand_quant
from rubicc.passes.lower.expand_quant import ExpandQuant

EXPAND = "lower.expand-quant"
# Borders, halves and values far outside, beside ordinary ones; -0.0 and infinities too.
EDGES = np.array(
    [0, -0.0, 0.05, 0.15, 0.25, -0.25, -0.15, 0.7, 0.75, -0.8, -0.85, 100, -100, np.inf, -np.inf, 1e-8],
    np.float32,
)


def quantised(
    bits: float = 4,
    *,
    zero: float = 0,
    scale: object = 0.1,
    signed: int = 1,
    narrow: int = 0,
    mode: str = "ROUND",
) -> Graph:
    constants = {"s": np.asarray(scale, np.float32), "z": np.float32(zero), "bits": np.float32(bits)}
    quant = node("Quant", "x s z bits", "q", signed=signed, narrow=narrow, rounding_mode=mode)
    return graph([quant, node("Neg", "q", "y")], {"x": ("N", 16)}, {"y": ("N", 16)}, constants)


def edges() -> dict[str, np.ndarray]:
    return {"x": np.stack([EDGES, EDGES * np.float32(1.7)])}


MODES = ["ROUND", "HALF_EVEN", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN", "round"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("zero", [0, 3])
def test_every_rounding_mode_gives_the_same_numbers(mode: str, zero: float) -> None:
    done = apply_and_check(EXPAND, quantised(mode=mode, zero=zero), [edges()], expect_changed=True)
    assert QONNX_DOMAIN not in {n.domain for n in done.graph.nodes}
    assert {n.metadata_props["rubicc.source"] for n in done.graph.nodes} == {"m.q", "m.y"}


@pytest.mark.parametrize(("bits", "signed", "narrow"), itertools.product([1, 2, 3, 4, 8, 16], [0, 1], [0, 1]))
def test_every_format_gives_the_numbers_of_qonnx(bits: int, signed: int, narrow: int) -> None:
    if bits == 1 and signed and narrow:
        pytest.skip("one signed bit is bipolar, narrow or not")
    from qonnx.custom_op.general.intquant import int_quant

    built = quantised(bits, signed=signed, narrow=narrow)
    done = apply_and_check(EXPAND, built, [edges()])
    ours = -execute(done.graph, edges())["y"]
    width = np.asarray(bits, np.float32)
    with np.errstate(all="ignore"):
        theirs = int_quant(
            edges()["x"], np.float32(0.1), np.float32(0), width, bool(signed), bool(narrow), "ROUND"
        )
    np.testing.assert_array_equal(ours, theirs.astype(np.float32))


def test_plain_quantiser_is_four_nodes() -> None:
    ops = {f"{QONNX_DOMAIN}::Quant": -1, "Div": 1, "Clip": 1, "Round": 1, "Mul": 1}
    apply_and_check(EXPAND, quantised(), expect_ops=ops)
    apply_and_check(EXPAND, quantised(zero=2), expect_ops={**ops, "Add": 1, "Sub": 1})
    per_channel = np.linspace(0.05, 0.3, 16)
    apply_and_check(EXPAND, quantised(scale=per_channel), [edges()], expect_ops=ops)


def test_weight_quantisers_become_stored_integers() -> None:
    constants = {
        "w": weights(6, 4, 3),
        "s": np.full((6, 1, 1), 0.1),
        "z": np.float32(0),
        "bits": np.float32(4),
    }
    nodes = [node("Quant", "w s z bits", "q", signed=1, narrow=1), node("Conv", "x q", "y")]
    built = graph(nodes, {"x": ("N", 4, "T")}, {"y": ("N", 6, "U")}, constants)
    done = apply_and_check(EXPAND, built, expect_ops={f"{QONNX_DOMAIN}::Quant": -1, "Cast": 1, "Mul": 1})
    stored = done.graph.ir.initializers["w_int"].const_value
    assert stored is not None and stored.numpy().dtype == np.int8
    assert np.abs(stored.numpy()).max() == 7  # four narrow signed bits


def test_quantiser_at_a_graph_output_and_with_computed_scale() -> None:
    constants = {"z": np.float32(0), "bits": np.float32(8)}
    nodes = [
        node("Abs", "x", "a"),
        node("ReduceMax", "a", "s", keepdims=0),
        node("Quant", "x s z bits", "y", signed=1, narrow=0),
    ]
    built = graph(nodes, {"x": ("N", 16)}, {"y": ("N", 16)}, constants)
    apply_and_check(EXPAND, built, expect_changed=True)


def test_bipolar_and_trunc() -> None:
    bipolar = node("BipolarQuant", "x s", "y")
    built = graph([bipolar], {"x": ("N", 16)}, {"y": ("N", 16)}, {"s": np.float32(0.3)})
    apply_and_check(EXPAND, built, [edges()], expect_changed=True)
    constants = {"s": np.float32(0.125), "z": np.float32(0), "b": np.float32(8), "o": np.float32(5)}
    trunc = node("Trunc", "x s z b o", "y", rounding_mode="FLOOR")
    built = graph([trunc], {"x": ("N", 16)}, {"y": ("N", 16)}, constants)
    apply_and_check(EXPAND, built, expect_changed=True)
    for zero in (0, 8):
        constants |= {"os": np.float32(0.5), "z": np.float32(zero)}
        trunc = node("Trunc", "x s z b os o", "y", rounding_mode="FLOOR", signed=1, narrow=0)
        built = graph([trunc], {"x": ("N", 16)}, {"y": ("N", 16)}, constants)
        apply_and_check(EXPAND, built, expect_changed=True)


def test_what_cannot_be_expanded_is_refused_whole() -> None:
    built = quantised()
    dynamic = graph(
        [
            node("Quant", "x s z b", "q", signed=1, narrow=0),
            node("Quant", "q s z b", "y", signed=1, narrow=0),
        ],
        {"x": ("N", 16), "b": ()},
        {"y": ("N", 16)},
        {"s": np.float32(0.1), "z": np.float32(0)},
    )
    with pytest.raises(Unsupported, match=r"RUB-PASS-010.*2 quantisers.*m\.q: its bit width.*m\.y") as caught:
        ExpandQuant().run(dynamic)
    assert len(caught.value.findings) == 2
    assert len(dynamic.nodes) == 2
    with pytest.raises(Unsupported, match="unknown rounding mode"):
        ExpandQuant().run(quantised(mode="STOCHASTIC"))
    built.model.opset_imports[""] = 11
    with pytest.raises(Unsupported, match="operator set 11"):
        ExpandQuant().run(built)


def test_the_same_numbers_in_onnxruntime() -> None:
    import onnxruntime

    for mode, zero in (("ROUND", 0), ("HALF_UP", 3), ("DOWN", 0)):
        built = quantised(mode=mode, zero=zero)
        done = apply_and_check(EXPAND, built)
        done.graph.model.opset_imports.pop(QONNX_DOMAIN, None)
        session = onnxruntime.InferenceSession(done.graph.to_proto().SerializeToString())
        finite = {"x": np.clip(edges()["x"], -1e6, 1e6)}
        np.testing.assert_array_equal(session.run(None, finite)[0], execute(built, finite)["y"])


MUTANTS = {
    "rounds before it clamps, to a wider range": (
        "clipped",
        lambda c, bits, s, n: c.then("Clip", -(2.0**bits), 2.0**bits),
    ),
    "narrow ignored": (
        "clipped",
        lambda c, bits, s, n: c.then("Clip", *expand_quant.integer_range(bits, s, not n)),
    ),
    "zero point forgotten": ("scaled", lambda c: c.then("Div", c.input(1))),
    "rounds down": ("rounded", lambda c, default: c.then("Floor")),
    "half away from zero": ("rounded", lambda c, default: expand_quant._ROUNDING["HALF_UP"](c)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_quant_mutants_fail(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    method, wrong = MUTANTS[name]
    monkeypatch.setattr(expand_quant._Chain, method, wrong)
    built = quantised(zero=3 if "zero" in name else 0, scale=0.5)
    halves = {"x": np.arange(-8, 8, dtype=np.float32).reshape(1, 16) / 4}
    assert_mutant_fails(ExpandQuant, built, [edges(), halves], code="RUB-PASS-021")
