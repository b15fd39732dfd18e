"""Long sequences in pieces and padded lengths: any small network, branches, what is left, mutants."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pass_graphs import graph, node, norm, norm_constants, weights

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.ir.shapes import dims_of
from rubicc.passes.ane import chunk as module
from rubicc.passes.ane.align import Align
from rubicc.passes.ane.chunk import Chunk
from rubicc.passes.ane.spans import Window, length, span_of
from rubicc.passes.harness import apply_and_check, assert_mutant_fails, relative_error
from rubicc.passes.manager import run_pass
from rubicc.passes.registry import get


def layers(convs: list[tuple[int, int, int, int, int]], size: int) -> Graph:
    """Convolutions (taps, stride, dilation, before, after) with activations between, over ``size``."""
    nodes, constants, value, now = [], {}, "x", size
    for index, (taps, stride, dilation, before, after) in enumerate(convs):
        now = (now + before + after - dilation * (taps - 1) - 1) // stride + 1
        constants[f"w{index}"] = weights(2, 2, 1, taps, seed=index)
        constants[f"b{index}"] = weights(2, seed=index)
        nodes += [
            node("Conv", f"{value} w{index} b{index}", f"c{index}", strides=[1, stride],
                 dilations=[1, dilation], pads=[0, before, 0, after]),
            node("Sigmoid", f"c{index}", f"s{index}"),
        ]  # fmt: skip
        value = f"s{index}"
    nodes.append(node("Neg", value, "y"))
    return graph(nodes, {"x": [1, 2, 1, size]}, {"y": [1, 2, 1, now]}, constants)


@st.composite
def stacks(draw: st.DrawFn) -> Graph:
    """One to four convolutions over enough positions for a few pieces."""
    convs, size = [], draw(st.integers(60, 120))
    now = size
    for _ in range(draw(st.integers(1, 4))):
        taps, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 2))
        reach = dilation * (taps - 1)
        before, after = draw(st.integers(0, reach)), draw(st.integers(0, reach))
        stride = draw(st.integers(1, 2))
        now = (now + before + after - reach - 1) // stride + 1
        assume(now >= 4)
        convs.append((taps, stride, dilation, before, after))
    return layers(convs, size)


def longest(one: Graph) -> int:
    """Positions of the longest value that a node makes, joined results and graph ends aside."""
    ends = {v.name for v in (*one.inputs, *one.outputs)}
    nodes = [n for n in one.nodes if n.op_type not in ("Concat", "Slice")]
    return max(length(v) or 0 for n in nodes for v in (*n.inputs[:1], *n.outputs) if v and v.name not in ends)


@settings(max_examples=60, deadline=None)
@given(stacks(), st.integers(40, 59))
def test_any_stack_of_convolutions_in_pieces(plain: Graph, limit: int) -> None:
    """Every piece fits, and the whole is what it was, zeros at the ends included."""
    made = plain.clone()
    record = run_pass(get("ane.chunk")(Chunk.Options(limit=limit)), made)
    assert record.changed == (not record.decisions)
    if not record.changed:
        assert record.decisions[0].code == "RUB-PASS-D31"
        return
    x = {"x": np.random.default_rng(0).normal(size=[1, 2, 1, dims_of(plain.inputs[0])[-1]])}  # type: ignore[index]
    x = {"x": x["x"].astype(np.float32)}
    old, new = (execute(one, x, dtype=np.float64)["y"] for one in (plain, made))
    assert relative_error(old, new) < 1e-14 and longest(made) <= limit


@settings(max_examples=60, deadline=None)
@given(stacks(), st.sampled_from([8, 16, 32]))
def test_any_stack_of_convolutions_aligned(plain: Graph, multiple: int) -> None:
    made = plain.clone()
    record = run_pass(get("ane.align")(Align.Options(multiple=multiple)), made)
    x = {"x": np.random.default_rng(0).normal(size=[1, 2, 1, dims_of(plain.inputs[0])[-1]])}  # type: ignore[index]
    x = {"x": x["x"].astype(np.float32)}
    old, new = (execute(one, x, dtype=np.float64)["y"] for one in (plain, made))
    assert relative_error(old, new) < 1e-14
    if record.changed:
        inner = [n for n in made.nodes if n.op_type == "Conv"]
        assert all((length(n.outputs[0]) or 0) % multiple == 0 for n in inner)
        assert {d.code for d in record.decisions} == {"RUB-PASS-D32"}


def branches() -> Graph:
    """A residual block with a norm, pooling, channel softmax, and a quantiser on the way."""
    return graph(
        [
            node("Conv", "x w0", "a", pads=[0, 4, 0, 4]), norm("a", "n"), node("Relu", "n", "r"),
            node("Conv", "r w1", "b", pads=[0, 3, 0, 3], group=3), node("Add", "b r", "s"),
            node("Quant", "s half zero eight", "q", signed=1, narrow=0),
            node("MaxPool", "q", "m", kernel_shape=[1, 3], strides=[1, 2], pads=[0, 1, 0, 1]),
            node("Conv", "m w2", "d", pads=[0, 2, 0, 2]), node("LogSoftmax", "d", "y", axis=1),
        ],
        {"x": [2, 1, 1, 300]}, {"y": [2, 5, 1, 150]},
        {
            "w0": weights(6, 1, 1, 9), "w1": weights(6, 2, 1, 7), "w2": weights(5, 6, 1, 5),
            **norm_constants(6), "half": np.float32(0.5), "zero": np.float32(0), "eight": np.float32(8),
        },
    )  # fmt: skip


def test_a_residual_network_in_pieces() -> None:
    """Four pieces of at most 100 positions: every operator four times, one Slice per piece, one Concat."""
    before = branches()
    done = apply_and_check("ane.chunk", before, options={"limit": 100})
    counts, old = done.graph.op_counts(), before.op_counts()
    assert all(counts[op] == 4 * count for op, count in old.items()) and counts["Concat"] == 1
    assert counts["Slice"] >= 4 and longest(done.graph) <= 100
    convs = [n for n in done.graph.nodes if n.op_type == "Conv"]
    assert len({n.inputs[1] for n in convs}) == 3  # weights are shared by the pieces
    assert "twice" in done.record.notes[0].what
    apply_and_check("ane.chunk", before, expect_changed=False)  # 300 positions fit as they are


def test_what_needs_the_whole_sequence_is_left_with_a_decision() -> None:
    before = graph(
        [
            node("Conv", "x w", "a", pads=[0, 2, 0, 2]), node("Softmax", "a", "p", axis=3),
            node("Mul", "a p", "y"),
        ],
        {"x": [1, 2, 1, 90]}, {"y": [1, 2, 1, 90]}, {"w": weights(2, 2, 1, 5)},
    )  # fmt: skip
    record = run_pass(get("ane.chunk")(Chunk.Options(limit=50)), before)
    assert [d.code for d in record.decisions][:1] == ["RUB-PASS-D31"] and "Softmax" in record.decisions[
        0
    ].what
    recurrent = graph(
        [node("GRU", "x w r", "y -", hidden_size=3)], {"x": [80, 1, 2]}, {"y": [80, 1, 1, 3]},
        {"w": weights(1, 9, 2), "r": weights(1, 9, 3)},
    )  # fmt: skip
    record = run_pass(get("ane.chunk")(Chunk.Options(limit=50)), recurrent)
    assert not record.changed and "GRU" in record.decisions[0].what
    far = layers([(5, 1, 9, 18, 18)] * 4, 60)
    record = run_pass(get("ane.chunk")(Chunk.Options(limit=50)), far)
    assert not record.changed and record.decisions[0].code == "RUB-PASS-D31"


def test_aligning_zeroes_what_lies_behind_the_end() -> None:
    """A sigmoid of zero is a half: the next convolution must not see it. Off unless asked for."""
    before = layers([(5, 1, 1, 2, 2), (5, 1, 1, 2, 2)], 70)
    done = apply_and_check("ane.align", before, options={"multiple": 32}, expect_ops={"Mul": 1, "Slice": 1})
    assert "1 multiplications" in done.record.decisions[0].what
    apply_and_check("ane.align", before, expect_changed=False)
    relu = graph(
        [
            node("Conv", "x w", "a", pads=[0, 2, 0, 2]), node("Log", "a", "l"),
            node("Conv", "l w", "y", pads=[0, 2, 0, 2]),
        ],
        {"x": [1, 2, 1, 70]}, {"y": [1, 2, 1, 70]}, {"w": np.abs(weights(2, 2, 1, 5))},
    )  # fmt: skip
    record = run_pass(get("ane.align")(Align.Options(multiple=32)), relu)
    assert not record.changed and "finite" in record.notes[0].what


def test_a_real_limit() -> None:
    """16,384 positions, as the default has it: 20,000 become two pieces."""
    done = apply_and_check("ane.chunk", layers([(9, 1, 1, 4, 4)], 20_000), random=1)
    assert done.graph.op_counts()["Conv"] == 2 and longest(done.graph) <= 16_384


def test_spans_and_windows() -> None:
    before = layers([(5, 2, 3, 1, 2)], 60)
    conv, sigmoid = before.nodes[:2]
    span, point = span_of(conv), span_of(sigmoid)
    assert span is not None and span.window == Window(13, 2, 1, 2) and not span.window.is_point
    assert span.window.reads(3, 5) == (5, 20)
    assert point is not None and point.window.is_point and point.places == (0,)


def test_lost_padding_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: every piece keeps the padding of the whole, as a plain copy of the layers would."""
    right = module._Writer._copy

    def wrong(self: Any, span: Any, index: int, piece: Any) -> None:
        right(self, span, index, piece)
        made, _ = self._made[index][span.node.outputs[0]]
        copy = made.producer()
        if "pads" in copy.attributes:
            copy.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])

    monkeypatch.setattr(module._Writer, "_copy", wrong)
    assert_mutant_fails(Chunk, branches(), options={"limit": 100})


def test_a_halo_too_small_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: pieces overlap by one position less on the right."""
    right = Window.reads

    def wrong(self: Window, low: int, high: int) -> tuple[int, int]:
        first, end = right(self, low, high)
        return (first - 1, end - 1) if self.extent > 1 and low else (first, end)

    monkeypatch.setattr(Window, "reads", wrong)
    assert_mutant_fails(Chunk, branches(), options={"limit": 100})


def test_a_mask_that_is_forgotten_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from rubicc.passes.ane import align

    monkeypatch.setattr(align._Aligner, "_zeroed", lambda self, node, value, true, size: value)
    before = layers([(5, 1, 1, 2, 2), (5, 1, 1, 2, 2)], 70)
    assert_mutant_fails(Align, before, options={"multiple": 32}, code="RUB-PASS-021")
