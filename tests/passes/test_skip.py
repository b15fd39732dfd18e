"""Skips: what is found, removed and folded, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto
from pass_graphs import graph, initializer, node, norm, norm_constants, weights

from rubicc.errors import UsageError
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.rewrite import Editor
from rubicc.passes.skip.find import Residual, residuals
from rubicc.passes.skip.fold import FoldSkips, Kernel
from rubicc.passes.skip.remove import RemoveSkips
from rubicc.passes.skip.removing import gone

C = 6
PADS = {"pads": [1, 1]}


def block(form: str, *, output: str = "y") -> Graph:
    """x -> stem -> a block of the named form -> head -> y."""
    constants: dict[str, Any] = {
        "stem": weights(C, 2, 1), "w1": weights(C, C, 3, seed=1), "w2": weights(C, C, 3, seed=2),
        "ws": weights(C, C, 1, seed=3), "head": weights(4, C, 1, seed=4), "scale": np.float32(0.1),
        "zero": np.float32(0), "bits": np.float32(8), **norm_constants(C), **norm_constants(C, "sn", 6),
    }  # fmt: skip
    quant = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
    branch = [node("Conv", "s w1", "a", **PADS), node("Relu", "a", "b"), node("Conv", "b w2", "c", **PADS)]
    before = [norm("s", "n"), node("Relu", "n", "p")]
    after = [node("Relu", "j", "z")]
    bodies = {
        "identity": [*branch, node("Add", "c s", "j"), *after],
        "identity first": [*branch, node("Add", "s c", "j"), *after],
        "projected": [
            *branch, node("Conv", "s ws", "q"), norm("q", "r", "sn"), node("Add", "c r", "j"), *after,
        ],
        "pre-activation": [
            *before, node("Conv", "p w1", "a", **PADS), node("Relu", "a", "b"),
            node("Conv", "b w2", "c", **PADS), node("Add", "c s", "j"), node("Identity", "j", "z"),
        ],
        "quantised": [
            *branch, node("Quant", "s scale zero bits", "q", **quant), node("Add", "c q", "j"),
            node("Quant", "j scale zero bits", "u", **quant), node("Relu", "u", "z"),
        ],
        "linear": [node("Conv", "s w1", "a", **PADS), norm("a", "c"), node("Add", "c s", "j"), *after],
    }  # fmt: skip
    nodes = [node("Conv", "x stem", "s"), *bodies[form], node("Conv", "z head", output)]
    return graph(nodes, {"x": ("N", 2, "T")}, {output: ("N", 4, "U")}, used(constants, nodes))


def used(constants: dict[str, Any], nodes: list[Any]) -> dict[str, Any]:
    names = {name for one in nodes for name in one.input}
    return {name: value for name, value in constants.items() if name in names}


FORMS = {
    "identity": ("identity", "post-activation", 0),
    "identity first": ("identity", "post-activation", 0),
    "projected": ("projected", "post-activation", C * C + 2 * C),
    "pre-activation": ("identity", "pre-activation", 0),
    "quantised": ("identity", "post-activation", 0),
    "linear": ("identity", "post-activation", 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_found_and_removed(form: str) -> None:
    one = block(form)
    (found,) = residuals(one).found
    assert (found.kind, found.form, found.weights) == FORMS[form]
    assert found.origin.name == "s" and not residuals(one).refused
    # What goes: the Add and what only the skip needs. On the skip's place stood `found.path`.
    ops = {"Add": -1}
    for gone_too in found.path:
        key = gone_too.op_type if gone_too.domain == "" else f"{gone_too.domain}::{gone_too.op_type}"
        ops[key] = ops.get(key, 0) - 1
    done = apply_and_check("skip.remove", one, expect_ops=ops, expect_changed=True)
    assert not residuals(done.graph).found
    assert gone(done.graph) == {"removed": [found.name], "folded": [], "modules": [found.source]}
    stored = sum(v.const_value.size for g in (one,) for v in g.ir.initializers.values())  # type: ignore[union-attr]
    left = sum(v.const_value.size for v in done.graph.ir.initializers.values())  # type: ignore[union-attr]
    assert stored - left == (C * C + 4 * C if form == "projected" else 0), "weights are gone from the file"
    same_as_zero(one, found, done.graph)


def same_as_zero(before: Graph, found: Residual, after: Graph) -> None:
    """Removing a skip is what multiplying it by zero is, bit for bit."""
    masked = before.clone()
    join = next(n for n in masked.nodes if n.name == found.name)
    edit = Editor(masked, "test")
    nothing = edit.initializer("nothing", np.zeros((), np.float32))
    skip = join.inputs[found.place]
    assert skip is not None
    times = edit.node("Mul", [skip, nothing], like=join, shape=skip.shape, dtype=skip.dtype)
    join.replace_input_with(found.place, times.outputs[0])
    x = np.random.default_rng(0).normal(size=(2, 2, 9)).astype(np.float32)
    assert np.array_equal(execute(masked, {"x": x})["y"], execute(after, {"x": x})["y"])


class RemovesTheBranch(RemoveSkips):
    """Mutant: the skip stands for the sum."""

    def remove(self, edit: Editor, one: Residual) -> None:
        other = Residual(
            one.name, one.source, one.node, 1 - one.place, one.origin, (), one.kind, one.form, one.weights
        )
        super().remove(edit, other)


class LeavesTheWeights(RemoveSkips):
    """Mutant: as RUBICON does, the skip is only switched off."""

    def remove(self, edit: Editor, one: Residual) -> None:
        edit.replace_value(one.node.outputs[0], one.main)
        edit.remove(one.node)


def test_mutants_of_removal() -> None:
    one = block("projected")
    ops = {"Add": -1, "Conv": -1, "BatchNormalization": -1}
    assert_mutant_fails(RemovesTheBranch, one, code="RUB-PASS-023", expect_ops=ops)
    assert_mutant_fails(LeavesTheWeights, one, code="RUB-PASS-023", expect_ops=ops)


def test_a_skip_that_gives_a_graph_output() -> None:
    nodes = [node("Conv", "x w", "a", **PADS), node("Relu", "a", "b"), node("Conv", "b w", "c", **PADS),
             node("Add", "c x", "y")]  # fmt: skip
    one = graph(nodes, {"x": ("N", C, "T")}, {"y": ("N", C, "T")}, {"w": weights(C, C, 3)})
    done = apply_and_check("skip.remove", one, expect_ops={"Add": -1})
    assert [value.name for value in done.graph.outputs] == ["y"]


def test_names_choose() -> None:
    nodes, value = [], "x"
    for k in range(3):
        nodes += [
            node("Conv", f"{value} w", f"a{k}", **PADS),
            node("Relu", f"a{k}", f"b{k}"),
            node("Conv", f"b{k} w", f"c{k}", **PADS),
            node("Add", f"c{k} {value}", f"j{k}", f"block.{k}"),
        ]
        value = f"j{k}"
    nodes.append(node("Relu", value, "y"))
    one = graph(nodes, {"x": ("N", C, "T")}, {"y": ("N", C, "T")}, {"w": weights(C, C, 3)})
    assert [r.source for r in residuals(one).found] == ["block.0", "block.1", "block.2"], "input side first"
    done = apply_and_check("skip.remove", one, options={"names": ("block.1",)}, expect_ops={"Add": -1})
    assert [r.source for r in residuals(done.graph).found] == ["block.0", "block.2"]
    done = apply_and_check("skip.remove", one, options={"keep": ("n_j0",)}, expect_ops={"Add": -2})
    assert [r.source for r in residuals(done.graph).found] == ["block.0"]
    with pytest.raises(UsageError, match="RUB-PASS-060"):
        apply_and_check("skip.remove", one, options={"names": ("block.7",)})


def joined(op: str, inputs: str, nodes: list[Any], **constants: Any) -> Graph:
    nodes = [*nodes, node(op, inputs, "j", "join", **({"axis": 1} if op == "Concat" else {})),
             node("GlobalAveragePool", "j", "y")]  # fmt: skip
    all_of_them = {"w": weights(C, C, 3), "v": weights(C, C, 3, seed=9), **constants}
    return graph(nodes, {"x": ("N", C, "T")}, {"y": ("N", "K", 1)}, used(all_of_them, nodes))


def long_branch(end: str) -> list[Any]:
    return [node("Conv", "x w", "a", **PADS), node("Relu", "a", "b"), node("Conv", "b v", end, **PADS)]


REFUSED: dict[str, tuple[Callable[[], Graph], str]] = {
    "concatenation": (lambda: joined("Concat", "x c", long_branch("c")), "concatenation"),
    "a sum of three": (
        lambda: joined("Sum", "x c d", [*long_branch("c"), node("Relu", "c", "d")]),
        "Sum of 3",
    ),
    "a branch that is repeated": (
        lambda: joined("Add", "x c", [node("GlobalAveragePool", "x", "g"), node("Conv", "g v1", "c")],
                       v1=weights(C, C, 1)),
        "repeated",
    ),
    "two equal branches": (
        lambda: joined("Add", "c d", [node("Conv", "x w", "c", **PADS), node("Conv", "x v", "d", **PADS)]),
        "equal weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_go_says_why(what: str) -> None:
    make, reason = REFUSED[what]
    one = make()
    skips = residuals(one)
    assert not skips.found and reason in skips.refused[0].reason
    done = apply_and_check("skip.remove", one, expect_changed=False)
    assert any(reason in note.what for note in done.record.notes)
    with pytest.raises(UsageError, match="RUB-PASS-060") as caught:
        apply_and_check("skip.remove", one, options={"names": ("join",)})
    assert reason in str(caught.value)


NO_SKIP: dict[str, Callable[[], Graph]] = {
    "a bias": lambda: joined("Add", "x b", [], b=weights(C, 1)),
    "a value and its activation": lambda: joined("Add", "x c", [node("Relu", "x", "c")]),
    "a value twice": lambda: joined("Add", "x x", []),
    "two inputs' worth": lambda: graph(
        [node("Add", "x z", "y")], {"x": ("N", C), "z": ("N", C)}, {"y": ("N", C)}
    ),
}


@pytest.mark.parametrize("what", NO_SKIP)
def test_what_is_no_skip(what: str) -> None:
    skips = residuals(NO_SKIP[what]())
    assert not skips.found and not skips.refused


def test_exported_networks(nets: dict[str, Graph]) -> None:
    """Through torch's exporters: a post-activation block, and both residuals of a transformer layer."""
    for name in ("residual", "residual (traced)"):
        (found,) = residuals(apply_and_check("cleanup.infer-shapes", nets[name]).graph).found
        assert (found.kind, found.form) == ("identity", "post-activation")
    found = residuals(apply_and_check("cleanup.infer-shapes", nets["encoder"]).graph).found
    assert [one.form for one in found] == ["pre-activation", "post-norm"]
    assert all(one.kind == "identity" for one in found), "positions added to words are none"


# ---- folding

GROUPS = {"dense": 1, "grouped": 2, "depthwise": C}
SKIPS = ("identity", "norm", "projection", "both")


def foldable(skip: str, groups: int, dtype: Any = np.float64) -> Graph:
    """x -> Conv(k 3, dilation 2) -> BatchNorm, beside a skip; everything in ``dtype``."""
    projection = node("Conv", "x ws bs", "r" if skip == "projection" else "q", group=groups)
    scaled = norm("q" if skip == "both" else "x", "r", "sn")
    own = {"identity": [], "norm": [scaled], "projection": [projection], "both": [projection, scaled]}[skip]
    attributes = {"group": groups, "pads": [2, 2], "dilations": [2]}
    nodes = [node("Conv", "x w b", "a", **attributes), norm("a", "c"), *own,
             node("Add", f"c {'r' if own else 'x'}", "j"), node("Tanh", "j", "y")]  # fmt: skip
    constants = {"w": weights(C, C // groups, 3), "b": weights(C), "ws": weights(C, C // groups, 1, seed=3),
                 "bs": weights(C, seed=8), **norm_constants(C), **norm_constants(C, "sn", 6)}  # fmt: skip
    kind = TensorProto.DOUBLE if dtype == np.float64 else TensorProto.FLOAT
    ends = {"x": ("N", C, "T")}, {"y": ("N", C, "T")}
    one = graph(nodes, *ends, used(constants, nodes), types={"x": kind, "y": kind}, infer=False)
    if dtype == np.float64:  # pass_graphs makes float32 of every float
        for value in one.ir.initializers.values():
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy().astype(dtype), name=value.name)
            value.dtype = ir.DataType.DOUBLE
    return apply_and_check("cleanup.infer-shapes", one).graph


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("skip", SKIPS)
def test_folding_loses_nothing(skip: str, groups: str) -> None:
    one = foldable(skip, GROUPS[groups])
    done = apply_and_check("skip.fold", one, expect_changed=True).graph
    assert done.op_counts() == {"Conv": 1, "Tanh": 1} and gone(done)["folded"] == ["n_j"]
    x = np.random.default_rng(1).normal(size=(2, C, 11))
    before, after = (execute(g, {"x": x})["y"] for g in (one, done))
    assert before.dtype == np.float64
    assert np.max(np.abs(before - after)) < 1e-12
    assert len(done.ir.initializers) == 2, "no weight of the skip or of the norms is left"


def test_folding_in_float32() -> None:
    done = apply_and_check("skip.fold", foldable("identity", 1, np.float32)).graph
    assert initializer(done, next(n.inputs[1].name for n in done.nodes)).dtype == np.float32  # type: ignore


class OffByOneTap(FoldSkips):
    """Mutant: the ones stand beside the middle of the kernel."""

    def placed(self, skip: Kernel, branch: Kernel) -> np.ndarray:
        return np.roll(super().placed(skip, branch), 1, axis=2)


class ForgetsTheGroups(FoldSkips):
    """Mutant: the ones stand at the first channel of every group."""

    def placed(self, skip: Kernel, branch: Kernel) -> np.ndarray:
        made = super().placed(skip, branch)
        return np.concatenate([made.sum(1, keepdims=True), np.zeros_like(made[:, 1:])], axis=1)


class ForgetsTheBias(FoldSkips):
    """Mutant: the norm on the skip is taken as a scale."""

    def fold(self, edit: Editor, one: Residual) -> None:
        old = one.path[0].inputs[2] if one.path else None
        if old is not None:
            zeros = edit.initializer("zeros", np.zeros(C, np.float32))
            one.path[0].replace_input_with(2, zeros)
        super().fold(edit, one)


@pytest.mark.parametrize("mutant", [OffByOneTap, ForgetsTheGroups, ForgetsTheBias])
def test_mutants_of_folding(mutant: type[FoldSkips]) -> None:
    one = foldable("norm" if mutant is ForgetsTheBias else "identity", 2, np.float32)
    assert_mutant_fails(mutant, one, code="RUB-PASS-021")


def strided() -> Graph:
    nodes = [
        node("Conv", "x w", "c", pads=[1, 1], strides=[2]),
        node("Conv", "x v1", "d", strides=[2]),
        node("Add", "c d", "j", "join"),
        node("Relu", "j", "y"),
    ]
    constants = {"w": weights(C, C, 3), "v1": weights(C, C, 1)}
    return graph(nodes, {"x": ("N", C, "T")}, {"y": ("N", C, "U")}, constants)


def test_a_strided_projection_is_folded() -> None:
    one = strided()
    done = apply_and_check("skip.fold", one, sizes={"T": 9}, expect_ops={"Add": -1, "Conv": -1})
    assert done.graph.op_counts() == {"Conv": 1, "Relu": 1}


NOT_FOLDED: dict[str, tuple[Callable[[], Graph], str]] = {
    "an activation in the branch": (lambda: block("identity"), "Relu lies between"),
    "a projection over an activation": (lambda: block("projected"), "Relu lies between"),
    "two convolutions": (
        lambda: joined("Add", "c x", [node("Conv", "x w", "a", **PADS), node("Conv", "a v", "c", **PADS)]),
        "2 convolutions in a row",
    ),
    "a dense skip beside groups": (
        lambda: joined("Add", "c d", [node("Conv", "x w2", "c", group=2, pads=[2, 2]),
                                      node("Conv", "x v1", "d"),
                                      ], w2=weights(C, C // 2, 5), v1=weights(C, C, 1)),
        "would have to become dense",
    ),
    "a tap too far": (
        lambda: joined("Add", "c d", [node("Conv", "x w", "c", **PADS),
                                      node("Conv", "x v1", "d", group=C, pads=[2, 2], dilations=[2])],
                       v1=weights(C, 1, 3)),
        "no tap for",
    ),
    "a branch that is read twice": (
        lambda: joined("Mul", "k e", [node("Conv", "x w", "c", **PADS), norm("c", "c2"),
                                      node("Add", "c2 x", "k"), node("Relu", "c", "e")], **norm_constants(C)),
        "read elsewhere",
    ),
    "a quantised skip": (lambda: block("quantised"), "Relu lies between"),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_FOLDED)
def test_what_cannot_be_folded_says_why(what: str) -> None:
    make, reason = NOT_FOLDED[what]
    one = make()
    done = apply_and_check("skip.fold", one, expect_changed=False, sizes={"T": 9})
    assert any(reason in note.what for note in done.record.notes), done.record.notes


def test_rewritten_nodes_say_what_they_do() -> None:
    done = apply_and_check("skip.fold", foldable("both", 1, np.float32)).graph
    (conv,) = (n for n in done.nodes if n.op_type == "Conv")
    assert conv.metadata_props["rubicc.made_by"] == "skip.fold"
    assert set(conv.metadata_props["rubicc.fused"].split(";")) == {"m.c", "m.j", "m.r", "m.q"}
