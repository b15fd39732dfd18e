"""Operators between channels-first values: every kind in every form, what stays, mutants."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from pass_graphs import graph, node, norm, norm_constants, weights

from rubicc.ir.graph import Graph
from rubicc.passes.ane import layout as module
from rubicc.passes.ane.layout import Carried, Layout
from rubicc.passes.ane.matching import BCS, BSC, FORMS, SBC, Channels
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.manager import run_pass
from rubicc.passes.registry import get

PASS = "ane.layout"
NAMES = {BSC: "BSC", SBC: "SBC", BCS: "BCS"}
DIMS: dict[Any, list[Any]] = {BSC: ["N", "T", 6], SBC: ["T", "N", 6], BCS: ["N", 6, "T"]}


def between(form: Any, nodes: list[Any], constants: dict[str, Any], last: str, width: int = 6) -> Graph:
    """Ways out (``a``, ``b``) of (N, 6, 1, T), ``nodes`` on them in ``form``, and a way in from ``last``."""
    way_out, way_in = [], []
    read = sorted({"a", "b"} & {name for one in nodes for name in one.input})
    for name in read:
        way_out.append(node("Squeeze", f"{name}4 two", f"{name}s"))
        turn = node("Transpose", f"{name}s", name, perm=list(form.outward))
        way_out.append(turn if form != BCS else node("Identity", f"{name}s", name))
    turn = node("Transpose", last, "last", perm=list(form.inward))
    way_in = [turn if form != BCS else node("Identity", last, "last"), node("Unsqueeze", "last two", "y4")]
    ends = [node({"a": "Relu", "b": "Neg"}[name], "x", f"{name}4") for name in read]
    every = [*ends, *way_out, *nodes, *way_in, node("Sigmoid", "y4", "y")]
    used = {name for one in every for name in one.input}
    kept = {name: value for name, value in {"two": np.asarray([2]), **constants}.items() if name in used}
    built = graph(every, {"x": ["N", 6, 1, "T"]}, {"y": ["N", width, 1, "T"]}, kept)
    run_pass(get("cleanup.eliminate-identity")(), built)
    return built


def per_channel(form: Any, array: np.ndarray) -> np.ndarray:
    """Six numbers so that they broadcast along the channels of a rank-3 value."""
    return array.reshape([6 if axis == form.channel else 1 for axis in range(3)])


KINDS: dict[str, Any] = {
    "sum": lambda f: ([node("Add", "a b", "c")], {}, "c", 6),
    "bias": lambda f: ([node("Add", "a w", "c"), node("Mul", "half c", "d")],
                       {"w": per_channel(f, weights(6)), "half": np.float32(0.5)}, "d", 6),
    "choice": lambda f: ([node("Greater", "a b", "g"), node("Where", "g a zero", "c")],
    {"zero": np.float32(0)}, "c", 6),
    "softmax": lambda f: ([node("Softmax", "a", "c", axis=f.channel)], {}, "c", 6),
    "softmax over time": lambda f: ([node("LogSoftmax", "a", "c", axis=f.sequence - 3)], {}, "c", 6),
    "mean": lambda f: ([node("ReduceMean", "a ax", "m"), node("Sub", "b m", "c")],
                       {"ax": np.asarray([f.channel])}, "c", 6),
    "concat": lambda f: ([node("Concat", "a b", "c", axis=f.channel)], {}, "c", 12),
    "split": lambda f: ([node("Split", "a sizes", "p q", axis=f.channel), node("Mul", "p q", "c")],
                        {"sizes": np.asarray([3, 3])}, "c", 3),
    "slice": lambda f: ([node("Slice", "a one four ax", "c")],
                        {"one": np.asarray([1]), "four": np.asarray([4]),
                        "ax": np.asarray([f.channel])}, "c", 3),
    "quantiser": lambda f: ([node("Quant", "a s zero eight", "c", signed=1, narrow=0)],
                            {"s": per_channel(f, np.abs(weights(6)) + 0.1), "zero": np.float32(0),
                             "eight": np.float32(8)}, "c", 6),
    "clip": lambda f: ([node("Clip", "a lo hi", "c")], {"lo": np.float32(0.2),
    "hi": np.float32(0.9)}, "c", 6),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=NAMES.get)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_every_form(kind: str, form: Any) -> None:
    """No view is left, and nothing of rank 3."""
    before = between(form, *KINDS[kind](form))
    done = apply_and_check(PASS, before, expect_changed=True)
    assert not {"Transpose", "Squeeze", "Unsqueeze"} & set(done.graph.op_counts())
    assert all(len(n.outputs[0].shape) == 4 for n in done.graph.nodes)  # type: ignore[arg-type]


def test_normalisation_by_channel() -> None:
    before = between(BCS, [norm("a", "c")], norm_constants(6), "c")
    done = apply_and_check(PASS, before)
    assert not {"Squeeze", "Unsqueeze"} & set(done.graph.op_counts())


@pytest.mark.parametrize("how", ["mean", "first"])
def test_pooling_over_the_sequence(how: str) -> None:
    """(B, S, C) to (B, C): computed on (B, C, 1, S), then squeezed."""
    pooled = (
        node("ReduceMean", "t ax", "p", keepdims=0)
        if how == "mean"
        else node("Gather", "t place", "p", axis=1)
    )
    before = graph(
        [
            node("Relu", "x", "r"), node("Squeeze", "r two", "s"),
            node("Transpose", "s", "t", perm=[0, 2, 1]),
            pooled, node("Tanh", "p", "y"),
        ],
        {"x": ["N", 6, 1, "T"]}, {"y": ["N", 6]},
        {"two": np.asarray([2]), **({"ax": np.asarray([1])} if how == "mean" else {"place": np.asarray(0)})},
    )  # fmt: skip
    done = apply_and_check(PASS, before, expect_ops={"Transpose": -1})
    assert "Squeeze" in done.graph.op_counts()


def test_shapes_are_read_behind_the_view() -> None:
    """Dimensions of (B, S, C) come from (B, C, 1, S), so nobody needs the view."""
    before = graph(
        [
            node("Relu", "x", "r"), node("Squeeze", "r two", "s"),
            node("Transpose", "s", "t", perm=[0, 2, 1]),
            node("Shape", "t", "d"), node("Expand", "one d", "y"),
        ],
        {"x": ["N", 6, 1, "T"]}, {"y": ["N", "T", 6]}, {"two": np.asarray([2]),
        "one": np.ones((1, 1, 1), np.float32)},
    )  # fmt: skip
    apply_and_check(PASS, before, expect_ops={"Transpose": -1, "Squeeze": -1, "Gather": 1})


def test_what_mixes_axes_keeps_its_view() -> None:
    before = between(BSC, [node("MatMul", "a w", "c")], {"w": weights(6, 6)}, "c")
    done = apply_and_check(PASS, before, expect_changed=False)
    assert done.graph.op_counts()["MatMul"] == 1
    before.model.opset_imports[""] = 12
    record = run_pass(get(PASS)(), before)
    assert not record.changed and "older" in record.notes[0].what


class WrongAxis(Carried):
    """Mutant: the axis of a softmax stays the number it was."""

    def _replace(self, form: Any, inputs: Any, attributes: Any) -> None:
        if self.node.op_type == "Softmax":
            attributes = {**attributes, "axis": self.node.attributes.get_int("axis", -1)}
        super()._replace(form, inputs, attributes)


def test_a_wrong_axis_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Carried", WrongAxis)
    before = between(BSC, *KINDS["softmax"](BSC))
    assert_mutant_fails(Layout, before, code="RUB-PASS-021")


def test_a_constant_that_is_not_turned_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: a bias by channel becomes a bias by position."""

    def wrong(self: Channels, value: ir.Value, form: Any) -> ir.Value | None:
        array = module.constant(value)
        return (
            value
            if array is None or array.size == 1
            else self.edit.initializer("w", array.reshape(1, 1, 1, -1))
        )

    monkeypatch.setattr(Channels, "constant", wrong)
    before = between(BSC, *KINDS["bias"](BSC))
    assert_mutant_fails(Layout, before, sizes={"T": 6, "N": 2})
