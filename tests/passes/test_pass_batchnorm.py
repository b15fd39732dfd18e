"""BatchNormalization: fused where it can be, left with a reason where not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from pass_graphs import conv_norm, graph, initializer, node, norm, norm_constants, weights

from rubicc.passes.cleanup import fuse_batchnorm
from rubicc.passes.cleanup.batchnorm import Affine
from rubicc.passes.cleanup.batchnorm_to_affine import BatchnormToAffine
from rubicc.passes.cleanup.fuse_batchnorm import FuseBatchnorm
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.rewrite import FUSED_KEY, Editor

FUSE = "cleanup.fuse-batchnorm"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("transpose", [False, True])
def test_fuses_into_convolutions(transpose: bool, group: int, bias: bool) -> None:
    built = conv_norm(transpose=transpose, group=group, bias=bias)
    done = apply_and_check(FUSE, built, expect_ops={"BatchNormalization": -1}, expect_changed=True)
    conv = done.graph.nodes[0]
    assert conv.metadata_props[FUSED_KEY] == "m.z"
    assert conv.metadata_props["rubicc.source"] == "m.c"
    assert len(conv.inputs) == 3


def test_fuses_into_a_graph_output() -> None:
    nodes = [node("Conv", "x w", "c"), norm("c", "y")]
    built = graph(
        nodes, {"x": ("N", 4, "T")}, {"y": ("N", 6, "U")}, {"w": weights(6, 4, 3), **norm_constants(6)}
    )
    apply_and_check(FUSE, built, expect_ops={"BatchNormalization": -1})


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("bias_shape", [None, (), (5,), (1, 5)])
def test_fuses_into_gemm(trans: int, bias_shape: tuple[int, ...] | None) -> None:
    constants = {"w": weights(5, 3) if trans else weights(3, 5), **norm_constants(5)}
    names = "x w"
    if bias_shape is not None:
        constants["b"], names = weights(*bias_shape), "x w b"
    nodes = [node("Gemm", names, "g", transB=trans, alpha=0.5, beta=2.0), norm("g", "y")]
    built = graph(nodes, {"x": ("N", 3)}, {"y": ("N", 5)}, constants)
    apply_and_check(FUSE, built, expect_ops={"BatchNormalization": -1})


@pytest.mark.parametrize("order", ["m b", "b m"])
def test_fuses_into_matmul_and_its_addend(order: str) -> None:
    nodes = [node("MatMul", "x w", "m"), node("Add", order, "a"), norm("a", "y")]
    constants = {"w": weights(3, 5), "b": weights(5), **norm_constants(5)}
    built = graph(nodes, {"x": ("N", 3)}, {"y": ("N", 5)}, constants)
    apply_and_check(FUSE, built, expect_ops={"BatchNormalization": -1})


def test_matmul_without_addend_gets_one() -> None:
    nodes = [node("MatMul", "x w", "m"), norm("m", "y")]
    built = graph(nodes, {"x": ("N", 3)}, {"y": ("N", 5)}, {"w": weights(3, 5), **norm_constants(5)})
    apply_and_check(FUSE, built, expect_ops={"BatchNormalization": -1, "Add": 1})


def test_three_dimensional_matmul_is_left_alone() -> None:
    """There the channel axis of BatchNormalization is time, not features."""
    nodes = [node("MatMul", "x w", "m"), norm("m", "y")]
    built = graph(nodes, {"x": ("N", 7, 3)}, {"y": ("N", 7, 5)}, {"w": weights(3, 5), **norm_constants(7)})
    done = apply_and_check(FUSE, built, expect_changed=False)
    assert "channel axis" in done.record.notes[0].what


def test_shared_weight_is_split_not_spoilt() -> None:
    nodes = [
        node("Conv", "x w", "a"),
        norm("a", "p"),
        node("Conv", "x w", "b"),
        norm("b", "q", "other"),
        node("Conv", "x w", "r"),
        node("Concat", "p q r", "y", axis=1),
    ]
    constants = {"w": weights(6, 4, 3), **norm_constants(6), **norm_constants(6, "other", seed=9)}
    built = graph(nodes, {"x": ("N", 4, "T")}, {"y": ("N", 18, "U")}, constants)
    done = apply_and_check(FUSE, built, expect_ops={"BatchNormalization": -2})
    np.testing.assert_array_equal(initializer(done.graph, "w"), constants["w"])


def test_does_not_fuse_through_a_weight_quantiser_and_says_so() -> None:
    constants = {"w": weights(6, 4, 3), "s": np.float32(0.1), "z": np.float32(0), "bits": np.float32(4)}
    constants |= norm_constants(6)
    nodes = [node("Quant", "w s z bits", "wq", signed=1, narrow=1), node("Conv", "x wq", "c"), norm("c", "y")]
    built = graph(nodes, {"x": ("N", 4, "T")}, {"y": ("N", 6, "U")}, constants)
    done = apply_and_check(FUSE, built, expect_changed=False)
    (note,) = done.record.notes
    assert note.where == "m.y"
    assert "comes through Quant" in note.what


@pytest.mark.parametrize("why", ["second reader", "training", "no variance", "graph output", "dynamic"])
def test_leaves_what_it_cannot_fuse(why: str) -> None:
    constants = {"w": weights(6, 4, 3), **norm_constants(6)}
    nodes = [node("Conv", "x w", "c"), norm("c", "z"), node("Relu", "z", "y")]
    inputs, outputs = {"x": ("N", 4, "T")}, {"y": ("N", 6, "U")}
    if why == "second reader":
        nodes[2] = node("Add", "z c", "y")
    if why == "training":
        nodes[1] = norm("c", "z", training_mode=1)
    if why == "no variance":
        nodes[1], constants["bn_var"] = norm("c", "z", epsilon=0.0), np.zeros(6, np.float32)
    if why == "graph output":
        outputs["c"] = ("N", 6, "U")
    if why == "dynamic":
        del constants["bn_mean"]
        inputs["bn_mean"] = (6,)
    built = graph(nodes, inputs, outputs, constants)
    rounds = 0 if why == "training" else 2
    done = apply_and_check(FUSE, built, expect_changed=False, random=rounds)
    noted = why in ("training", "no variance", "dynamic")
    assert bool(done.record.notes) == noted


@pytest.mark.parametrize("shape", [("N", 4), ("N", 4, "T"), ("N", 4, 3, "T")])
def test_affine_form(shape: tuple[int | str, ...]) -> None:
    built = graph([norm("x", "y")], {"x": shape}, {"y": shape}, norm_constants(4))
    apply_and_check(
        "cleanup.batchnorm-to-affine", built, expect_ops={"BatchNormalization": -1, "Mul": 1, "Add": 1}
    )


class ForgetsEpsilon(BatchnormToAffine):
    """Mutant: variance without epsilon."""

    def run(self, one):  # type: ignore[no-untyped-def]
        for n in one.nodes:
            if n.op_type == "BatchNormalization":
                n.attributes.add(ir.AttrFloat32("epsilon", 0.0))
        return super().run(one)


def _mutant(monkeypatch: pytest.MonkeyPatch, change) -> type[FuseBatchnorm]:  # type: ignore[no-untyped-def]
    honest = fuse_batchnorm.inference_affine

    def wrong(n: ir.Node):  # type: ignore[no-untyped-def]
        affine = honest(n)
        return change(affine) if isinstance(affine, Affine) else affine

    monkeypatch.setattr(fuse_batchnorm, "inference_affine", wrong)
    return FuseBatchnorm


@pytest.mark.parametrize(
    "change",
    [
        lambda f: Affine(f.a, np.zeros_like(f.b)),
        lambda f: Affine(f.a * (1 + 1e-3), f.b),
        lambda f: Affine(f.a[::-1], f.b),
    ],
    ids=["no shift", "scale off by 0.1 %", "channels reversed"],
)
def test_mutants_with_wrong_numbers_fail(monkeypatch: pytest.MonkeyPatch, change) -> None:  # type: ignore[no-untyped-def]
    assert_mutant_fails(_mutant(monkeypatch, change), conv_norm(), code="RUB-PASS-021")


def test_mutant_that_writes_into_the_shared_weight_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(edit: Editor, conv: ir.Node, index: int, array: np.ndarray, dtype: np.dtype) -> None:
        if index == 1:
            conv.inputs[1].const_value.numpy()[...] = array  # type: ignore[union-attr]

    monkeypatch.setattr(fuse_batchnorm, "_set", in_place)
    built = conv_norm()
    for value in built.ir.initializers.values():  # writable, as weights taken from torch are
        value.const_value = ir.tensor(np.array(value.const_value.numpy()), name=value.name)  # type: ignore[union-attr]
    assert_mutant_fails(FuseBatchnorm, built, code="RUB-PASS-025")


def test_mutant_that_ignores_groups_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def ungrouped(edit: Editor, conv: ir.Node, affine: Affine) -> ir.Value:
        weight = fuse_batchnorm._weight(conv, 1)
        half = affine.a[: weight.shape[1]].reshape(1, -1, 1)
        fuse_batchnorm._set(edit, conv, 1, weight * half, weight.dtype)
        fuse_batchnorm._set(edit, conv, 2, affine.b, weight.dtype)
        return conv.outputs[0]

    monkeypatch.setattr(fuse_batchnorm, "_into_conv", ungrouped)
    assert_mutant_fails(FuseBatchnorm, conv_norm(group=2, transpose=True, bias=False), code="RUB-PASS-021")


def test_mutant_that_forgets_epsilon_fails() -> None:
    constants = norm_constants(4) | {"bn_var": np.full(4, 1e-4, np.float32)}
    built = graph([norm("x", "y")], {"x": ("N", 4, "T")}, {"y": ("N", 4, "T")}, constants)
    assert_mutant_fails(ForgetsEpsilon, built, code="RUB-PASS-021")
