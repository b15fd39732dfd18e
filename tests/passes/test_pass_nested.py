"""Graphs nested in If nodes: rewritten inside, captured values kept right."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_graphs import graph, node, weights

from rubicc.ir.graph import SOURCE_KEY, Graph
from rubicc.passes.harness import apply_and_check
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES
from rubicc.passes.rewrite import graphs_of

X = ("N", 4)


def branches() -> Graph:
    """r = Relu(x); y = Sigmoid(if flag: Identity(r) * w * 1 else Dropout(r + (1 + 1)))."""
    ones = numpy_helper.from_array(np.ones(1, np.float32), "one")
    out = [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    then = helper.make_graph(
        [node("Identity", "r", "a"), node("Mul", "a w", "c"), node("Mul", "c one", "b")],
        "then",
        [],
        out,
        [ones],
    )
    made = node("Constant", "", "k", value=numpy_helper.from_array(np.ones(4, np.float32)))
    out = [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)]
    other = helper.make_graph(
        [made, node("Add", "k k", "kk"), node("Add", "r kk", "d"), node("Dropout", "d", "e")], "else", [], out
    )
    nodes = [
        node("Relu", "x", "r"),
        node("If", "flag", "z", then_branch=then, else_branch=other),
        node("Sigmoid", "z", "y"),
    ]
    types = {"flag": TensorProto.BOOL}
    return graph(nodes, {"x": X, "flag": ()}, {"y": X}, {"w": weights(4)}, types=types)


def feeds() -> list[dict[str, np.ndarray]]:
    return [{"x": weights(3, 4), "flag": np.array(flag)} for flag in (True, False)]


def test_each_graph_is_visited_once() -> None:
    assert [owner.name for owner in graphs_of(branches())] == ["test", "else", "then"]


@pytest.mark.parametrize("pass_id", dict.fromkeys(s.id for s in PIPELINES["cpu_gpu"]))
def test_every_pass_alone(pass_id: str) -> None:
    apply_and_check(pass_id, branches(), feeds(), random=0)


def test_clean_up_reaches_into_branches() -> None:
    work = branches()
    run_pipeline(work, PIPELINES["cleanup"], check=True)
    assert work.op_counts() == {"Add": 1, "If": 1, "Mul": 1, "Relu": 1, "Sigmoid": 1}
    assert all(node.metadata_props[SOURCE_KEY] for node in work.all_nodes())


def test_values_captured_by_branches_stay_fp32() -> None:
    done = apply_and_check("lower.to-fp16", branches(), feeds(), random=0, expect_changed=True)
    kinds = {n.op_type: str(n.outputs[0].dtype) for n in done.graph.nodes if n.op_type != "Cast"}
    assert kinds == {"Relu": "FLOAT", "If": "FLOAT", "Sigmoid": "FLOAT16"}
