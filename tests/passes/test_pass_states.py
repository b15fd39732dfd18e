"""Zero initial states of recurrent layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper
from pass_graphs import graph, node, weights

from rubicc.ir.graph import Graph
from rubicc.passes.cleanup import drop_zero_states
from rubicc.passes.cleanup.drop_zero_states import DropZeroStates
from rubicc.passes.harness import apply_and_check, assert_mutant_fails

STATES = "cleanup.drop-zero-states"


def recurrent(h: str = "zeros", c: str = "zeros", fill: float = 0.0) -> Graph:
    """An LSTM whose states come from ConstantOfShape (``zeros``), a constant, or an input."""
    nodes = [
        node("Shape", "x", "s", start=1, end=2),
        node("Concat", "one s three", "shape", axis=0),
        node("ConstantOfShape", "shape", "zeros", value=helper.make_tensor("v", 1, [1], [fill])),
        node("LSTM", f"x w r b - {h} {c}", "a", hidden_size=3),
        node("Squeeze", "a one", "y"),
    ]
    constants = {
        "one": np.array([1], np.int64), "three": np.array([3], np.int64), "w": weights(1, 12, 2),
        "r": weights(1, 12, 3), "b": weights(1, 24), "state": weights(1, 4, 3), "none": np.zeros((1, 4, 3)),
    }  # fmt: skip
    return graph(nodes, {"x": ("T", 4, 2), "h": (1, 4, 3)}, {"y": ("T", 4, 3)}, constants)


@pytest.mark.parametrize(
    ("h", "c", "left"),
    [
        ("zeros", "zeros", 4),
        ("none", "zeros", 4),
        ("h", "zeros", 6),
        ("zeros", "state", 7),
        ("zeros", "-", 4),
    ],
)
def test_zero_states_are_left_out(h: str, c: str, left: int) -> None:
    done = apply_and_check(STATES, recurrent(h, c), expect_ops={}, expect_changed=True)
    lstm = next(n for n in done.graph.nodes if n.op_type == "LSTM")
    assert len(lstm.inputs) == left


def test_other_states_stay() -> None:
    apply_and_check(STATES, recurrent("h", "state"), expect_changed=False)
    apply_and_check(STATES, recurrent(fill=0.1), expect_changed=False)


def test_state_mutants_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def any_constant(value: ir.Value | None) -> bool:
        return value is not None and (value.is_initializer() or value.producer() is not None)

    monkeypatch.setattr(drop_zero_states, "is_zero", any_constant)
    assert_mutant_fails(DropZeroStates, recurrent("state", "zeros"), code="RUB-PASS-021")
    assert_mutant_fails(DropZeroStates, recurrent(fill=0.1), code="RUB-PASS-021")
