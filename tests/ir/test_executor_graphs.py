"""The executor on graphs: control flow, freeing, keeping, feeds, errors with provenance, speed."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from ir_graphs import conv_quant, graph, info
from onnx import helper

from rubicc.errors import Unsupported, UsageError, VerificationFailed
from rubicc.ir import executor
from rubicc.ir.executor import execute
from rubicc.ir.graph import SOURCE_KEY

RNG = np.random.default_rng(5)


def body(nodes, inputs, outputs):
    return helper.make_graph(nodes, "body", inputs, outputs)


def test_if_takes_the_branch_and_captures_outer_values():
    then = body([helper.make_node("Add", ["x", "r"], ["t"])], [], [info("t", [2])])
    other = body([helper.make_node("Sub", ["x", "r"], ["e"])], [], [info("e", [2])])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    g = graph(nodes, [info("x", [2]), info("c", [], bool)], [info("y", [2])])
    x = np.array([-1, 2], np.float32)
    np.testing.assert_array_equal(execute(g, {"x": x, "c": np.array(True)})["y"], [-1, 4])
    np.testing.assert_array_equal(execute(g, {"x": x, "c": np.array(False)})["y"], [-1, 0])


def test_loop_carries_and_stacks():
    step = body(
        [
            helper.make_node("Add", ["a", "x"], ["a2"]),
            helper.make_node("Less", ["i", "limit"], ["go"]),
            helper.make_node("Identity", ["a2"], ["row"]),
        ],
        [info("i", [], np.int64), info("go0", [], bool), info("a", [2])],
        [info("go", [], bool), info("a2", [2]), info("row", [2])],
    )
    node = helper.make_node("Loop", ["n", "", "x"], ["last", "rows"], body=step)
    constants = {"n": np.int64(10), "limit": np.int64(2)}
    g = graph([node], [info("x", [2])], [info("last", [2]), info("rows", [None, 2])], constants)
    got = execute(g, {"x": np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(got["rows"], [[2, 4], [3, 6], [4, 8]])
    np.testing.assert_array_equal(got["last"], [4, 8])


def test_scan_is_a_running_sum():
    step = body(
        [helper.make_node("Add", ["s", "x"], ["s2"]), helper.make_node("Identity", ["s2"], ["out"])],
        [info("s", [2]), info("x", [2])],
        [info("s2", [2]), info("out", [2])],
    )
    node = helper.make_node("Scan", ["s0", "xs"], ["end", "sums"], body=step, num_scan_inputs=1)
    g = graph([node], [info("s0", [2]), info("xs", ["T", 2])], [info("end", [2]), info("sums", ["T", 2])])
    xs = RNG.normal(size=(6, 2)).astype(np.float32)
    got = execute(g, {"s0": np.zeros(2, np.float32), "xs": xs})
    np.testing.assert_allclose(got["sums"], np.cumsum(xs, 0), rtol=1e-6)


@pytest.mark.parametrize("read", [0, 1])
@pytest.mark.parametrize("write", [0, 1])
def test_scan_runs_either_way(read: int, write: int) -> None:
    step = body(
        [helper.make_node("Add", ["s", "x"], ["s2"]), helper.make_node("Identity", ["s2"], ["out"])],
        [info("s", [2]), info("x", [2])],
        [info("s2", [2]), info("out", [2])],
    )
    node = helper.make_node(
        "Scan", ["s0", "xs"], ["end", "sums"], body=step, num_scan_inputs=1, scan_input_directions=[read],
        scan_output_directions=[write],
    )  # fmt: skip
    ends = [info("end", [2]), info("sums", ["T", 2])]
    g = graph([node], [info("s0", [2]), info("xs", ["T", 2])], ends)
    xs = RNG.normal(size=(6, 2)).astype(np.float32)
    sums = np.cumsum(xs[::-1] if read else xs, 0)
    got = execute(g, {"s0": np.zeros(2, np.float32), "xs": xs})
    np.testing.assert_allclose(got["sums"], sums[::-1] if write else sums, rtol=1e-5)
    np.testing.assert_allclose(got["end"], sums[-1], rtol=1e-5)


def test_dead_values_are_freed():
    """A chain of 200 values of 4 MB each must not hold 800 MB."""
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(200)]
    g = graph(nodes, [info("v0", [1 << 20])], [info("v200", [1 << 20])])
    live = []
    original = executor._Run._run_node
    try:
        executor._Run._run_node = lambda self, node: (original(self, node), live.append(len(self.live)))[0]
        execute(g, {"v0": np.ones(1 << 20, np.float32)})
    finally:
        executor._Run._run_node = original
    assert max(live) <= 2


def test_keep_returns_intermediates_and_weights_by_name():
    g = conv_quant()
    x = RNG.normal(size=(2, 4, 31)).astype(np.float32)
    kept = execute(g, {"x": x}, keep=["wq", "r", "b"])
    everything = execute(g, {"x": x}, keep="all")
    assert set(kept) == {"wq", "r", "b", "y"}
    assert {"xq", "wq", "c", "n", "r", "rq", "p", "y"} <= set(everything)
    np.testing.assert_array_equal(kept["r"], everything["r"])
    with pytest.raises(UsageError, match="nothing_like_it"):
        execute(g, {"x": x}, keep=["nothing_like_it"])


def test_a_sink_is_given_what_would_be_kept():
    g = conv_quant()
    x = RNG.normal(size=(2, 4, 31)).astype(np.float32)
    kept = execute(g, {"x": x}, keep="all")
    seen: dict[str, np.ndarray] = {}
    returned = execute(g, {"x": x}, keep="all", sink=seen.__setitem__)
    assert set(returned) == {value.name for value in g.outputs}
    assert seen and all(np.array_equal(kept[name], array) for name, array in seen.items())


def test_float64_is_float64_everywhere():
    g = conv_quant()
    x = RNG.normal(size=(1, 4, 31)).astype(np.float32)
    values = execute(g, {"x": x}, dtype=np.float64, keep="all")
    assert {a.dtype for a in values.values()} == {np.dtype(np.float64)}


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "missing: ['x']"),
        ({"x": np.zeros((1, 4, 9), np.float32), "z": np.zeros(1)}, "unknown: ['z']"),
        ({"x": np.zeros((1, 5, 9), np.float32)}, "declared [N, 4, T]"),
        ({"x": np.zeros((4, 9), np.float32)}, "declared [N, 4, T]"),
        ({"x": np.zeros((1, 4, 9), np.int64)}, "type int64"),
    ],
)
def test_feeds_that_do_not_fit(feeds, said):
    with pytest.raises(UsageError) as error:
        execute(conv_quant(), feeds)
    assert error.value.code == "RUB-IR-003" and said in str(error.value)


def test_a_failing_node_is_named_with_its_source():
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], name="baked")]
    g = graph(nodes, [info("x", ["N", 4])], [info("y", None)], {"s": np.array([2, 6], np.int64)})
    g.nodes[0].metadata_props[SOURCE_KEY] = "encoder.rnn.0"
    with pytest.raises(VerificationFailed) as error:
        execute(g, {"x": np.zeros((5, 4), np.float32)})
    assert error.value.code == "RUB-IR-002" and error.value.exit_code == 5
    assert "'baked'" in error.value.where and "encoder.rnn.0" in error.value.where
    assert "float32[5, 4]" in error.value.what


def test_all_unknown_operators_are_listed_before_anything_runs():
    nodes = [helper.make_node("Hardmax", ["x"], ["a"]), helper.make_node("Det", ["a"], ["y"])]
    g = graph(nodes, [info("x", [2, 2])], [info("y", [])])
    with pytest.raises(Unsupported, match="Det, Hardmax"):
        execute(g, {"x": np.eye(2, dtype=np.float32)})


def test_bombs_at_run_time_are_refused():
    nodes = [helper.make_node("Expand", ["x", "n"], ["y"], name="bomb")]
    g = graph(nodes, [info("x", [1]), info("n", [1], np.int64)], [info("y", None)])
    with pytest.raises(Exception, match="RUB-IR-047"):
        execute(g, {"x": np.zeros(1, np.float32), "n": np.array([1 << 40])})


def test_half_precision_accumulates_in_float32():
    x = np.full((1, 4096), 0.1, np.float16)
    g = graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [info("x", [1, 4096], np.float16)],
        [info("y", [1, 1], np.float16)],
        {"w": np.ones((4096, 1), np.float16)},
    )
    got = execute(g, {"x": x})["y"]
    assert got.dtype == np.float16
    assert abs(float(got[0, 0]) - 4096 * float(np.float16(0.1))) < 0.3


def test_a_grouped_convolution_of_the_basecaller_kind_is_fast():
    """(232 channels, 8 per group, k=123, 400 frames): 91 MMAC; Python loops over taps fail this."""
    weight = RNG.normal(size=(232, 8, 123)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=29, pads=[61, 61])
    g = graph([node], [info("x", [1, 232, "T"])], [info("y", None)], {"w": weight})
    x = RNG.normal(size=(1, 232, 400)).astype(np.float32)
    execute(g, {"x": x})
    seconds = []
    for _ in range(3):
        start = time.process_time()
        execute(g, {"x": x})
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.3


def test_convolution_in_blocks_equals_convolution_at_once(monkeypatch):
    from rubicc.ir.ops import conv

    g = conv_quant()
    x = RNG.normal(size=(2, 4, 100)).astype(np.float32)
    whole = execute(g, {"x": x})["y"]
    monkeypatch.setattr(conv, "_BLOCK_BYTES", 512)
    np.testing.assert_allclose(execute(g, {"x": x})["y"], whole, rtol=1e-5, atol=1e-5)


def test_opset_17_and_the_ai_onnx_domain_name():
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], domain="ai.onnx")
    opsets = [helper.make_opsetid("", 17)]
    g = graph([node], [info("x", [2, 4])], [info("y", [2, 1])], opsets=opsets)
    x = RNG.normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_allclose(execute(g, {"x": x})["y"], x.mean(1, keepdims=True), rtol=1e-6)
    assert onnx.defs.onnx_opset_version() >= 20
