"""Equalisation is the same network; biases lie where runtimes put them; runtimes compute our integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pass_graphs import graph as make_graph
from pass_graphs import node, weights

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.quantize import bias_grid, equalise, to_qdq
from rubicc.passes.quantize.bias_grid import RoundBias
from rubicc.passes.quantize.equalise import Equalise, EqualiseOptions, pairs
from rubicc.passes.quantize.insert import InsertOptions, InsertQuantisers
from rubicc.passes.quantize.post_training import Options, quantise
from rubicc.passes.rewrite import constant

Zoo = Callable[[str], Graph]
DOUBLE = np.dtype(np.float64)


def chain(group: int = 1, spread: float = 4.0, relu: bool = True) -> Graph:
    """x -> grouped Conv -> (Relu) -> grouped Conv -> y, channels of very different size in between."""
    size = np.exp2(np.linspace(-spread, spread, 6)).astype(np.float32)
    nodes = [node("Conv", "x w b", "c", group=2, pads=[1, 1])]
    nodes += [node("Relu", "c", "r")] if relu else []
    nodes += [node("Conv", "r v" if relu else "c v", "y", group=group)]
    constants = {
        "w": weights(6, 2, 3) * size[:, None, None],
        "b": weights(6) * size,
        "v": weights(4, 6 // group, 1, seed=1) / size.reshape(group, 1, -1)[0][:, :, None],
    }
    return make_graph(nodes, {"x": ("N", 4, "T")}, {"y": ("N", 4, "U")}, constants)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("relu", [True, False])
def test_equalised_networks_give_the_same_bits(group: int, relu: bool) -> None:
    assert Equalise.exact and Equalise.tolerance == 0
    graph = chain(group, relu=relu)
    done = apply_and_check("quantize.equalise", graph, expect_changed=True, expect_ops={})
    first = constant(done.graph.nodes[0].inputs[1])
    before = constant(graph.nodes[0].inputs[1])
    assert first is not None and before is not None
    spread = [np.ptp(np.log2(np.abs(w).max(axis=(1, 2)))) for w in (before, first)]
    assert spread[1] < spread[0]


def test_equalisation_recovers_what_uneven_channels_cost() -> None:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((4, 4, 200)).astype(np.float32)}]
    graph = chain(spread=5)
    with_it, without = (
        quantise(graph, feeds, options=Options(keep_ends=False, equalise=on)).evidence["snr_db"]
        for on in (True, False)
    )
    assert with_it > without + 6


def test_only_what_nobody_else_reads_is_equalised() -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Relu", "c", "r"),
        node("Conv", "r v", "d"),
        node("Add", "d r", "y"),
    ]
    constants = {"w": weights(5, 4, 1), "v": weights(5, 5, 1)}
    shared = make_graph(nodes, {"x": ("N", 4, "T")}, {"y": ("N", 5, "T")}, constants)
    assert not pairs(shared)
    nodes = [node("Conv", "x w", "c"), node("Sigmoid", "c", "r"), node("Conv", "r v", "y")]
    assert not pairs(make_graph(nodes, {"x": ("N", 4, "T")}, {"y": ("N", 5, "T")}, constants))


class ForgetsTheBias(Equalise):
    """Mutant: the first convolution keeps its old bias."""

    def run(self, graph: Graph) -> bool:
        biases = [n.inputs[2] if len(n.inputs) > 2 else None for n in graph.nodes]
        changed = super().run(graph)
        for made, bias in zip(graph.nodes, biases, strict=True):
            if bias is not None:
                made.replace_input_with(2, bias)
        return changed


def test_wrong_equalisation_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_mutant_fails(ForgetsTheBias, chain(), code="RUB-PASS-021")
    peaks = {"r": np.array([1, 8, 3, 0.1, 5, 2])}
    right = equalise._apply
    monkeypatch.setattr(
        equalise, "_apply", lambda edit, pair, f: right(edit, pair, np.roll(f, 1) * (f > 0) * 3)
    )
    apply_and_check(Equalise(EqualiseOptions(peaks)), chain(relu=True, spread=0), random=0)
    assert_mutant_fails(Equalise(EqualiseOptions({"r": peaks["r"] * 1.7})), chain(), code="RUB-PASS-021")


def quantised(bias: float = 1.0) -> Graph:
    """x -> Quant -> Conv(Quant(W), b) -> y."""
    constants = {"w": weights(6, 4, 3), "b": weights(6) * np.float32(bias)}
    graph = make_graph([node("Conv", "x w b", "y")], {"x": ("N", 4, "T")}, {"y": ("N", 6, "U")}, constants)
    InsertQuantisers(InsertOptions({"x": (8 / 255, 128)})).run(graph)
    return graph


def test_biases_become_multiples_of_the_sum_s_step() -> None:
    graph = quantised()
    assert list(bias_grid.off_grid(graph)) == [graph.nodes[-1].name]
    done = apply_and_check("quantize.bias-grid", graph, expect_changed=True, expect_ops={})
    assert not bias_grid.off_grid(done.graph)
    conv = done.graph.nodes[-1]
    scales = [constant(conv.inputs[i].producer().inputs[1]).reshape(-1) for i in (0, 1)]  # type: ignore[union-attr]
    step = scales[0] * scales[1]
    moved = np.abs(constant(conv.inputs[2]) - constant(graph.nodes[-1].inputs[2]))  # type: ignore[operator]
    assert np.all(moved <= step * 0.501) and moved.max() > 0


class RoundsTenTimesTooCoarse(RoundBias):
    """Mutant: wrong step."""

    def run(self, graph: Graph) -> bool:
        found = [(n, b) for n, b, _ in bias_grid.biases(graph) if "rough" not in n.metadata_props]
        for made, bias in found:
            made.metadata_props["rough"] = "1"
            value = bias_grid.Editor(graph, self.id).initializer("rough", np.rint(bias))
            made.replace_input_with(2, value)
        return bool(found)


def test_a_wrong_grid_is_seen() -> None:
    assert_mutant_fails(RoundsTenTimesTooCoarse, quantised(), code="RUB-PASS-021")


def test_a_bias_without_weights_fits_int32() -> None:
    """A pruned channel keeps its bias; in steps of input scale x weight scale it must not overflow."""
    w = weights(6, 4, 3)
    w[2] *= 1e-12
    constants = {"w": w, "b": weights(6) + 3}
    graph = make_graph([node("Conv", "x w b", "y")], {"x": ("N", 4, "T")}, {"y": ("N", 6, "U")}, constants)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4, 30)).astype(np.float32)}
    made = quantise(graph, [feeds], options=Options(keep_ends=False)).graph
    conv = next(n for n in made.nodes if n.op_type == "Conv")
    scales = [constant(conv.inputs[i].producer().inputs[1]).reshape(-1) for i in (0, 1)]  # type: ignore[union-attr]
    assert np.all(np.abs(constant(conv.inputs[2]) / (scales[0] * scales[1])) < 2**31)  # type: ignore[operator]
    got, want = execute(made, feeds)["y"], execute(graph, feeds)["y"]
    assert np.abs(got - want)[:, 2].max() < 1e-3


def qdq_of(graph: Graph, feeds: dict[str, np.ndarray], options: Options) -> Graph:
    made = quantise(graph, [feeds], options=options).graph
    to_qdq.ToQdq().run(made)
    return made


def ort_run(model: Graph, feeds: dict[str, np.ndarray], level: str) -> np.ndarray:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    content = model.to_proto().SerializeToString()
    session = ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def plain_conv(length: int = 300) -> tuple[Graph, dict[str, np.ndarray]]:
    """Conv -> Relu -> grouped Conv -> pointwise Conv, and a feed."""
    nodes = [
        node("Conv", "x a p", "c", pads=[2, 2]),
        node("Relu", "c", "r"),
        node("Conv", "r v q", "d", group=2, pads=[1, 1]),
        node("Conv", "d u s", "y"),
    ]
    constants = {
        **{"a": weights(8, 4, 5) / 4, "p": weights(8), "v": weights(8, 4, 3) / 4, "q": weights(8)},
        **{"u": weights(6, 8, 1), "s": weights(6)},
    }
    graph = make_graph(nodes, {"x": ("N", 4, "T")}, {"y": ("N", 6, "U")}, constants)
    return graph, {"x": np.random.default_rng(3).standard_normal((2, 4, length)).astype(np.float32)}


@pytest.mark.parametrize(
    "level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]
)
@pytest.mark.parametrize("outputs", [False, True])
def test_onnx_runtime_computes_our_integers_at_every_level(level: str, outputs: bool) -> None:
    graph, feeds = plain_conv()
    made = qdq_of(graph, feeds, Options(keep_ends=False, quantise_outputs=outputs))
    want = execute(made, feeds, dtype=DOUBLE)["y"]
    got = ort_run(made, feeds, level)
    moved = np.abs(got - want) > 1e-4
    assert moved.mean() < 2e-3  # float32 sums on a rounding edge; off the grid it is more
    assert np.abs(got - want).max() < 0.2


def test_off_the_grid_onnx_runtime_moves_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cause behind the test above: without our rounding, its own rounding moves the result."""
    monkeypatch.setattr(bias_grid.RoundBias, "run", lambda self, graph: False)
    graph, feeds = plain_conv()
    made = qdq_of(graph, feeds, Options(keep_ends=False, quantise_outputs=True))
    want = execute(made, feeds, dtype=DOUBLE)["y"]
    assert (np.abs(ort_run(made, feeds, "ORT_DISABLE_ALL") - want) > 1e-4).mean() < 2e-3
    assert (np.abs(ort_run(made, feeds, "ORT_ENABLE_BASIC") - want) > 1e-4).mean() > 4e-3


def test_lowering_says_when_onnx_runtime_will_move_biases() -> None:
    one = to_qdq.ToQdq()
    one.run(quantised())
    (decision,) = one.decisions
    assert decision.code == "RUB-PASS-D05"
    assert 0 < float(decision.what.rsplit(" ", 1)[1]) < 8 / 255 * 5 / 127
    graph = quantised()
    RoundBias().run(graph)
    one = to_qdq.ToQdq()
    one.run(graph)
    assert not one.decisions


def test_openvino_computes_our_integers() -> None:
    import openvino

    graph, feeds = plain_conv()
    made = qdq_of(graph, feeds, Options(keep_ends=False))
    want = execute(made, feeds, dtype=DOUBLE)["y"]
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core.compile_model(core.read_model(made.to_proto().SerializeToString()), "CPU", settings)
    got = model([feeds["x"]])[0]
    assert (np.abs(got - want) > 1e-4).mean() < 2e-3 and np.abs(got - want).max() < 0.2


@pytest.mark.parametrize("seed", range(6))
def test_qonnx_executes_the_same_integers(seed: int) -> None:
    """Random shapes: groups, kernels, signed and unsigned activations."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    from rubicc.ir.shapes import infer_shapes
    from rubicc.ir.verify import verify

    rng = np.random.default_rng(seed)
    group, per, kernel = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 6))
    channels, length = group * per, int(rng.integers(6, 30))
    nodes = [node("Conv", "x a p", "c", group=group, pads=[kernel // 2] * 2)]
    nodes += [node("Relu", "c", "r")] if seed % 2 else [node("Tanh", "c", "r")]
    nodes += [node("Conv", "r u", "y")]
    constants = {"a": weights(channels, per, kernel), "p": weights(channels), "u": weights(3, channels, 1)}
    graph = make_graph(nodes, {"x": ("N", channels, "T")}, {"y": ("N", 3, "U")}, constants)
    feeds = {"x": rng.standard_normal((1, channels, length)).astype(np.float32)}
    made = quantise(graph, [feeds], options=Options(keep_ends=False)).graph
    verify(made)
    wrapper = ModelWrapper(infer_shapes(made, {"N": 1, "T": length}).to_proto())
    context = execute_onnx(wrapper, feeds, return_full_exec_context=True)
    names = [n.outputs[0].name or "" for n in made.nodes if n.op_type == "Quant"]
    got = execute(made, feeds, keep=names)
    assert len(names) == 4
    for name in names:
        step = float(np.abs(got[name]).max()) / 127
        assert np.abs(got[name] - context[name]).max() <= step * 1.01
        assert (np.abs(got[name] - context[name]) > 1e-6).mean() < 0.01
