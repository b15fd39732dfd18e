"""Constant lifting and folding: right numbers, static shapes, and never beyond the budget."""

from __future__ import annotations

import time

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_graphs import graph, initializer, node, weights

from rubicc.ir.graph import Graph
from rubicc.passes import evaluate
from rubicc.passes.cleanup import fold_constants
from rubicc.passes.cleanup.fold_constants import FoldConstants
from rubicc.passes.cleanup.lift_constants import LiftConstants
from rubicc.passes.harness import apply_and_check, assert_mutant_fails

FOLD = "cleanup.fold-constants"
X = ("N", 4, "T")


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def folded_bytes(one: Graph) -> int:
    return sum(v.const_value.nbytes for v in one.ir.initializers.values() if v.const_value is not None)


def constant_nodes() -> Graph:
    nodes = [
        node("Constant", "", "a", value=numpy_helper.from_array(weights(4, 1), "other")),
        node("Constant", "", "b", value_float=2.0),
        node("Constant", "", "c", value_ints=[0, 0, -1]),
        node("Constant", "", "d", value_floats=[1.0]),
        node("Constant", "", "z", value=numpy_helper.from_array(weights(3))),
        node("Mul", "x a", "p"),
        node("Div", "p b", "q"),
        node("Reshape", "q c", "r"),
        node("Sub", "r d", "y"),
    ]
    return graph(nodes, {"x": X}, {"y": X, "z": (3,)})


def test_constants_become_initializers() -> None:
    done = apply_and_check("cleanup.lift-constants", constant_nodes(), expect_ops={"Constant": -4})
    assert sorted(done.graph.ir.initializers) == ["a", "b", "c", "d"]
    assert initializer(done.graph, "c").dtype == np.int64


def test_lifting_mutant_with_wrong_type_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from rubicc.passes.cleanup import lift_constants

    honest = lift_constants._tensor

    def transposed(one):  # type: ignore[no-untyped-def]
        import onnx_ir as ir

        tensor = honest(one)
        return ir.tensor(np.array(tensor.numpy().reshape(-1)[::-1]).reshape(tensor.shape.numpy()))

    monkeypatch.setattr(lift_constants, "_tensor", transposed)
    assert_mutant_fails(LiftConstants, constant_nodes(), code="RUB-PASS-021")


def test_weights_behind_a_transpose_fold_without_growth() -> None:
    nodes = [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    built = graph(nodes, {"x": ("N", 4)}, {"y": ("N", 6)}, {"w": weights(6, 4)})
    done = apply_and_check(FOLD, built, options={"max_bytes": 0}, expect_ops={"Transpose": -1})
    assert folded_bytes(done.graph) == 4 * 24
    assert initializer(done.graph, "t").base is not None, "a view of the old weight, not a copy"


def test_budget_is_kept_per_result_and_in_total() -> None:
    nodes = [
        node("Expand", "w s", "a"),
        node("Expand", "v s", "b"),
        node("Add", "a b", "c"),
        node("Add", "x c", "y"),
    ]
    constants = {"w": weights(1, 6), "v": weights(4, 1), "s": i64(4, 6)}
    built = graph(nodes, {"x": (4, 6)}, {"y": (4, 6)}, constants)
    apply_and_check(FOLD, built, expect_ops={"Expand": -2, "Add": -1})
    for options in ({"max_bytes": 50}, {"max_total_bytes": 50}):
        done = apply_and_check(FOLD, built, options=options, expect_changed=False)
        assert [note.where for note in done.record.notes] == ["m.a", "m.b"]
    done = apply_and_check(FOLD, built, options={"max_total_bytes": 100}, expect_ops={"Expand": -1})
    assert folded_bytes(done.graph) <= folded_bytes(built) + 100


HUGE = 10**12


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", "s", "a"), node("ReduceMax", "a", "b", keepdims=0)],
        [node("Expand", "one s", "a"), node("ReduceMax", "a", "b", keepdims=0)],
        [node("Tile", "one s", "a"), node("ReduceMax", "a", "b", keepdims=0)],
        [node("Range", "zero many step", "a"), node("ReduceMax", "a", "b", keepdims=0)],
        [node("Range", "zero many still", "a"), node("ReduceMax", "a", "b", keepdims=0)],
        [
            node("ConstantOfShape", "e", "a"),
            node("ReduceSum", "a axis", "c"),
            node("ReduceMax", "c", "b", keepdims=0),
        ],
        [node("Pad", "one p", "a"), node("ReduceMax", "a", "b", keepdims=0)],
        [node("MatMul", "col row", "a"), node("ReduceMax", "a", "b", keepdims=0)],
    ],
    ids=["zeros", "expand", "tile", "range", "range without end", "sum over nothing", "pad", "outer product"],
)
def test_terabytes_are_refused_before_anything_is_computed(nodes: list) -> None:  # type: ignore[type-arg]
    """Annotations that lie about the shape do not help: the budget is weighed on the constants themselves."""
    nodes = [*nodes, node("Mul", "x b", "y")]
    constants = {
        "s": i64(HUGE, HUGE), "one": np.ones((1, 1)), "p": i64(0, HUGE, HUGE, 0), "e": i64(0, HUGE),
        "axis": i64(0), "zero": np.float32(0), "many": np.float32(1e30), "step": np.float32(1),
        "still": np.float32(0), "col": np.zeros((10**5, 1)), "row": np.zeros((1, 10**5)),
    }  # fmt: skip
    built = graph(nodes, {"x": X}, {"y": X}, constants, infer=False)
    first = nodes[0].output[0]
    for value in built.nodes[0].outputs:
        import onnx_ir as ir

        value.shape, value.type = ir.Shape([1, 1]), ir.TensorType(ir.DataType.FLOAT)
    start = time.perf_counter()
    FoldConstants().run(built)
    assert time.perf_counter() - start < 1
    assert nodes[0].op_type in built.op_counts() or nodes[1].op_type == "ReduceSum"
    assert folded_bytes(built) < 10**6 + sum(np.asarray(a).nbytes for a in constants.values()), first


def shape_arithmetic() -> Graph:
    """What exporters write for x.reshape(N, 4 * 2, T // 2) when N and T are symbols."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s i0", "n", axis=0),
        node("Gather", "s i1", "c", axis=0),
        node("Shape", "x", "cs", start=1, end=2),
        node("Slice", "s i1v i2v", "sl"),
        node("Mul", "cs two", "c2"),
        node("Mul", "c2 sl", "c8"),
        node("Unsqueeze", "n zero", "n1"),
        node("Concat", "n1 c2 minus", "shape", axis=0),
        node("Reshape", "x shape", "r"),
        node("Cast", "c", "cf", to=TensorProto.FLOAT),
        node("Mul", "r cf", "q"),
        node("Cast", "c8", "c8f", to=TensorProto.FLOAT),
        node("Div", "q c8f", "y"),
    ]
    constants = {
        "i0": np.int64(0), "i1": np.int64(1), "two": i64(2), "zero": i64(0), "minus": i64(-1),
        "i1v": i64(1), "i2v": i64(2),
    }  # fmt: skip
    return graph(nodes, {"x": X}, {"y": ("N", 8, "U")}, constants)


def test_shapes_fold_as_far_as_they_are_static() -> None:
    done = apply_and_check(FOLD, shape_arithmetic(), sizes={"T": 6}, expect_changed=True)
    left = done.graph.op_counts()
    assert left["Shape"] == 1 and left["Gather"] == 1  # the batch size stays
    assert "Slice" not in left and "Cast" not in left


def test_cast_to_the_type_of_a_value_needs_only_the_type() -> None:
    """How the dynamo exporter writes the absent bias of a convolution."""
    nodes = [node("CastLike", "zero x", "z"), node("Expand", "z s", "b"), node("Conv", "x w b", "y")]
    constants = {"zero": np.float64(0).astype(np.float16), "s": i64(6), "w": weights(6, 4, 3)}
    built = graph(nodes, {"x": X}, {"y": ("N", 6, "U")}, constants)
    apply_and_check(FOLD, built, expect_ops={"CastLike": -1, "Expand": -1})


def test_quantisers_fold_only_when_asked() -> None:
    constants = {"w": weights(6, 4, 3), "s": np.float32(0.1), "z": np.float32(0), "bits": np.float32(4)}
    nodes = [node("Quant", "w s z bits", "q", signed=1, narrow=1), node("Conv", "x q", "y")]
    built = graph(nodes, {"x": X}, {"y": ("N", 6, "U")}, constants)
    apply_and_check(FOLD, built, expect_changed=False)
    quant = {"qonnx.custom_op.general::Quant": -1}
    apply_and_check(FOLD, built, options={"fold_quant": True}, expect_ops=quant)


def test_weights_stored_as_integers_stay_integers() -> None:
    """Folded, they would grow fourfold, and BatchNormalization would fuse into what was rounded."""
    nodes = [node("Cast", "w", "f", to=TensorProto.FLOAT), node("Mul", "f s", "q"), node("Conv", "x q", "y")]
    constants = {"w": (weights(6, 4, 3) * 3).astype(np.int8), "s": np.float32(0.1)}
    built = graph(nodes, {"x": X}, {"y": ("N", 6, "U")}, constants)
    apply_and_check(FOLD, built, expect_changed=False)
    apply_and_check(FOLD, built, options={"fold_quant": True}, expect_ops={"Cast": -1, "Mul": -1})


def test_overridable_initializers_are_not_constants() -> None:
    """An initializer that is a graph input too is only a default."""
    built = graph(
        [node("Neg", "w", "n"), node("Add", "x n", "y")], {"x": (3,)}, {"y": (3,)}, {"w": weights(3)}
    )
    built.ir.inputs.append(built.ir.initializers["w"])
    assert not FoldConstants().run(built)


def test_fold_mutants_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = evaluate.evaluate

    def off_by_one_ulp(one, n, inputs):  # type: ignore[no-untyped-def]
        arrays = honest(one, n, inputs)
        return [np.nextafter(a, np.float32(9)) if a.dtype.kind == "f" else a for a in arrays]

    nodes = [node("Exp", "w", "e"), node("Mul", "x e", "y")]
    built = graph(nodes, {"x": ("N", 4)}, {"y": ("N", 4)}, {"w": weights(4)})
    monkeypatch.setattr(fold_constants, "evaluate", off_by_one_ulp)
    assert_mutant_fails(FoldConstants, built, code="RUB-PASS-021")
    monkeypatch.undo()

    monkeypatch.setattr(fold_constants, "_dims", lambda v: [d if isinstance(d, int) else 7 for d in v.shape])
    assert_mutant_fails(FoldConstants, shape_arithmetic(), sizes={"T": 6})


def test_sizes_are_bounded_from_above() -> None:
    """Every operator that may be folded yields no more bytes than its bound, over a sweep of small cases."""
    a, b = weights(3, 1, 4), weights(2, 1)
    cases = {
        "Add": [a, b], "Where": [np.ones((2, 1), bool), a, b], "Concat": [a, a],
        "MatMul": [a, weights(3, 4, 2)], "Range": [i64(0)[0], i64(9)[0], i64(2)[0]],
        "Gather": [a, i64(0, 2, 1, 1)], "Tile": [b, i64(3, 5)], "Expand": [b, i64(4, 1, 3)],
        "Transpose": [a], "Cast": [a], "ReduceSum": [a], "Pad": [b, i64(1, 1, 0, 2)],
        "ConstantOfShape": [i64(3, 4)], "Less": [a, b], "Shape": [a], "Split": [a], "Softmax": [a],
    }  # fmt: skip
    attributes = {"Concat": {"axis": 1}, "Cast": {"to": 11}, "Split": {"num_outputs": 2, "axis": 2}}
    holder = graph([node("Relu", "x", "y")], {"x": (1,)}, {"y": (1,)})
    import onnx_ir as ir

    for op, arrays in cases.items():
        proto = helper.make_node(op, ["a"] * len(arrays), ["y"], **attributes.get(op, {}))
        one = ir.serde.deserialize_node(proto)
        results = evaluate.evaluate(holder, one, arrays)
        limit = evaluate.bound(one, arrays)
        assert results is not None and limit is not None, op
        assert sum(r.nbytes for r in results) <= limit, op
