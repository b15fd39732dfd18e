"""Convolutions over time on two spatial axes: geometry, weights, padding rules, whole networks, mutants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import graph, node, norm, norm_constants, weights

from rubicc.ir.graph import Graph
from rubicc.passes.ane import conv1d_to_conv2d as module
from rubicc.passes.ane.conv1d_to_conv2d import Conv1dToConv2d
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.manager import run_pass
from rubicc.passes.registry import get

PASS = "ane.conv1d-to-conv2d"


def convolution(
    groups: int, inputs: int, outputs: int, taps: int, length: int | str, op: str = "Conv", **attrs: Any
) -> Graph:
    shape = (groups * outputs, inputs, taps) if op == "Conv" else (groups * inputs, outputs, taps)
    return graph(
        [node(op, "x w b", "y", group=groups, kernel_shape=[taps], **attrs)],
        {"x": ["N", groups * inputs, length]},
        {"y": ["N", groups * outputs, None]},
        {"w": weights(*shape), "b": weights(groups * outputs)},
    )


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["Conv", "ConvTranspose"]), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3),
    st.integers(1, 7), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4), st.integers(0, 4),
    st.booleans(),
)  # fmt: skip
def test_any_convolution(
    op: str, groups: int, inputs: int, outputs: int, taps: int, stride: int, dilation: int, before: int,
    after: int, static: bool,
) -> None:  # fmt: skip
    """Grouped, depthwise, strided, dilated, padded unevenly, of any length: bit for bit."""
    length = dilation * (taps - 1) + 8
    attrs = {"strides": [stride], "dilations": [dilation], "pads": [before, after]}
    if op == "ConvTranspose" and stride > 1:
        attrs["output_padding"] = [1]
    before_pass = convolution(groups, inputs, outputs, taps, length if static else "T", op, **attrs)
    done = apply_and_check(
        PASS, before_pass, sizes={"T": length, "N": 2}, random=1, expect_ops={"Squeeze": 1, "Unsqueeze": 1}
    )
    made = next(n for n in done.graph.nodes if n.op_type == op)
    assert (
        list(made.inputs[1].shape)[2:] == [1, taps] and made.attributes["pads"].value[1::2] == (before, after)
    ) or (list(made.attributes["pads"].value) == [0, before, 0, after])


@pytest.mark.parametrize("rule", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("stride", "length"), [(1, "T"), (1, 11), (3, 11), (3, "T")])
def test_padding_by_a_rule_becomes_explicit_where_it_is_known(
    rule: str, stride: int, length: int | str
) -> None:
    before = convolution(1, 2, 2, 4, length, auto_pad=rule, strides=[stride])
    done = apply_and_check(PASS, before, sizes={"T": 11})
    made = next(n for n in done.graph.nodes if n.op_type == "Conv")
    unknown = stride == 3 and length == "T" and rule != "VALID"
    assert ("auto_pad" in made.attributes) == unknown


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "GlobalAveragePool"])
def test_pooling(op: str) -> None:
    attrs: dict[str, Any] = (
        {} if op.startswith("Global") else {"kernel_shape": [3], "strides": [2], "pads": [1, 0]}
    )
    if op == "AveragePool":
        attrs |= {"count_include_pad": 0, "ceil_mode": 1}
    before = graph([node(op, "x", "y", **attrs)], {"x": ["N", 3, "T"]}, {"y": ["N", 3, None]})
    apply_and_check(PASS, before, sizes={"T": 12}, expect_ops={"Squeeze": 1, "Unsqueeze": 1})


def quantised() -> Graph:
    """Quantisers on the input and, per channel, on the weights; the weights shared by two convolutions."""
    return graph(
        [
            node("Quant", "x sx zero eight", "q", signed=1, narrow=0),
            node("Quant", "w sw zero four", "wq", signed=1, narrow=1),
            node("Conv", "q wq", "a", pads=[1, 1]), node("Relu", "a", "r"),
            node("Conv", "r wq b", "y", group=1),
        ],
        {"x": ["N", 4, "T"]}, {"y": ["N", 4, None]},
        {
            "sx": np.float32(0.1), "zero": np.float32(0), "eight": np.float32(8), "four": np.float32(4),
            "w": weights(4, 4, 3), "sw": np.abs(weights(4, 1, 1)) + 0.1, "b": weights(4),
        },
    )  # fmt: skip


def test_quantisers_stay_in_front_of_their_weights() -> None:
    """One quantiser on (4, 4, 1, 3) with scales (4, 1, 1, 1) serves both convolutions."""
    done = apply_and_check(PASS, quantised(), expect_ops={"Squeeze": 2, "Unsqueeze": 2})
    makers = {n.inputs[1].producer() for n in done.graph.nodes if n.op_type == "Conv"}
    maker = makers.pop()
    assert not makers and maker is not None and maker.op_type == "Quant"
    assert list(maker.inputs[0].shape) == [4, 4, 1, 3] and list(maker.inputs[1].shape) == [4, 1, 1, 1]


def test_integer_and_computed_weights() -> None:
    """DequantizeLinear keeps its axis; a weight that is computed gets an Unsqueeze of its own."""
    integers = np.random.default_rng(0).integers(-9, 9, (4, 2, 3)).astype(np.int8)
    before = graph(
        [
            node("DequantizeLinear", "i s", "d", axis=0), node("Conv", "x d", "a", pads=[1, 1]),
            node("Tanh", "w", "t"), node("Conv", "a t", "y", pads=[1, 1]),
        ],
        {"x": ["N", 2, "T"]}, {"y": ["N", 5, "T"]},
        {"i": integers, "s": np.abs(weights(4)) + 0.1, "w": weights(5, 4, 3)},
    )  # fmt: skip
    apply_and_check(PASS, before, expect_ops={"Squeeze": 1, "Unsqueeze": 2})


def network() -> Graph:
    """Stem, norm, residual branch, log-softmax over (T, N, C): the shape of every CTC base caller."""
    return graph(
        [
            node("Conv", "x w0", "a", strides=[3], pads=[4, 4]), norm("a", "n"), node("Relu", "n", "s"),
            node("Conv", "s g", "c", group=2, pads=[2, 2]), node("Conv", "c p b", "d"),
            node("Conv", "s p", "e"),
            node("Add", "d e", "f"), node("Mul", "f scale", "m"), node("Sigmoid", "m", "g1"),
            node("Conv", "g1 h", "l"), node("Transpose", "l", "t", perm=[2, 0, 1]),
            node("LogSoftmax", "t", "y", axis=-1),
        ],
        {"x": ["N", 1, "T"]}, {"y": [None, "N", 5]},
        {
            "w0": weights(6, 1, 9), "g": weights(6, 3, 5), "p": weights(6, 6, 1), "b": weights(6),
            "h": weights(5, 6, 1), "scale": weights(1, 6, 1), **norm_constants(6),
        },
    )  # fmt: skip


def test_a_network_keeps_one_view_at_each_end() -> None:
    """With `ane.layout` behind it: an Unsqueeze at the input, Squeeze and the output's own Transpose."""
    done = apply_and_check(PASS, network(), sizes={"T": 40, "N": 2})
    for name in ("ane.layout", "ane.remove-transposes"):
        done = apply_and_check(name, done.graph, sizes={"T": 40, "N": 2})
    counts = done.graph.op_counts()
    assert {op: counts.get(op) for op in ("Unsqueeze", "Squeeze", "Transpose", "Reshape")} == {
        "Unsqueeze": 1, "Squeeze": 1, "Transpose": 1, "Reshape": None,
    }  # fmt: skip
    inner = [
        n for n in done.graph.nodes if n.op_type in ("Conv", "Relu", "Add", "Mul", "Sigmoid", "LogSoftmax")
    ]
    assert all(len(n.outputs[0].shape) == 4 for n in inner)


def test_what_stays_is_said() -> None:
    old = network()
    old.model.opset_imports[""] = 12
    record = run_pass(get(PASS)(), old)
    assert not record.changed and "older" in record.notes[0].what
    indices = graph(
        [node("MaxPool", "x", "y i", kernel_shape=[2])],
        {"x": ["N", 2, 8]}, {"y": ["N", 2, 7], "i": ["N", 2, 7]}, types={"i": 7},
    )  # fmt: skip
    record = run_pass(get(PASS)(), indices)
    assert not record.changed and "indices" in record.notes[0].what


def _wrong(change: Any) -> Any:
    right = module.spatial_attributes

    def wrong(old: Any) -> dict[str, Any]:
        made = dict(right(old))
        change(made)
        return made

    return wrong


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.update(pads=[0, a["pads"][3], 0, a["pads"][1]]),
        lambda a: a.update(dilations=[1, 1]),
        lambda a: a.update(pads=[a["pads"][1], 0, a["pads"][3], 0]),
    ],
    ids=["pads swapped", "dilation lost", "pads on the wrong axis"],
)
def test_wrong_attributes_fail(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    before = convolution(2, 2, 2, 3, 12, pads=[1, 3], dilations=[2])
    monkeypatch.setattr(module, "spatial_attributes", _wrong(change))
    assert_mutant_fails(Conv1dToConv2d, before)


def test_a_reversed_kernel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.array_as_view
    monkeypatch.setattr(
        module, "array_as_view", lambda a, view: right(a[..., ::-1] if a.ndim == 3 else a, view)
    )
    assert_mutant_fails(Conv1dToConv2d, convolution(1, 2, 2, 3, 12), code="RUB-PASS-021")
