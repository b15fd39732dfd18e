"""Half precision: few casts, fp32 islands, weights that do not fit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from pass_graphs import conv_norm, graph, initializer, node, weights

from rubicc.errors import UsageError
from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.lower import to_fp16
from rubicc.passes.lower.to_fp16 import ToFp16

FP16 = "lower.to-fp16"
X = ("N", 4, "T")


def head(constants: dict | None = None) -> Graph:  # type: ignore[type-arg]
    """x -> Conv -> Relu -> Transpose -> LogSoftmax -> Transpose -> y, as basecallers end."""
    nodes = [
        node("Conv", "x w b", "c"),
        node("Relu", "c", "r"),
        node("Transpose", "r", "t", perm=[0, 2, 1]),
        node("LogSoftmax", "t", "l", axis=-1),
        node("Transpose", "l", "y", perm=[1, 0, 2]),
    ]
    all_constants = {"w": weights(6, 4, 3), "b": weights(6)} | (constants or {})
    return graph(nodes, {"x": X}, {"y": ("U", "N", 6)}, all_constants)


def dtypes(one: Graph) -> dict[str, str]:
    return {f"{n.op_type}:{n.name}": str(n.outputs[0].dtype) for n in one.nodes}


def test_casts_are_few_and_movement_beside_fp32_stays_fp32() -> None:
    done = apply_and_check(FP16, head(), expect_ops={"Cast": 2})
    kinds = [(n.op_type, str(n.outputs[0].dtype)) for n in done.graph.nodes]
    assert kinds == [
        ("Cast", "FLOAT16"),
        ("Conv", "FLOAT16"),
        ("Relu", "FLOAT16"),
        ("Transpose", "FLOAT16"),
        ("Cast", "FLOAT"),
        ("LogSoftmax", "FLOAT"),
        ("Transpose", "FLOAT"),
    ]
    assert initializer(done.graph, "w").dtype == np.float16
    assert [str(v.dtype) for v in done.graph.inputs + done.graph.outputs] == ["FLOAT", "FLOAT"]


def test_named_nodes_and_operators_are_kept() -> None:
    done = apply_and_check(FP16, head(), options={"keep": ["n_c"]})
    assert dtypes(done.graph)["Conv:n_c"] == "FLOAT"
    assert initializer(done.graph, "w").dtype == np.float32
    done = apply_and_check(FP16, head(), options={"keep_ops": []}, expect_ops={"Cast": 2})
    assert dtypes(done.graph)["LogSoftmax:n_l"] == "FLOAT16"
    apply_and_check(FP16, head(), options={"keep_ops": ["Conv", "Relu", "LogSoftmax"]}, expect_changed=False)
    with pytest.raises(UsageError, match=r"RUB-PASS-003.*'n_d'"):
        apply_and_check(FP16, head(), options={"keep": ["n_d"]})


def test_one_cast_serves_all_readers() -> None:
    nodes = [node("Relu", "x", "a"), node("Sigmoid", "x", "b"), node("Add", "a b", "c")]
    nodes += [node("Exp", "c", "d"), node("Log", "c", "e"), node("Add", "d e", "y")]
    built = graph(nodes, {"x": X}, {"y": X})
    options = {"keep": ["n_y"]}
    apply_and_check(FP16, built, [{"x": np.full((1, 4, 3), 1.5, np.float32)}], options=options,
                    random=0, expect_ops={"Cast": 2})  # fmt: skip


def test_weights_that_do_not_fit() -> None:
    nodes = [node("Div", "x w", "c"), node("Sigmoid", "c", "y")]
    big = graph(nodes, {"x": X}, {"y": X}, {"w": np.array([[1], [-1e5], [2], [3]], np.float32)})
    done = apply_and_check(FP16, big)
    assert dtypes(done.graph)["Div:n_c"] == "FLOAT"
    (decision,) = done.record.decisions
    assert (decision.code, decision.where) == ("RUB-PASS-D01", "m.c")
    with pytest.raises(UsageError, match=r"RUB-PASS-011.*exceeds 65504"):
        apply_and_check(FP16, big, options={"overflow": "refuse"})
    mask = graph(
        [node("Add", "x m", "y")], {"x": (2,)}, {"y": (2,)}, {"m": np.array([0, -np.inf], np.float32)}
    )
    done = apply_and_check(FP16, mask)
    assert not done.record.decisions, "minus infinity has an fp16 form"


def test_shared_weights_are_converted_once_and_kept_where_needed() -> None:
    nodes = [node("Mul", "x w", "a"), node("Mul", "a w", "b"), node("Pow", "b w", "y")]
    built = graph(nodes, {"x": (2, 3)}, {"y": (2, 3)}, {"w": np.array([1, 2, 3], np.float32)})
    done = apply_and_check(FP16, built)
    assert sorted(done.graph.ir.initializers) == ["w", "w_fp16"]


def test_types_that_are_not_float_and_nested_graphs_survive() -> None:
    nodes = [
        node("Gather", "table ids", "e"),
        node("Shape", "e", "s"),
        node("ConstantOfShape", "s", "zeros"),
        node("Cast", "ids", "idf", to=TensorProto.FLOAT),
        node("Unsqueeze", "idf minus", "idu"),
        node("Add", "e idu", "a"),
        node("Add", "a zeros", "b"),
        node("Celu", "b", "y"),
    ]
    constants = {"table": weights(2, 4), "minus": np.array([-1], np.int64)}
    built = graph(
        nodes, {"ids": ("N", "T")}, {"y": ("N", "T", 4)}, constants, types={"ids": TensorProto.INT64}
    )
    done = apply_and_check(FP16, built)
    kinds = dtypes(done.graph)
    assert kinds["ConstantOfShape:n_zeros"] == kinds["Cast:n_idf"] == kinds["Gather:n_e"] == "FLOAT16"
    assert kinds["Celu:n_y"] == "FLOAT", "its schema knows no fp16"


def test_untyped_graphs_are_refused() -> None:
    built = graph([node("Relu", "x", "a"), node("Relu", "a", "y")], {"x": X}, {"y": X}, infer=False)
    with pytest.raises(UsageError, match="RUB-PASS-012"):
        ToFp16().run(built)


def test_it_runs_in_onnxruntime() -> None:
    import onnxruntime

    done = apply_and_check(FP16, head())
    session = onnxruntime.InferenceSession(done.graph.to_proto().SerializeToString())
    x = weights(2, 4, 9)
    from rubicc.ir.executor import execute

    np.testing.assert_allclose(session.run(None, {"x": x})[0], execute(head(), {"x": x})["y"], atol=2e-2)


def test_fp16_mutants_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    class Typeless(ToFp16):
        """Mutant: outputs of the graph turn fp16."""

        def run(self, one: Graph) -> bool:
            changed = super().run(one)
            last = one.nodes[-1]
            if last.op_type == "Cast" and last.outputs[0].is_graph_output():
                last.attributes.add(ir.AttrInt64("to", ir.DataType.FLOAT16))
                last.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
            return changed

    built = conv_norm()
    assert_mutant_fails(Typeless, built, code="RUB-PASS-020")
    monkeypatch.setattr(to_fp16, "_overflowing", lambda one: set())
    with np.errstate(over="ignore"):
        assert_mutant_fails(ToFp16, head({"w": weights(6, 4, 3) * np.float32(1e5)}), code="RUB-PASS-021")
