"""Wide sums in an executor of float32: qonnx computes other integers without the pass, and ours with it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from integer_graphs import Net, signal
from pass_graphs import graph, node

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.integer.fit import Options, quantise
from rubicc.passes.integer.legalise import EXPONENT_KEY
from rubicc.passes.integer.split_wide import EXACT, SplitWide
from rubicc.passes.rewrite import constant, is_standard

SIZES = {"N": 1, "T": 9}


def wide(kind: str, weight_bits: int) -> tuple[Graph, dict[str, np.ndarray]]:
    """An integer-only graph whose sums pass 2**24, and inputs that make them do so."""
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(0.6, 1, (900, 48)), "b": 30 * rng.normal(size=48)}
    if kind == "Conv":
        weights["w"], weights["v"] = weights["w"].T.reshape(48, 100, 9), rng.normal(size=(8, 48, 1))
        nodes = [node("Conv", "x w b", "a", pads=[4, 4]), node("Relu", "a", "c"), node("Conv", "c v", "y")]
        shapes = {"x": [1, 100, 40]}, {"y": [1, 8, 40]}
    else:
        weights["v"] = rng.normal(size=(48, 8))
        nodes = [node("MatMul", "x w", "a"), node("Add", "a b", "c"), node("MatMul", "c v", "y")]
        shapes = {"x": [1, 40, 900]}, {"y": [1, 40, 8]}
    made = graph(nodes, *shapes, weights)
    feeds = {"x": rng.normal(0.6, 1, shapes[0]["x"]).astype(np.float32)}
    options = Options(bits=16, entry_bits=16, weight_bits=weight_bits)
    return quantise(made, [feeds], options).graph, feeds


Arrays = dict[str, np.ndarray]


def integers(made: Graph, feeds: Arrays) -> tuple[Arrays, Arrays]:
    """What our executor computes in float64, and qonnx in float32."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    names = [n.outputs[0].name or "" for n in made.nodes if EXPONENT_KEY in n.metadata_props]
    want = execute(made, feeds, dtype=np.float64, keep=names)
    fixed = made.clone()
    for value in [*fixed.inputs, *fixed.outputs]:
        value.shape = ir.Shape((want | feeds)[value.name or ""].shape)
    got = execute_onnx(ModelWrapper(fixed.to_proto()), feeds, return_full_exec_context=True)
    return {name: want[name] for name in names}, {name: got[name] for name in names}


@pytest.mark.parametrize(("kind", "weight_bits"), [("Conv", 8), ("MatMul", 8), ("MatMul", 16)])
def test_wide_sums_are_exact_for_qonnx(kind: str, weight_bits: int) -> None:
    made, feeds = wide(kind, weight_bits)
    product = next(n for n in made.nodes if is_standard(n, kind))
    sums = execute(made, feeds, dtype=np.float64, keep=[product.outputs[0].name or ""])
    assert np.abs(sums[product.outputs[0].name or ""]).max() > EXACT
    want, got = integers(made, feeds)
    assert any(not np.array_equal(want[name], got[name]) for name in want), "float32 shows nothing here"
    done = apply_and_check("integer.split-wide", made, [feeds], sizes=SIZES, expect_changed=True)
    same, split = integers(done.graph, feeds)
    assert len(want) >= 2
    for name in want:
        np.testing.assert_array_equal(same[name], want[name], err_msg=name)
        np.testing.assert_array_equal(split[name], want[name], err_msg=name)
    for part in (n for n in done.graph.nodes if is_standard(n, kind)):
        weight = constant(part.inputs[1])
        assert weight is not None
        assert np.abs(weight).sum(axis=0 if kind == "MatMul" else (1, 2)).max() < EXACT / 2


def test_narrow_sums_stay() -> None:
    net = Net(3)
    net.conv(8, 5)
    made = quantise(net.head(5, linear=True), [signal(0, 8)], Options()).graph
    apply_and_check("integer.split-wide", made, [signal(1, 8)], sizes=SIZES, expect_changed=False)


class _DigitLost(SplitWide):
    """The least digit is forgotten."""

    def _digits(self, *args: object) -> list[tuple[int, ir.Value]]:
        return super()._digits(*args)[1:]  # type: ignore[arg-type]


class _Unsigned(SplitWide):
    """Digits are weighted by one place too few."""

    def _digits(self, *args: object) -> list[tuple[int, ir.Value]]:
        return [(step >> (step > 1), digit) for step, digit in super()._digits(*args)]  # type: ignore[arg-type]


@pytest.mark.parametrize("mutant", [_DigitLost, _Unsigned])
def test_mutants(mutant: type[SplitWide]) -> None:
    made, feeds = wide("MatMul", 8)
    assert_mutant_fails(mutant, made, [feeds], code="RUB-PASS-021", sizes=SIZES)
