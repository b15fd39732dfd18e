"""The polyphase layout on quantised graphs: bit for bit, in the executor and in the runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pass_graphs import graph, node, weights

from rubicc.ir.executor import execute
from rubicc.ir.graph import QONNX_DOMAIN, Graph
from rubicc.passes.harness import apply_and_check
from rubicc.passes.layout import writer as writer_module
from rubicc.passes.layout.polyphase import Polyphase, candidates
from rubicc.passes.manager import run_pass

FORMULATIONS = ("rows", "gather", "planes")
SIZES = {"T": 29, "N": 2}


def integers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(-127, 128, shape).astype(np.int8)


def powers(channels: int, seed: int = 0) -> np.ndarray:
    """Scales that are powers of two: every sum of products is exact in float32."""
    return (2.0 ** -np.random.default_rng([seed, channels]).integers(6, 9, channels)).astype(np.float32)


def qdq_net(zero: int = 0, scale_seed: int | None = None) -> Graph:
    """Grouped convolution over u8, pointwise, ReLU, strided grouped convolution; QDQ as emitted for runtimes.

    Args:
        zero: zero point of the weights.
        scale_seed: arbitrary instead of power-of-two activation scales.
    """
    step = (
        np.float32(2.0**-5)
        if scale_seed is None
        else np.random.default_rng(scale_seed).uniform(0.01, 0.05, ()).astype(np.float32)
    )

    def weight(name: str) -> Any:
        return node("DequantizeLinear", f"{name} {name}_s {name}_z", f"{name}_f", axis=0)

    def activation(value: str, zero_point: str, result: str = "") -> list[Any]:
        return [
            node("QuantizeLinear", f"{value} step {zero_point}", f"{value}_q"),
            node("DequantizeLinear", f"{value}_q step {zero_point}", result or f"{value}_f"),
        ]

    constants: dict[str, Any] = {"step": step, "mid": np.uint8(128), "low": np.uint8(0)}
    for name, shape in (("w1", (8, 4, 9)), ("w2", (8, 8, 1)), ("w3", (4, 4, 6))):
        constants |= {name: integers(*shape), f"{name}_s": powers(shape[0])}
        constants[f"{name}_z"] = np.full(shape[0], zero, np.int8)
    for bias, weight_scale in (("b1", "w1_s"), ("b2", "w2_s")):
        constants |= {bias: np.arange(8, dtype=np.int32) * 9, f"{bias}_s": step * constants[weight_scale]}
    return graph(
        [
            *activation("x", "mid"),
            weight("w1"),
            node("DequantizeLinear", "b1 b1_s", "b1_f", axis=0),
            node("DequantizeLinear", "b2 b2_s", "b2_f", axis=0),
            node("Conv", "x_f w1_f b1_f", "a", group=2, kernel_shape=[9], pads=[4, 4]),
            *activation("a", "mid"),
            weight("w2"),
            node("Conv", "a_f w2_f b2_f", "c", kernel_shape=[1]),
            node("Relu", "c", "d"),
            *activation("d", "low"),
            weight("w3"),
            node("Conv", "d_f w3_f", "e", group=2, kernel_shape=[6], strides=[2], pads=[1, 4]),
            *activation("e", "mid", "y"),
        ],
        {"x": ["N", 8, "T"]},
        {"y": ["N", 4, "T_out"]},
        constants,
    )


class Exact(Polyphase):
    """The pass, held to bit for bit: possible where sums are exact."""

    tolerance = 0.0


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("zero", [0, 3])
def test_qdq_is_bit_exact(formulation: str, zero: int) -> None:
    done = apply_and_check(
        Exact, qdq_net(zero), options={"formulation": formulation, "phases": 4, "force": True}, sizes=SIZES
    )
    kept = done.graph.op_counts()
    assert all(v.uses() for v in done.graph.ir.initializers.values())  # the old weights are gone
    assert all(v.uses() or v.is_graph_output() for n in done.graph.nodes for v in n.outputs)
    assert kept["Conv"] == 3 and kept["QuantizeLinear"] == 4
    for conv in (n for n in done.graph.nodes if n.op_type == "Conv"):
        assert conv.inputs[1].producer().op_type == "DequantizeLinear"  # still what runtimes fuse
        assert conv.inputs[1].producer().inputs[0].dtype.numpy() == np.int8


def test_integers_are_moved_where_the_runtime_wants_them_moved() -> None:
    """``rows``: between the quantisers. ``gather``: behind them, side by side."""

    def moved(formulation: str, op: str) -> set[str]:
        built = qdq_net()
        run_pass(Exact(Polyphase.Options(formulation, 4, True)), built)  # type: ignore[arg-type]
        moves = [n for n in built.nodes if n.op_type == op and n.metadata_props.get("rubicc.made_by")]
        return {n.outputs[0].dtype.name for n in moves}

    assert moved("gather", "Gather") == {"FLOAT"} and "UINT8" in moved("rows", "Transpose")


def quant_net(per_channel: bool) -> Graph:
    """The same in QONNX: Quant on activations, weights and bias."""

    def quant(value: str, scale: str, zero: str, **attrs: Any) -> Any:
        return node("Quant", f"{value} {scale} {zero} bits", f"{value}_q", rounding_mode="ROUND", **attrs)

    shape = (8, 1, 1) if per_channel else ()
    return graph(
        [
            quant("x", "step", "zero", signed=1, narrow=0),
            quant("w1", "s1", "zero", signed=1, narrow=1),
            quant("b1", "sb", "zero", signed=1, narrow=0),
            node("Conv", "x_q w1_q b1_q", "a", group=2, kernel_shape=[8], pads=[3, 4]),
            quant("a", "sa", "zero", signed=1, narrow=0),
            node("Relu", "a_q", "r"),
            quant("w2", "s1", "zero", signed=1, narrow=1),
            node("Conv", "r w2_q", "y", group=2, kernel_shape=[8], pads=[3, 4]),
        ],
        {"x": ["N", 8, "T"]},
        {"y": ["N", 8, "T"]},
        {
            "w1": weights(8, 4, 8), "w2": weights(8, 4, 8, seed=1), "b1": weights(8),
            "step": np.float32(2.0**-4), "sb": np.float32(2.0**-10), "zero": np.float32(0),
            "bits": np.float32(8), "s1": powers(8).reshape(8, 1, 1) if per_channel else np.float32(2.0**-6),
            "sa": np.full((1, 8, 1), 2.0**-3, np.float32) if shape else np.float32(2.0**-3),
        },
    )  # fmt: skip


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_qonnx_quantisers_are_carried(formulation: str, per_channel: bool) -> None:
    done = apply_and_check(
        Exact,
        quant_net(per_channel),
        options={"formulation": formulation, "phases": 4, "force": True},
        sizes=SIZES,
        expect_changed=True,
    )
    assert done.graph.op_counts()[f"{QONNX_DOMAIN}::Quant"] == 5
    for conv in (n for n in done.graph.nodes if n.op_type == "Conv"):
        quantiser = conv.inputs[1].producer()
        assert quantiser.op_type == "Quant"
        assert quantiser.inputs[1].shape == ([32, 1, 1] if per_channel else [])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"zero_w": np.float32(1.0)}, "does not keep zero"),
        ({"bits_w": np.float32(1.0)}, "does not keep zero"),
        ({"s_w": np.full((1, 4, 1), 0.1, np.float32)}, "another axis"),
    ],
)
def test_weights_without_an_exact_zero_stay(change: dict[str, np.ndarray], why: str) -> None:
    """Folding inserts zeros; a quantiser that maps 0 elsewhere would change the function."""
    constants: dict[str, Any] = {
        "w": weights(4, 4, 5), "s_w": np.float32(0.1), "zero_w": np.float32(0), "bits_w": np.float32(4)
    }  # fmt: skip
    built = graph(
        [
            node("Quant", "w s_w zero_w bits_w", "w_q", signed=1, narrow=0, rounding_mode="ROUND"),
            node("Conv", "x w_q", "y", kernel_shape=[5], pads=[2, 2]),
        ],
        {"x": ["N", 4, "T"]},
        {"y": ["N", 4, "T"]},
        constants | change,
    )
    record = run_pass(Polyphase(Polyphase.Options("rows", 2, True)), built)
    assert not record.changed and why in record.notes[0].what


def test_candidates_of_a_quantised_graph() -> None:
    wide = graph(
        [
            node("DequantizeLinear", "w s", "w_f", axis=0),
            node("Conv", "x w_f", "y", group=8, kernel_shape=[115], pads=[57, 57]),
        ],
        {"x": ["N", 64, "T"]},
        {"y": ["N", 64, "T"]},
        {"w": integers(64, 8, 115), "s": powers(64)},
    )
    assert [one.formulation for one in candidates(wide)][:2] == ["gather", "rows"]


def test_padding_with_another_number_than_the_zero_point_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module.Writer, "_zero", lambda self: np.zeros((), self.value.dtype.numpy()))
    built = qdq_net()
    work = built.clone()
    run_pass(Exact(Polyphase.Options("rows", 4, True)), work)
    x = np.random.default_rng(0).normal(size=(2, 8, 29)).astype(np.float32)
    assert np.any(execute(built, {"x": x})["y"] != execute(work, {"x": x})["y"])


@pytest.mark.parametrize(
    ("runtime", "formulation"),
    [("onnxruntime", "rows"), ("onnxruntime", "planes"), ("openvino", "gather"), ("openvino", "planes")],
)
def test_runtimes_agree_bit_for_bit(runtime: str, formulation: str) -> None:
    """With arbitrary scales: plain and rewritten graph in the same runtime, at symbolic lengths."""
    pytest.importorskip(runtime)
    plain = qdq_net(scale_seed=3)
    folded = plain.clone()
    run_pass(Polyphase(Polyphase.Options(formulation, 4, True)), folded)  # type: ignore[arg-type]
    old, new = _runner(runtime, plain), _runner(runtime, folded)
    for length in (29, 32, 7):
        x = np.random.default_rng(length).normal(size=(2, 8, length)).astype(np.float32)
        np.testing.assert_array_equal(old(x), new(x))


def _runner(runtime: str, built: Graph) -> Any:
    model = built.to_proto().SerializeToString()
    if runtime == "onnxruntime":
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = 1
        session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})[0]
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model), "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda x: compiled({"x": x})[0].copy()
