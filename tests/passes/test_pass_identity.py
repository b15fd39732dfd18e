"""No-op removal, transposes, dead code, duplicates, names."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from pass_graphs import graph, initializer, node, weights

from rubicc.ir.graph import MADE_BY_KEY, SOURCE_KEY, Graph
from rubicc.passes.cleanup import deduplicate, eliminate_dead, eliminate_identity, merge_transposes
from rubicc.passes.cleanup.deduplicate import Deduplicate
from rubicc.passes.cleanup.eliminate_dead import EliminateDead
from rubicc.passes.cleanup.eliminate_identity import EliminateIdentity
from rubicc.passes.cleanup.merge_transposes import MergeTransposes
from rubicc.passes.cleanup.name_nodes import NameNodes
from rubicc.passes.harness import apply_and_check, assert_mutant_fails

BIG = 2**63 - 1
X = ("N", 4, "T")


def one_op(
    op: str, constants: dict | None = None, order: str = "x {}", out: tuple = X, **attrs: object
) -> Graph:  # type: ignore[type-arg]
    """x -> Relu -> op -> Sigmoid -> y, so that what is removed lies inside."""
    constants = constants or {}
    names = order.format(" ".join(constants)).replace("x", "r")
    nodes = [node("Relu", "x", "r"), node(op, names, "t", **attrs), node("Sigmoid", "t", "y")]
    return graph(nodes, {"x": X}, {"y": out}, constants)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


NO_OPS = {
    "identity": one_op("Identity"),
    "dropout": one_op("Dropout", {"ratio": np.float32(0.5)}),
    "dropout with a false mode": one_op("Dropout", {"ratio": np.float32(0.5), "mode": np.array(False)}),
    "cast to float": one_op("Cast", to=TensorProto.FLOAT),
    "cast like itself": graph(
        [node("Relu", "x", "r"), node("CastLike", "r x", "t"), node("Sigmoid", "t", "y")], {"x": X}, {"y": X}
    ),
    "add 0": one_op("Add", {"c": np.zeros(1, np.float32)}),
    "0 + x": one_op("Add", {"c": np.zeros((), np.float32)}, "{} x"),
    "sub 0": one_op("Sub", {"c": np.zeros((4, 1), np.float32)}),
    "mul 1": one_op("Mul", {"c": np.ones((1, 4, 1), np.float32)}),
    "div 1": one_op("Div", {"c": np.float32(1)}),
    "pow 1": one_op("Pow", {"c": np.float32(1)}),
    "reshape 0 0 -1": one_op("Reshape", {"s": i64(0, 0, -1)}),
    "reshape 0 4 0": one_op("Reshape", {"s": i64(0, 4, 0)}),
    "transpose": one_op("Transpose", perm=[0, 1, 2]),
    "slice all": one_op("Slice", {"b": i64(0, 0), "e": i64(BIG, 4), "a": i64(2, 1)}),
    "slice all with steps": one_op("Slice", {"b": i64(0), "e": i64(BIG), "a": i64(-1), "s": i64(1)}),
    "pad 0": one_op("Pad", {"p": i64(0, 0, 0, 0, 0, 0)}),
    "concat of one": one_op("Concat", axis=1),
    "sum of one": one_op("Sum"),
    "max of one": one_op("Max"),
    "clip without bounds": one_op("Clip"),
}
REAL_OPS = {
    "add 1": one_op("Add", {"c": np.float32(1)}),
    "0 - x": one_op("Sub", {"c": np.float32(0)}, "{} x"),
    "1 / x": one_op("Div", {"c": np.float32(1)}, "{} x"),
    "mul nearly 1": one_op("Mul", {"c": np.array([[1], [1], [1], [1.001]])}),
    "add 0 that broadcasts up": one_op("Add", {"c": np.zeros((3, 1, 1, 1))}, out=(3, "N", 4, "T")),
    "mul 1 over unknown time": one_op("Mul", {"c": np.ones((6,), np.float32)}),
    "cast to half": one_op("Identity") if False else graph(
        [node("Cast", "x", "h", to=TensorProto.FLOAT16), node("Cast", "h", "y", to=TensorProto.FLOAT)],
        {"x": X}, {"y": X},
    ),
    "reshape 0 -1 4": one_op("Reshape", {"s": i64(0, -1, 4)}, out=("N", "A", 4)),
    "reshape -1 -1": one_op("Reshape", {"s": i64(0, -1)}, out=("N", "A")),
    "transpose back": one_op("Transpose", perm=[0, 2, 1], out=("N", "T", 4)),
    "slice from 1": one_op("Slice", {"b": i64(1), "e": i64(BIG), "a": i64(2)}, out=("N", 4, "U")),
    "slice backwards": one_op("Slice", {"b": i64(-1), "e": i64(-BIG), "a": i64(2), "s": i64(-1)}),
    "slice to 3": one_op("Slice", {"b": i64(0), "e": i64(3), "a": i64(1)}, out=("N", 3, "T")),
    "pad 1": one_op("Pad", {"p": i64(0, 0, 1, 0, 0, 0)}, out=("N", 4, "U")),
    "clip": one_op("Clip", {"lo": np.float32(0.1)}),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_OPS)
def test_no_ops_go(name: str) -> None:
    built = NO_OPS[name]
    (op,) = set(built.op_counts()) - {"Relu", "Sigmoid"}
    apply_and_check("cleanup.eliminate-identity", built, expect_ops={op: -1}, sizes={"T": 6})


@pytest.mark.parametrize("name", REAL_OPS)
def test_what_merely_looks_like_a_no_op_stays(name: str) -> None:
    apply_and_check("cleanup.eliminate-identity", REAL_OPS[name], expect_changed=False, sizes={"T": 6})


def test_interface_names_survive_removal_at_the_outputs() -> None:
    """y2 or y3 takes over r's value; y1 must stay, because x is an input, and y4, because w is a weight."""
    nodes = [
        node("Identity", "x", "y1"),
        node("Relu", "x", "r"),
        node("Identity", "r", "y2"),
        node("Identity", "r", "y3"),
        node("Identity", "w", "y4"),
    ]
    outputs = {"y1": X, "y2": X, "y3": X, "y4": (3,)}
    built = graph(nodes, {"x": X}, outputs, {"w": weights(3)})
    apply_and_check("cleanup.eliminate-identity", built, expect_ops={"Identity": -1})


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("Sub", eliminate_identity._neutral(0, commutes=True)),
        ("Mul", lambda n: n.inputs[0]),
        ("Slice", lambda n: n.inputs[0]),
        ("Cast", lambda n: n.inputs[0]),
        ("Add", lambda n: n.inputs[0] if np.all(eliminate_identity.constant(n.inputs[1]) == 0) else None),
    ],
)
def test_identity_mutants_fail(monkeypatch: pytest.MonkeyPatch, rule: str, wrong) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(eliminate_identity._RULES, rule, wrong)
    case = {
        "Sub": "0 - x",
        "Mul": "mul nearly 1",
        "Slice": "slice from 1",
        "Cast": "cast to half",
        "Add": "add 0 that broadcasts up",
    }[rule]
    assert_mutant_fails(EliminateIdentity, REAL_OPS[case], sizes={"T": 6})


def transposes(
    first: list[int] | None, second: list[int] | None, fork: bool = False, bare: bool = False
) -> Graph:
    extra = lambda perm: {} if perm is None else {"perm": perm}  # noqa: E731
    nodes = [
        node("Transpose", "x", "a", **extra(first)),
        node("Transpose", "a", "y" if bare else "b", **extra(second)),
    ]
    nodes += [] if bare else [node("Relu", "b", "y")]
    outputs: dict[str, tuple[str, ...]] = {"y": ("A", "B", "C")}
    if fork:
        nodes.append(node("Sigmoid", "a", "z"))
        outputs["z"] = ("D", "E", "F")
    return graph(nodes, {"x": ("K", "L", "M")}, outputs)


def test_transposes_merge_and_cancel() -> None:
    merge = "cleanup.merge-transposes"
    apply_and_check(merge, transposes([0, 2, 1], [0, 2, 1]), expect_ops={"Transpose": -2})
    apply_and_check(merge, transposes(None, None), expect_ops={"Transpose": -2})
    done = apply_and_check(merge, transposes([1, 2, 0], [0, 2, 1]), expect_ops={"Transpose": -1})
    assert done.graph.nodes[0].attributes.get_ints("perm") == (1, 0, 2)
    apply_and_check(merge, transposes([1, 2, 0], [0, 2, 1], fork=True), expect_ops={}, expect_changed=True)
    apply_and_check(merge, transposes([1, 2, 0], [2, 0, 1], fork=True), expect_ops={"Transpose": -1})
    apply_and_check(merge, transposes([0, 2, 1], [0, 2, 1], bare=True), expect_ops={"Transpose": -1})


def test_transpose_mutant_composing_the_wrong_way_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = merge_transposes.permutation

    def inverse(one: ir.Node) -> list[int] | None:
        perm = honest(one)
        return None if perm is None else [perm.index(axis) for axis in range(len(perm))]

    monkeypatch.setattr(merge_transposes, "permutation", inverse)
    assert_mutant_fails(MergeTransposes, transposes([1, 2, 0], [1, 2, 0]), code="RUB-PASS-021")


def test_dead_code_goes_and_the_interface_stays() -> None:
    nodes = [
        node("Relu", "x", "y"),
        node("Sigmoid", "x", "dead"),
        node("Conv", "dead w", "deader"),
        node("LSTM", "s wi wr", "h hn cn", hidden_size=3),
    ]
    constants = {
        "w": weights(2, 4, 1),
        "unused": weights(9),
        "wi": weights(1, 12, 2),
        "wr": weights(1, 12, 3),
    }
    inputs = {"x": X, "ignored": (3,), "s": ("S", "N", 2)}
    built = graph(nodes, inputs, {"y": X, "h": ("S", 1, "N", 3)}, constants)
    done = apply_and_check("cleanup.eliminate-dead", built, expect_ops={"Sigmoid": -1, "Conv": -1})
    assert sorted(done.graph.ir.initializers) == ["wi", "wr"]
    assert [len(n.outputs) for n in done.graph.nodes] == [1, 1]


def test_dead_mutant_removing_an_input_fails() -> None:
    class Greedy(EliminateDead):
        """Mutant: unused inputs go too."""

        def run(self, one: Graph) -> bool:
            gone = [v for v in one.ir.inputs if not v.uses()]
            for value in gone:
                one.ir.inputs.remove(value)
            return super().run(one) or bool(gone)

    built = graph([node("Relu", "x", "y")], {"x": X, "ignored": (3,)}, {"y": X})
    assert_mutant_fails(Greedy, built, code="RUB-PASS-020")
    assert eliminate_dead.EliminateDead.id == Greedy.id


def twins(second: np.ndarray | None = None, **attrs: object) -> Graph:
    w = weights(6, 4, 3)
    nodes = [
        node("Conv", "x w1", "a"),
        node("Conv", "x w2", "b", **attrs),
        node("Relu", "b", "r"),
        node("Add", "a r", "y"),
    ]
    return graph(
        nodes, {"x": X}, {"y": ("N", 6, "U")}, {"w1": w, "w2": w.copy() if second is None else second}
    )


def test_duplicates_become_one() -> None:
    done = apply_and_check("cleanup.deduplicate", twins(), expect_ops={"Conv": -1})
    assert list(done.graph.ir.initializers) == ["w1"]
    survivor = done.graph.nodes[0]
    assert survivor.metadata_props["rubicc.fused"] == "m.b"
    apply_and_check(
        "cleanup.deduplicate", twins(dilations=[2], pads=[1, 1]), expect_ops={}, expect_changed=True
    )
    nearly = weights(6, 4, 3)
    nearly[3, 2, 1] = np.nextafter(nearly[3, 2, 1], np.float32(9))
    apply_and_check("cleanup.deduplicate", twins(nearly), expect_changed=False)


def test_duplicates_among_outputs_and_random_nodes_stay() -> None:
    nodes = [node("Relu", "x", "y1"), node("Relu", "x", "y2")]
    apply_and_check("cleanup.deduplicate", graph(nodes, {"x": X}, {"y1": X, "y2": X}), expect_changed=False)
    nodes = [
        node("RandomNormalLike", "x", "a"),
        node("RandomNormalLike", "x", "b"),
        node("Sub", "a b", "y"),
    ]
    built = graph(nodes, {"x": X}, {"y": X})
    work = built.clone()
    assert not Deduplicate().run(work)


def test_zeros_of_different_sign_are_different_weights() -> None:
    nodes = [node("Mul", "x p", "a"), node("Mul", "x n", "b"), node("Concat", "a b", "y", axis=1)]
    constants = {"p": np.zeros(300, np.float32), "n": -np.zeros(300, np.float32)}
    built = graph(nodes, {"x": ("N", 300)}, {"y": ("N", 600)}, constants)
    apply_and_check("cleanup.deduplicate", built, expect_changed=False)
    folded = np.asfortranarray(weights(5, 7))
    nodes = [node("MatMul", "x v", "a"), node("MatMul", "a u", "y")]
    built = graph(nodes, {"x": ("N", 5)}, {"y": ("N", 7)}, {"v": np.eye(5), "u": weights(5, 7)})
    twin = ir.Value(
        name="t", const_value=ir.tensor(folded), shape=ir.Shape([5, 7]), type=ir.TensorType(ir.DataType.FLOAT)
    )
    built.ir.register_initializer(twin)
    built.nodes[1].replace_input_with(1, twin)
    apply_and_check("cleanup.deduplicate", built, expect_changed=True)


def test_duplicate_mutants_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    nearly = weights(6, 4, 3)
    nearly[3, 2, 1] += 0.5
    monkeypatch.setattr(deduplicate, "_equal", lambda kept, array: True)
    monkeypatch.setattr(deduplicate, "_sample", lambda array: b"")
    assert_mutant_fails(Deduplicate, twins(nearly), code="RUB-PASS-021")
    monkeypatch.undo()
    monkeypatch.setattr(
        deduplicate, "_key", lambda n: None if n.op_type == "Relu" else (n.op_type, tuple(map(id, n.inputs)))
    )
    assert_mutant_fails(Deduplicate, twins(dilations=[2], pads=[1, 1]), code="RUB-PASS-021")


def test_names_follow_provenance_and_are_unique() -> None:
    nodes = [
        node("Relu", "x", "a", source="stem.act"),
        node("Relu", "a", "b", source="stem.act"),
        node("Split", "b", "c d", source="", num_outputs=2, axis=1),
        node("Add", "c d", "y", source="head"),
    ]
    built = graph(nodes, {"x": X}, {"y": ("N", 2, "T")})
    del built.nodes[2].metadata_props[SOURCE_KEY]
    built.nodes[2].name = "stem.act/Relu"
    done = apply_and_check("cleanup.name-nodes", built, expect_ops={}, expect_changed=True)
    assert [n.name for n in done.graph.nodes] == [
        "stem.act/Relu",
        "stem.act/Relu_1",
        "stem.act/Relu_2",
        "head/Add",
    ]
    names = [v.name for n in done.graph.nodes for v in n.outputs]
    assert names == [
        "stem.act/Relu_out",
        "stem.act/Relu_1_out",
        "stem.act/Relu_2_out",
        "stem.act/Relu_2_out1",
        "y",
    ]


def test_name_mutants_fail() -> None:
    class Rename(NameNodes):
        """Mutant: outputs are renamed too."""

        def run(self, one: Graph) -> bool:
            one.outputs[0].name = "better_name"
            return super().run(one) or True

    class Drift(NameNodes):
        """Mutant: every run appends to the name."""

        def run(self, one: Graph) -> bool:
            for n in one.nodes:
                n.name = f"{n.name}_x"
            return True

    built = graph([node("Relu", "x", "a"), node("Relu", "a", "y")], {"x": X}, {"y": X})
    assert_mutant_fails(Rename, built, code="RUB-PASS-020")
    assert_mutant_fails(Drift, built, code="RUB-PASS-022")


def test_harness_rejects_silence_and_lost_provenance() -> None:
    class Silent(EliminateIdentity):
        """Mutant: changes and says it did not."""

        def run(self, one: Graph) -> bool:
            super().run(one)
            return False

    class Anonymous(EliminateIdentity):
        """Mutant: inserts a node that names neither pass nor source."""

        def run(self, one: Graph) -> bool:
            first = one.nodes[0]
            made = ir.node("Identity", [first.inputs[0]], name="who")
            made.outputs[0].name = "who_out"
            made.outputs[0].type, made.outputs[0].shape = first.outputs[0].type, first.outputs[0].shape
            one.ir.insert_before(first, made)
            first.replace_input_with(0, made.outputs[0])
            return True

    class Untyped(Anonymous):
        """Mutant: a node with provenance whose value has no type."""

        def run(self, one: Graph) -> bool:
            super().run(one)
            made = one.nodes[0]
            made.metadata_props.update({MADE_BY_KEY: self.id, SOURCE_KEY: "m"})
            made.outputs[0].type = made.outputs[0].shape = None
            return True

    assert_mutant_fails(Silent, NO_OPS["identity"], code="RUB-PASS-025")
    assert_mutant_fails(Anonymous, NO_OPS["identity"], code="RUB-PASS-024")
    assert_mutant_fails(Untyped, NO_OPS["identity"], code="RUB-PASS-024")
    assert_mutant_fails(
        EliminateIdentity, NO_OPS["identity"], code="RUB-PASS-023", expect_ops={"Identity": 1}
    )
    assert initializer(NO_OPS["add 0"], "c") == 0
