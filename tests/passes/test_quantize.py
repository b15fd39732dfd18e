"""Post-training quantisation: formats, insertion, exact lowering to QDQ, accuracy, islands; and mutants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from pass_graphs import graph as make_graph
from pass_graphs import node as make_node
from pass_graphs import weights

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.ir.verify import verify
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.quantize import bias_correction, insert, round_weights, to_qdq
from rubicc.passes.quantize.bias_correction import CorrectBias
from rubicc.passes.quantize.insert import InsertQuantisers
from rubicc.passes.quantize.observers import METHODS, Observer, format_of, unsigned_format
from rubicc.passes.quantize.post_training import Options, products, quantise
from rubicc.passes.quantize.round_weights import RoundWeights
from rubicc.passes.quantize.to_qdq import ToQdq
from rubicc.passes.rewrite import constant

QUANT = "qonnx.custom_op.general::Quant"
Zoo = Callable[[str], Graph]
DOUBLE = np.dtype(np.float64)


def signal(frames: int = 900, items: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(frames).standard_normal((items, 1, frames)).astype(np.float32)}


def snr(ref: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(ref).sum() / np.square(got - ref).sum()))


def run(graph: Graph, feeds: dict[str, np.ndarray], dtype: np.dtype | None = None) -> np.ndarray:
    return next(iter(execute(graph, dict(feeds), dtype=dtype).values()))


@pytest.mark.parametrize(("low", "high"), [(0, 3), (-1, 1), (-0.28, 5), (-7, 0), (-1e-3, 9), (0, 0)])
def test_formats_hold_zero_and_both_ends(low: float, high: float) -> None:
    scale, zero = format_of(low, high)
    assert 0 <= zero <= 255 and zero % 2 == 0 and (zero == 0) == (low == 0)
    assert -zero * float(scale) <= low + 1e-6 and (255 - zero) * float(scale) >= high - 1e-6
    assert float(scale) <= max(
        1e-8, (high - low) / 255 * 1.6 if low < 0 and zero in (2, 254) else (high - low) / 250
    )


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_observers_by_their_definition(method: str) -> None:
    """A bulk with one far outlier: minmax pays for it, the others cut it."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1, 4, 5000)).astype(np.float32)
    values[0, 0, 0] = 30.0
    seen = Observer(1)
    seen.see(values)
    scale, zero = unsigned_format(seen, method, 99.9)
    top = (255 - zero) * float(scale)
    assert np.allclose(seen.mean, values.mean(axis=(0, 2)), atol=1e-4)
    assert top >= 29.9 if method == "minmax" else top < 29


def test_mse_is_the_best_of_its_candidates() -> None:
    values = np.random.default_rng(1).standard_t(4, (1, 2, 20000)).astype(np.float32)
    seen = Observer(1)
    seen.see(values)

    def error(pair: tuple[np.float32, int]) -> float:
        levels = np.clip(np.rint(values / pair[0]) + pair[1], 0, 255)
        return float(np.square((levels - pair[1]) * pair[0] - values).mean())

    assert error(unsigned_format(seen, "mse")) <= min(error(unsigned_format(seen, m)) for m in METHODS) * 1.02


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_quantised_network_keeps_its_accuracy(lowered_zoo: Zoo, method: str) -> None:
    graph = lowered_zoo("demo-ctc")
    before = graph.op_counts()
    found = quantise(graph, [signal()], options=Options(method=method))
    assert graph.op_counts() == before  # a copy
    verify(found.graph)
    fresh = signal(611)
    assert snr(run(graph, fresh), run(found.graph, fresh)) > 35
    assert found.evidence["products"] == len(products(graph, keep_ends=True)) > 5
    assert not found.decisions


def test_every_input_and_weight_of_a_quantised_product_is_rounded(lowered_zoo: Zoo) -> None:
    graph = lowered_zoo("demo-ctc")
    made = quantise(graph, [signal()]).graph
    names = {node.name for node in products(graph, keep_ends=True)}
    for node in made.nodes:
        if node.name in names:
            makers = [value.producer() for value in node.inputs[:2] if value is not None]
            assert [maker.op_type for maker in makers if maker is not None] == ["Quant", "Quant"]
            weight = makers[1]
            assert weight is not None and weight.attributes["narrow"].as_int() == 1
            assert constant(weight.inputs[1]).shape[0] == constant(weight.inputs[0]).shape[0]  # type: ignore[union-attr]


def test_qdq_is_the_quantisers_bit_for_bit(lowered_zoo: Zoo) -> None:
    made = quantise(lowered_zoo("demo-ctc"), [signal()]).graph
    lowered = made.clone()
    assert to_qdq.ToQdq().run(lowered) and not to_qdq.ToQdq().run(lowered)
    assert not any(node.op_type == "Quant" for node in lowered.nodes)
    for frames in (900, 601, 64):
        feeds = signal(frames)
        assert np.array_equal(run(made, feeds, DOUBLE), run(lowered, feeds, DOUBLE))


@pytest.mark.parametrize("mutant", ["scale", "zero", "narrow"])
def test_a_wrong_qdq_is_seen(lowered_zoo: Zoo, mutant: str) -> None:
    made = quantise(lowered_zoo("demo-ctc"), [signal()]).graph
    lowered = made.clone()
    to_qdq.ToQdq().run(lowered)
    kind, index = {
        "scale": ("DequantizeLinear", 1),
        "zero": ("QuantizeLinear", 2),
        "narrow": ("DequantizeLinear", 0),
    }[mutant]
    for node in lowered.nodes:
        array = constant(node.inputs[index]) if node.op_type == kind else None
        if array is None or (mutant != "zero" and array.ndim == 0) or (mutant == "zero" and array == 0):
            continue
        wrong = np.array(array)
        if mutant == "scale":
            wrong = np.roll(wrong, 1)
        elif mutant == "zero":
            wrong = (wrong + 1).astype(wrong.dtype)
        else:
            wrong[wrong == wrong.max()] -= 1
        value = ir.Value(name="wrong", const_value=ir.tensor(wrong, name="wrong"))
        lowered.ir.register_initializer(value)
        node.replace_input_with(index, value)
        break
    feeds = signal()
    assert np.abs(run(made, feeds, DOUBLE) - run(lowered, feeds, DOUBLE)).max() > 1e-6


def test_islands_are_kept_until_the_gate_holds(lowered_zoo: Zoo) -> None:
    graph = lowered_zoo("demo-ctc")
    plain = quantise(graph, [signal()])
    gate = plain.evidence["snr_db"] + 3
    mixed = quantise(graph, [signal()], gate_db=gate)
    islands = mixed.evidence["islands"]
    assert mixed.evidence["snr_db"] >= gate and 0 < islands < plain.evidence["products"]
    assert [d.code for d in mixed.decisions] == ["RUB-PASS-D04"] * islands
    rounded = sum(node.op_type == "Quant" for node in mixed.graph.nodes)
    assert rounded < sum(node.op_type == "Quant" for node in plain.graph.nodes)


def test_bias_correction_takes_the_mean_error_out(lowered_zoo: Zoo) -> None:
    graph, feeds = lowered_zoo("demo-ctc"), signal(2400, 1)
    node = products(graph, keep_ends=True)[-1]
    name = node.outputs[0].name or ""
    errors = {}
    for on in (False, True):
        made = quantise(graph, [feeds], options=Options(bias_correction=on)).graph
        kept = [n.outputs[0].name for n in made.nodes if n.name == node.name]
        want = execute(graph, dict(feeds), keep=[name])[name]
        got = execute(made, dict(feeds), keep=kept)[kept[0]]  # type: ignore[arg-type]
        errors[on] = float(np.abs((got - want).mean(axis=(0, 2))).mean())
    assert errors[True] < errors[False]


def test_recurrent_weights_are_rounded_by_row(lowered_zoo: Zoo) -> None:
    graph = lowered_zoo("taiyaki-mgru")
    found = quantise(graph, [signal(400, 1)])
    layers = [node for node in found.graph.nodes if node.op_type == "GRU"]
    for layer in layers:
        for index in (1, 2):
            maker = layer.inputs[index].producer()  # type: ignore[union-attr]
            assert maker is not None and maker.op_type == "Quant"
            assert constant(maker.inputs[1]).shape == (1, 288, 1)  # type: ignore[union-attr]
    assert snr(run(graph, signal(400, 1)), run(found.graph, signal(400, 1))) > 25


def test_without_data_it_says_so(lowered_zoo: Zoo) -> None:
    with pytest.raises(ValueError, match="calibration data"):
        quantise(lowered_zoo("demo-ctc"), [])


def test_weights_scale_per_output_channel() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 3, 5)).astype(np.float32)
    weight[2] = 0
    rounded = insert.rounded_weight(weight, 0)
    scale = insert.weight_scale(weight, 0)
    assert scale.shape == (6, 1, 1) and np.abs(rounded - weight).max() <= scale.max() / 2 + 1e-7
    assert not rounded[2].any() and np.abs(rounded / scale).max() <= 127.001


# ---- the passes one by one, in the harness


def small() -> Graph:
    """x -> Conv -> Relu -> Conv -> y."""
    nodes = [
        make_node("Conv", "x w b", "c"),
        make_node("Relu", "c", "r"),
        make_node("Conv", "r v", "y"),
    ]
    constants = {"w": weights(6, 4, 3), "b": weights(6), "v": weights(5, 6, 1)}
    return make_graph(nodes, {"x": ("N", 4, "T")}, {"y": ("N", 5, "U")}, constants)


FORMATS = {"x": (8 / 255, 128), "r": (30 / 255, 0)}


def test_insert_in_the_harness() -> None:
    done = apply_and_check(
        insert.InsertQuantisers(insert.InsertOptions(FORMATS)),
        small(),
        expect_changed=True,
        expect_ops={QUANT: 4},
    )
    assert done is not None

    class Saturates(InsertQuantisers):
        def run(self, graph: Graph) -> bool:
            self.options = insert.InsertOptions({"x": (0.5 / 255, 128)})
            return super().run(graph)

    assert_mutant_fails(Saturates, small(), code="RUB-PASS-021")


def test_qdq_in_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small()
    insert.InsertQuantisers(insert.InsertOptions(FORMATS)).run(graph)
    expect = {QUANT: -4, "QuantizeLinear": 2, "DequantizeLinear": 4}
    apply_and_check(to_qdq.ToQdq, graph, expect_changed=True, expect_ops=expect)
    right = to_qdq.levels
    monkeypatch.setattr(to_qdq, "levels", lambda *a, **k: np.floor(right(*a, **k) * 0.99))
    assert_mutant_fails(ToQdq, graph, code="RUB-PASS-021")


def test_bias_correction_in_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    given = bias_correction.BiasOptions({"x": np.full(4, 0.5), "r": np.ones(6)})
    apply_and_check(CorrectBias(given), small(), expect_changed=True, expect_ops={})
    monkeypatch.setattr(bias_correction, "rounded_weight", lambda weight, axis: -weight)
    assert_mutant_fails(CorrectBias(given), small(), code="RUB-PASS-021")


def correlated(channels: int, frames: int, seed: int = 0) -> np.ndarray:
    """Signal whose channels and neighbours in time resemble each other, as activations do."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((channels, 3)) @ rng.standard_normal((3, frames + 8))
    smooth = sum(mixed[:, shift : shift + frames] for shift in range(8))
    return (smooth + 0.3 * rng.standard_normal((channels, frames)) + 1.0)[None].astype(np.float32)


def conv_net(weight: np.ndarray, groups: int) -> Graph:
    conv = make_node("Conv", "x w", "y", group=groups, pads=[2, 2])
    return make_graph([conv], {"x": (1, 8, "T")}, {"y": (1, 8, "T")}, {"w": weight})


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_for_the_product_beats_the_nearest(groups: int, bits: int) -> None:
    x = correlated(8, 2000)
    weight = np.random.default_rng(1).standard_normal((8, 8 // groups, 5)).astype(np.float32)
    net = conv_net(weight, groups)
    ref = run(net, {"x": x})
    better = net.clone()
    rounding = round_weights.RoundWeights(round_weights.RoundOptions({"x": [x]}, bits))
    assert rounding.run(better) and not rounding.run(better)
    verify(better)
    limit = 2 ** (bits - 1) - 1
    scale = insert.weight_scale(weight, 0, limit)
    conv = next(n for n in better.nodes if n.op_type == "Conv")
    chosen = constant(conv.inputs[1]) / scale
    assert np.abs(chosen - np.rint(chosen)).max() < 1e-4 and np.abs(chosen).max() < limit + 1e-4
    assert np.array_equal(insert.weight_scale(constant(conv.inputs[1]), 0, limit), scale)
    nearest = np.clip(np.rint(weight / scale), -limit, limit) * scale
    plain = run(conv_net(nearest.astype(np.float32), groups), {"x": x})
    assert snr(ref, run(better, {"x": x})) > snr(ref, plain) + 4.0


def test_rounding_in_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    net = conv_net(np.random.default_rng(1).standard_normal((8, 8, 5)).astype(np.float32), 1)
    given = round_weights.RoundOptions({"x": [correlated(8, 500)]}, 8)
    apply_and_check(round_weights.RoundWeights(given), net, expect_changed=True)
    right = round_weights.rounded
    monkeypatch.setattr(round_weights, "rounded", lambda weight, *others: -right(weight, *others))
    assert_mutant_fails(RoundWeights(given), net, code="RUB-PASS-021")


def test_rounding_mutant_that_pushes_the_error_the_wrong_way() -> None:
    x = correlated(8, 2000)
    weight = np.random.default_rng(1).standard_normal((1, 8, 8)).astype(np.float32)
    scale = np.abs(weight).max(axis=2, keepdims=True) / 7
    good = round_weights.rounded(weight, scale, x, 7)
    nearest = np.rint(weight / scale) * scale
    loss = lambda made: float(np.square((made - weight) @ (x - x.mean(axis=2, keepdims=True))).sum())  # noqa: E731
    mirrored = round_weights.rounded(weight, scale, x * np.array([1, -1] * 4)[:, None], 7)
    assert loss(good) < 0.5 * loss(nearest) < loss(mirrored)
