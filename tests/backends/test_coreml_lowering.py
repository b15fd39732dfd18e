"""The program as a whole: interface, names, types, constants, decisions, equal bytes."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from coreml_graphs import Build, Net, compiled, net, node, normal
from onnx import TensorProto

from rubicc.backends.coreml import tools
from rubicc.backends.coreml.lowering import lower
from rubicc.backends.coreml.lowering.numbers import (
    EPSILON,
    HALF_MAX,
    MASK,
    epsilon_for,
    survives_half,
    to_half,
)
from rubicc.backends.coreml.package import MODEL_FILE, WEIGHTS_FILE


def constants(made: Net) -> dict[str, Any]:
    """Values of the program's constants by name."""
    main = made.lowered.program.functions["main"]
    return {op.name: op.val.val for op in main.operations if op.op_type == "const"}


def small() -> Build:
    b = Build(x=normal(2, 3, 8))
    b("Softmax", b("Conv", "x", normal(5, 3, 3), normal(5)), axis=1)
    return b


# Interface -----------------------------------------------------------------------------------------------


def test_inputs_and_outputs_keep_names_and_types() -> None:
    for half_io, wanted in ((False, "float32"), (True, "float16")):
        made = compiled(small().graph(), precision="fp16", half_io=half_io)
        assert made.lowered.names == {"x": "x", "softmax1": "softmax1"}
        assert made.lowered.types == {"x": wanted, "softmax1": wanted}
        assert made.gap({"x": normal(2, 3, 8)}, "fp16") < 2e-3
    assert compiled(small().graph(), precision="fp32", half_io=True).lowered.types["x"] == "float32"


def test_names_that_are_no_identifiers_are_changed_and_said() -> None:
    nodes = [node("Relu", "1/x", "out.y"), node("Neg", "out.y", "out_y"), node("Neg", "1/x", "fp16")]
    graph = net(nodes, {"1/x": (2, 2)}, outputs="out.y out_y fp16")
    made = compiled(graph)
    assert made.lowered.names == {"1/x": "_1_x", "out.y": "out_y", "out_y": "out_y_1", "fp16": "fp16_"}
    where = {d.where for d in made.lowered.decisions if d.code == "RUB-COREML-D16"}
    assert where == {"1/x", "out.y", "out_y", "fp16"}
    assert made.gap({"1/x": normal(2, 2)}) < 1e-6


def test_an_output_may_be_an_input_a_constant_or_read_again() -> None:
    nodes = [
        node("Identity", "x", "same"),
        node("Identity", "c", "fixed"),
        node("Relu", "x", "y"),
        node("Neg", "y", "z"),
    ]
    graph = net(nodes, {"x": (2, 3)}, {"c": normal(4)}, outputs="same fixed y z")
    for precision in ("fp32", "fp16"):
        made = compiled(graph, precision=precision)
        assert made.gap({"x": normal(2, 3)}, precision) < 1e-3


def test_integers_become_int32_unless_only_floats_are_read() -> None:
    b = Build(ids=np.array([[1, 2, 0]]), mask=np.array([[1, 1, 0]]), keep=np.array([[True, False, True]]))
    b("Add", b("Gather", normal(4, 3), "ids"), b("Unsqueeze", b("Cast", "mask", to=1), np.array([2])))
    b("Where", "keep", "ids", np.array(7))
    made = compiled(b.graph(), precision="fp16")
    types = {name: made.lowered.types[name] for name in b.feeds}
    assert types == {"ids": "int32", "mask": "float32", "keep": "int32"}
    reasons = {d.where: d.code for d in made.lowered.decisions}
    assert reasons["mask"] == "RUB-COREML-D19" and reasons["ids"] == reasons["keep"] == "RUB-COREML-D14"
    assert made.gap(b.feeds, "fp16") < 2e-3
    (cast,) = (
        op for op in made.package.main.operations() if op.type == "cast" and "mask" in op.outputs[0].name
    )
    assert cast.outputs[0].type.dtype == "fp16"


def test_the_input_is_cast_before_it_is_moved() -> None:
    b = Build(x=normal(2, 8))
    b("Relu", b("Unsqueeze", "x", np.array([1])))
    operations = [
        op.type
        for op in compiled(b.graph(), precision="fp16").package.main.operations()
        if op.type != "const"
    ]
    assert operations == ["cast", "expand_dims", "relu", "cast"]


def test_what_nobody_reads_is_not_written() -> None:
    b = Build(x=normal(2, 3, 8), unread=normal(2))
    b("Relu", "x")
    dead = b("MatMul", "x", normal(8, 128))
    graph = b.graph()
    graph.ir.outputs.remove(next(value for value in graph.ir.outputs if value.name == dead))
    made = compiled(graph)
    assert made.counts == {"relu": 1} and all(np.size(c) < 128 for c in constants(made).values())
    assert [value.name for value in made.package.main.inputs] == ["x", "unread"]


# Constants -----------------------------------------------------------------------------------------------


def test_fp32_constants_are_the_graphs_own_arrays() -> None:
    """Nothing is copied on the way into the program: peak memory is that of the graph."""
    b = Build(x=normal(2, 4, 32))
    b("Relu", b("Conv", "x", normal(64, 4, 17)))
    graph = b.graph()
    made = compiled(graph)
    (weight,) = (value for value in constants(made).values() if np.shape(value) == (64, 4, 17))
    assert np.shares_memory(weight, graph.ir.initializers["c0"].const_value.numpy())


def test_fp16_constants_are_made_once() -> None:
    table = normal(64, 48)
    b = Build(i=np.array([[1, 2]]), x=normal(2, 48))
    name = b.constant(table)
    b("Gather", name, "i")
    b("MatMul", "x", b("Transpose", name, perm=[1, 0]))
    b("MatMul", "x", np.ascontiguousarray(table.T))
    made = compiled(b.graph(), precision="fp16")
    large = [value for value in constants(made).values() if np.size(value) == table.size]
    assert len(large) == 1 and large[0].dtype == np.float16
    assert made.gap(b.feeds, "fp16") < 5e-3


def test_the_weights_of_a_half_program_are_the_only_new_memory() -> None:
    """One copy in float16, half of the graph's own; no float32 copy on the way, turned or not."""
    b = Build(x=normal(1, 512))
    y = "x"
    for seed in range(6):
        y = b("Add", b("MatMul", y, normal(512, 512, seed=seed)), normal(512))
    b("Conv", b("Unsqueeze", y, np.array([2])), normal(1024, 512, 1))
    graph = b.graph()
    compiled(small().graph())  # loads what is loaded once
    stored = sum(value.const_value.nbytes for value in graph.ir.initializers.values())
    tracemalloc.start()
    try:
        made = lower(graph, precision="fp16")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stored / 2 < peak < stored * 0.75 and len(made.weights) == 13


def test_weights_say_where_they_come_from() -> None:
    b = Build(x=normal(2, 3, 16))
    b("MatMul", b("Conv", "x", normal(4, 3, 3)), normal(14, 6))
    weights = compiled(b.graph(), precision="fp16").lowered.weights.values()
    assert {(w.initializer, w.stored) for w in weights} == {("c0", "fp16"), ("c1", "fp16 transposed")}


def test_provenance_leads_from_operations_to_nodes() -> None:
    made = compiled(small().graph(), precision="fp16")
    named = {op.type: made.lowered.provenance.get(op.name) for op in made.package.main.operations()}
    assert named["conv"] == "n_conv0" and named["softmax"] == "n_softmax1"


def test_equal_graphs_give_equal_bytes() -> None:
    one, two = (compiled(small().graph(), precision="fp16").package.path for _ in range(2))
    for part in (MODEL_FILE, WEIGHTS_FILE):
        assert (one / part).read_bytes() == (two / part).read_bytes()


# float16 -------------------------------------------------------------------------------------------------


def test_masks_beyond_float16_stay_finite_and_mask() -> None:
    """A whole row masked, and a mask added to a mask: no infinity, no NaN."""
    mask = np.where(np.arange(8) < 5, 0.0, -np.inf).astype(np.float32)
    lowest = np.where(np.arange(8) < 6, 0.0, np.finfo(np.float32).min).astype(np.float32)
    b = Build(x=normal(2, 3, 8))
    b("Softmax", b("Add", b("Add", "x", mask), lowest), axis=-1)
    made = compiled(b.graph(), precision="fp16")
    assert {"RUB-COREML-D11"} == made.codes
    (out,) = made.run(b.feeds, "fp16").values()
    assert np.isfinite(out).all() and (out[..., 5:] == 0).all() and made.gap(b.feeds, "fp16") < 2e-3
    exact = compiled(b.graph(), precision="fp32")
    assert exact.codes == set() and exact.gap(b.feeds, "fp32") < 1e-6


def test_epsilons_below_float16_are_raised() -> None:
    b = Build(x=np.ones((1, 4, 6), np.float32))
    b("LayerNormalization", "x", normal(6), normal(6, seed=1), epsilon=1e-12)
    made = compiled(b.graph(), precision="fp16")
    assert (
        made.codes == {"RUB-COREML-D10"}
        and np.isfinite(made.run(b.feeds, "fp16")["layernormalization0"]).all()
    )
    assert compiled(b.graph(), precision="fp32").codes == set()


def test_factors_that_float16_loses_are_applied_in_fp32() -> None:
    b = Build(x=1000 * normal(2, 8))
    b("Mul", b("Mul", "x", np.float32(3e-7)), np.float32(1e6))
    b("Div", b("Mul", "x", np.float32(20)), np.float32(1e6))
    b("Clip", "x", np.float32(-np.inf), np.float32(5.0))
    b("Add", "x", np.float32(1e-9))
    made = compiled(b.graph(), precision="fp16")
    assert {"RUB-COREML-D15", "RUB-COREML-D10"} <= made.codes
    have, want = made.run(b.feeds, "fp16"), made.wanted(b.feeds)
    for name in ("mul1", "div3"):
        assert np.abs(have[name] / want[name] - 1).max() < 0.01


def test_numbers_brought_into_range() -> None:
    array = np.float32([1.0, 65519.0, 65521.0, -np.inf, np.inf, -1e30])
    half, clipped = to_half(array)
    assert half.tolist() == [1.0, 65504.0, MASK, -MASK, MASK, -MASK] and clipped == (4, MASK)
    assert to_half(array, "bound")[0].tolist()[2:] == [HALF_MAX, -HALF_MAX, HALF_MAX, -HALF_MAX]
    assert to_half(np.float32([1, 2]))[1] is None
    assert epsilon_for(1e-12, "fp16") == EPSILON and epsilon_for(1e-12, "fp32") == 1e-12
    assert epsilon_for(1e-5, "fp16") == 1e-5 and epsilon_for(0.0, "fp16") == 0.0
    assert np.float16(EPSILON) == EPSILON > 0
    assert survives_half(0.125) and survives_half(0.0) and not survives_half(1e-7) and not survives_half(1e9)


@pytest.mark.parametrize("target", tools.OPSETS)
def test_the_program_says_its_target(target: str) -> None:
    made = compiled(small().graph(), target=target)
    assert made.package.main.opset == tools.OPSETS[target].dialect
    assert made.package.specification == tools.OPSETS[target].specification


def test_shapes_of_a_graph_are_left_alone() -> None:
    graph = small().graph()
    before = [(n.name, n.op_type, [str(v.shape) for v in n.outputs]) for n in graph.ir]
    lower(graph)
    assert before == [(n.name, n.op_type, [str(v.shape) for v in n.outputs]) for n in graph.ir]


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_other_floats_of_the_interface_are_exchanged_as_float32(kind: int) -> None:
    made = compiled(net([node("Relu", "x", "y")], {"x": (2, 4)}, types={"x": kind, "y": kind}))
    assert made.lowered.types == {"x": "float32", "y": "float32"} and made.codes == {"RUB-COREML-D14"}
    x = np.float32([[1, -2, 0.5, 3], [0, 1, 2, -3]])
    assert np.array_equal(made.run({"x": x})["y"], np.maximum(x, 0))
