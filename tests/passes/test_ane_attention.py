"""Attention head by head and its masks: ways to split heads, scales, masks, what is refused, mutants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pass_graphs import graph, node, weights

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.ane import attention_write as write_module
from rubicc.passes.ane import mask as mask_module
from rubicc.passes.ane.attention import Attention
from rubicc.passes.ane.attention_write import Writer
from rubicc.passes.ane.mask import Mask
from rubicc.passes.ane.mask_rule import MaskRule
from rubicc.passes.harness import apply_and_check, assert_mutant_fails, relative_error
from rubicc.passes.manager import run_pass, run_pipeline
from rubicc.passes.pipelines import PIPELINES
from rubicc.passes.registry import get

PASS, MASK = "ane.attention", "ane.mask"
HEADS, WIDTH, CHANNELS = 3, 4, 12
SPLIT = {"cut": np.asarray([0, 0, HEADS, WIDTH]), "join": np.asarray([0, 0, CHANNELS])}
SHAPE: dict[str, Any] = {"x": ["N", "T", CHANNELS]}


def projections(*names: str) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Linear layers of x, under these names."""
    nodes = [node("MatMul", f"x w{name}", name) for name in names]
    return nodes, {f"w{name}": weights(CHANNELS, CHANNELS, seed=ord(name)) / 3 for name in names}


def split(name: str, perm: tuple[int, ...] = (0, 2, 1, 3)) -> list[Any]:
    return [node("Reshape", f"{name} cut", f"{name}r"), node("Transpose", f"{name}r", f"{name}h", perm=perm)]


def finish(value: str = "p") -> list[Any]:
    return [
        node("MatMul", f"{value} vh", "c"), node("Transpose", "c", "cb", perm=[0, 2, 1, 3]),
        node("Reshape", "cb join", "o"), node("MatMul", "o wo", "y"),
    ]  # fmt: skip


def attention(
    middle: list[Any] | None = None,
    constants: dict[str, Any] | None = None,
    inputs: dict[str, Any] | None = None,
    last: list[Any] | None = None,
    types: dict[str, int] | None = None,
    steps: int | str = "T",
) -> Graph:
    """softmax(q k^T / 2) v over three heads; ``middle`` leads from scores ``s`` to what the softmax reads."""
    nodes, arrays = projections(*"qkvo")
    nodes = nodes[:3] + split("q") + split("k", (0, 2, 3, 1)) + split("v") + [node("MatMul", "qh kh", "s")]
    between = middle if middle is not None else [node("Mul", "s half", "m")]
    nodes += [*between, node("Softmax", "m", "p", axis=-1), *(last or finish())]
    given = {**arrays, **SPLIT, "half": np.float32(0.5), **(constants or {})}
    used = {name for one in nodes for name in one.input}
    kept = {name: value for name, value in given.items() if name in used}
    ends = {"x": ["N", steps, CHANNELS]}
    return graph(nodes, {**ends, **(inputs or {})}, {"y": ends["x"]}, kept, types=types)


def counts_of(one: Graph) -> dict[str, int]:
    return {op: one.op_counts().get(op, 0) for op in ("Einsum", "Softmax", "MatMul", "Reshape")}


def test_one_attention_per_head() -> None:
    """Behind convolutions: one Split each, one Transpose of the keys, two einsums and a softmax per head."""
    done = apply_and_check(PASS, apply_and_check("ane.linear-to-conv", attention()).graph)
    counts = done.graph.op_counts()
    assert counts_of(done.graph) == {"Einsum": 6, "Softmax": 3, "MatMul": 0, "Reshape": 0}
    assert counts["Split"] == 3 and counts["Concat"] == 1 and "Mul" not in counts  # folded
    softmaxes = [n for n in done.graph.nodes if n.op_type == "Softmax"]
    assert all(n.attributes.get_int("axis") == 1 for n in softmaxes)
    assert all(n.outputs[0].shape is not None and n.outputs[0].shape[2] == 1 for n in softmaxes)
    done = apply_and_check("ane.layout", done.graph)
    left = {op: n for op, n in done.graph.op_counts().items() if op in ("Transpose", "Squeeze", "Unsqueeze")}
    assert left == {"Transpose": 3, "Squeeze": 1, "Unsqueeze": 1}


def packed(kind: str) -> Graph:
    """One projection for queries, keys and values, cut apart in different ways; fewer heads for the keys."""
    nodes: list[Any] = [node("MatMul", "x wp", "pk")]
    given: dict[str, Any] = {"wp": weights(CHANNELS, 3 * CHANNELS) / 3, **SPLIT, "half": np.float32(0.5)}
    if kind == "split":
        nodes += [node("Split", "pk sizes", "q k v", axis=2)]
        nodes += split("q") + split("k", (0, 2, 3, 1)) + split("v")
        given["sizes"] = np.asarray([CHANNELS] * 3)
    elif kind == "five axes":  # (B, S, 3, H, D) to (3, B, H, S, D), as timm and torch write it
        nodes += [node("Reshape", "pk five", "f"), node("Transpose", "f", "g", perm=[2, 0, 3, 1, 4])]
        nodes += [node("Gather", f"g {i}", n, axis=0) for i, n in enumerate(("qh", "kt", "vh"))]
        nodes += [node("Transpose", "kt", "kh", perm=[0, 1, 3, 2])]
        given |= {"five": np.asarray([0, 0, 3, HEADS, WIDTH])} | {str(i): np.asarray(i) for i in range(3)}
    else:  # (B, S, H, 3, D), heads outside, as GPT-NeoX writes it
        nodes += [node("Reshape", "pk five", "f"), node("Transpose", "f", "g", perm=[0, 2, 1, 3, 4])]
        nodes += [node("Slice", f"g a{i} a{i + 1} three", f"t{i}") for i in range(3)]
        nodes += [node("Squeeze", f"t{i} three", n) for i, n in enumerate(("qh", "kt", "vh"))]
        nodes += [node("Transpose", "kt", "kh", perm=[0, 1, 3, 2])]
        given |= {"five": np.asarray([0, 0, HEADS, 3, WIDTH]), "three": np.asarray([3])}
        given |= {f"a{i}": np.asarray([i]) for i in range(4)}
    nodes += [node("MatMul", "qh kh", "s"), node("Mul", "s half", "m"), node("Softmax", "m", "p", axis=-1)]
    nodes += finish()
    given["wo"] = weights(CHANNELS, CHANNELS)
    used = {name for one in nodes for name in one.input}
    kept = {name: value for name, value in given.items() if name in used}
    return graph(nodes, SHAPE, {"y": ["N", "T", CHANNELS]}, kept)


@pytest.mark.parametrize("kind", ["split", "five axes", "heads outside"])
def test_packed_projections(kind: str) -> None:
    done = apply_and_check(PASS, apply_and_check("ane.linear-to-conv", packed(kind)).graph)
    assert counts_of(done.graph) == {"Einsum": 6, "Softmax": 3, "MatMul": 0, "Reshape": 0}


def test_fewer_heads_for_the_keys() -> None:
    """Grouped queries: four heads of queries share two of keys and values by Expand."""
    nodes, arrays = projections("q", "o")
    nodes = [nodes[0], node("MatMul", "x wk", "k"), node("MatMul", "x wv", "v")]
    for name in "kv":
        nodes += [
            node("Reshape", f"{name} few", f"{name}1"),
            node("Transpose", f"{name}1", f"{name}2", perm=[0, 2, 1, 3]),
            node("Unsqueeze", f"{name}2 two", f"{name}3"), node("Expand", f"{name}3 twice", f"{name}4"),
            node("Reshape", f"{name}4 whole", f"{name}h0"),
        ]  # fmt: skip
    nodes += [
        node("Reshape", "q many", "qr"), node("Transpose", "qr", "qh", perm=[0, 2, 1, 3]),
        node("Transpose", "kh0", "kh", perm=[0, 1, 3, 2]), node("MatMul", "qh kh", "s"),
        node("Mul", "s half", "m"), node("Softmax", "m", "p", axis=-1), node("MatMul", "p vh0", "c"),
        node("Transpose", "c", "cb", perm=[0, 2, 1, 3]), node("Reshape", "cb join", "o"),
        node("MatMul", "o wo", "y"),
    ]  # fmt: skip
    before = graph(
        nodes, {"x": [2, 5, CHANNELS]}, {"y": [2, 5, CHANNELS]},
        {
            **arrays, "wk": weights(CHANNELS, 6), "wv": weights(CHANNELS, 6, seed=3), "two": np.asarray([2]),
            "few": np.asarray([0, 0, 2, 3]), "many": np.asarray([0, 0, 4, 3]), "half": np.float32(0.5),
            "twice": np.asarray([2, 2, 2, 5, 3]), "whole": np.asarray([2, 4, 5, 3]), "join": SPLIT["join"],
        },
    )  # fmt: skip
    done = apply_and_check(PASS, apply_and_check("ane.linear-to-conv", before).graph)
    assert counts_of(done.graph) == {"Einsum": 8, "Softmax": 4, "MatMul": 0, "Reshape": 0}


CAUSAL = np.where(np.tri(8, dtype=bool), 0.0, -1e4).astype(np.float32)
MASKS: dict[str, tuple[list[Any], dict[str, Any], dict[str, Any]]] = {
    "by key": ([node("Mul", "s half", "a"), node("Add", "a bias", "m")], {}, {"bias": ["N", 1, 1, "T"]}),
    "mask first": ([node("Mul", "s half", "a"), node("Add", "bias a", "m")], {},
    {"bias": ["N", 1, "T", "T"]}),
    "by head": ([node("Mul", "s half", "a"), node("Add", "a bias", "m")], {}, {"bias": [1, HEADS, "T", "T"]}),
    "keys only": ([node("Mul", "s half", "a"), node("Add", "a bias", "m")], {}, {"bias": ["T"]}),
    "two": ([node("Div", "s two", "a"), node("Add", "a bias", "b"), node("Add", "b more", "m")],
            {"two": np.float32(2)}, {"bias": ["N", 1, 1, "T"], "more": ["T", "T"]}),
    "where": ([node("Greater", "bias zero", "w"), node("Where", "w s low", "m")],
              {"low": np.float32(-1e4), "zero": np.float32(0)}, {"bias": ["N", 1, 1, "T"]}),
    "where not": ([node("Greater", "bias zero", "w"), node("Where", "w low s", "m")],
                  {"low": np.float32(-1e4), "zero": np.float32(0)}, {"bias": ["N", 1, "T", "T"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    middle, constants, inputs = MASKS[name]
    done = apply_and_check(PASS, attention(middle, constants, inputs))
    assert counts_of(done.graph)["Einsum"] == 6 and not done.record.decisions


def test_a_causal_mask_is_turned_once_as_a_constant() -> None:
    steps = [node("Mul", "s half", "a"), node("Add", "a tri", "m")]
    before = attention(steps, {"tri": CAUSAL[None, None]}, steps=8)
    done = apply_and_check(PASS, before)
    adds = {n.inputs[1] for n in done.graph.nodes if n.op_type == "Add"}
    assert len(adds) == 1 and list(adds.pop().shape) == [1, 8, 1, 8]  # type: ignore[union-attr, arg-type]


def test_a_guarded_softmax_stays_exact() -> None:
    """-inf in a mask: a query that may attend to nothing gets zeros; after `ane.mask` no guard is needed."""
    middle = [
        node("Greater", "bias zero", "w"), node("Where", "w zero inf", "b"), node("Mul", "s half", "a"),
        node("Add", "a b", "m"),
    ]  # fmt: skip
    last = [node("IsNaN", "p", "nan"), node("Where", "nan zero p", "safe"), *finish("safe")]
    before = attention(
        middle, {"zero": np.float32(0), "inf": np.float32(-np.inf)}, {"bias": ["N", 1, 1, "T"]}, last
    )  # fmt: skip
    feeds = {"x": weights(2, 5, CHANNELS), "bias": np.ones((2, 1, 1, 5), np.float32)}
    feeds["bias"][1] = -1.0
    done = apply_and_check(PASS, before, [feeds])
    assert done.graph.op_counts()["IsNaN"] == HEADS
    assert not execute(done.graph, feeds)["y"][1].any()
    run_pass(get(MASK)(), before)
    assert "IsNaN" not in apply_and_check(PASS, before).graph.op_counts()


REFUSED: dict[str, tuple[Any, str]] = {
    "positions": (lambda: attention([node("MatMul", "qh other", "s2"), node("Add", "s s2", "m")], {},
                                    {"other": [1, 1, WIDTH, "T"]}), "sum of two products"),
    "scaled late": (lambda: attention([node("Add", "s bias", "a"), node("Mul", "a half", "m")], {},
                                      {"bias": ["N", 1, 1, "T"]}), "scaled after"),
    "interleaved": (lambda: attention(last=[
        node("MatMul", "p vh", "c"), node("Transpose", "c", "cb", perm=[0, 2, 3, 1]),
        node("Reshape", "cb join", "o"), node("MatMul", "o wo", "y")]), "not joined"),
    "rotated": (lambda: rotated(), "not a split of channels"),
}  # fmt: skip


def rotated() -> Graph:
    """Queries turned by their position: not a movement."""
    before = attention()
    query = next(n for n in before.nodes if n.name == "n_qh")
    turned = graph([node("Sin", "x", "y")], {"x": ["N"]}, {"y": ["N"]}).nodes[0]
    import onnx_ir as ir

    made = ir.node(turned.op_type, [query.outputs[0]], num_outputs=1, name="turn")
    made.metadata_props.update(query.metadata_props)
    made.outputs[0].name, made.outputs[0].shape = "turned", query.outputs[0].shape
    made.outputs[0].type = query.outputs[0].type
    before.ir.insert_after(query, made)
    scores = next(n for n in before.nodes if n.name == "n_s")
    scores.replace_input_with(0, made.outputs[0])
    return before


@pytest.mark.parametrize("name", ["scaled late", "interleaved", "positions"])
def test_what_is_not_understood_stays_with_a_decision(name: str) -> None:
    build, why = REFUSED[name]
    done = apply_and_check(PASS, build(), expect_changed=False)
    assert [d.code for d in done.record.decisions] == ["RUB-PASS-D20"] and why in done.record.decisions[
        0
    ].reason


def test_computed_queries_are_roots_of_their_own() -> None:
    """Something computed on heads hides the projection: said, and left."""
    done = apply_and_check(PASS, rotated(), expect_changed=False)
    assert REFUSED["rotated"][1] in done.record.decisions[0].reason


class HeadsSwapped(Writer):
    """Mutant: heads are joined in another order."""

    def _join(self, parts: Any, *rest: Any) -> None:
        super()._join(parts[::-1], *rest)


class NoScale(Writer):
    """Mutant: the scale of the scores is forgotten."""

    def _fold(self, *args: Any) -> bool:
        return True


class QueriesNormalised(Writer):
    """Mutant: the softmax runs over queries."""

    def _node(self, op: str, inputs: Any, source: Any, before: Any, shape: Any, attributes: Any) -> Any:
        return super()._node(
            op, inputs, source, before, shape, {"axis": 3} if op == "Softmax" else attributes
        )


class NoMask(Writer):
    """Mutant: masks are dropped."""

    def _mask(self, mask: Any, scores: Any, *rest: Any) -> Any:
        return scores


@pytest.mark.parametrize("mutant", [HeadsSwapped, NoScale, QueriesNormalised, NoMask])
def test_wrong_attentions_fail(monkeypatch: pytest.MonkeyPatch, mutant: type[Writer]) -> None:
    from rubicc.passes.ane import attention as module

    monkeypatch.setattr(module, "Writer", mutant)
    assert_mutant_fails(Attention, attention(*MASKS["by key"]), code="RUB-PASS-021")


def test_a_fold_into_the_wrong_rows_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed projection: the scale belongs to the rows of the queries only."""
    before = apply_and_check("ane.linear-to-conv", packed("split")).graph
    monkeypatch.setattr(write_module.np, "where", lambda rows, a, b: np.full(rows.shape, a))
    assert_mutant_fails(Attention, before, code="RUB-PASS-021")


def masked() -> Graph:
    """An integer mask (N, T) made additive with the lowest float32, spread over queries."""
    middle = [
        node("Cast", "mask", "f", to=1), node("Sub", "one f", "i"), node("Mul", "i lowest", "l"),
        node("Unsqueeze", "l axes", "u"), node("Mul", "s half", "a"), node("Add", "a u", "m"),
    ]  # fmt: skip
    constants = {
        "one": np.float32(1),
        "lowest": np.float32(np.finfo(np.float32).min),
        "axes": np.asarray([1, 2]),
    }
    return attention(middle, constants, {"mask": ["N", "T"]}, types={"mask": 7})


def feeds_of(fill: int) -> dict[str, np.ndarray]:
    return {"x": weights(2, 9, CHANNELS), "mask": np.tile((np.arange(9) < fill).astype(np.int64), (2, 1))}


def test_masks_fit_half_precision() -> None:
    """-3.4e38 becomes -1e4; what is attended to gets the same numbers, what is not exactly zero."""
    before = masked()
    after = before.clone()
    record = run_pass(get(MASK)(), after)
    assert [d.code for d in record.decisions] == ["RUB-PASS-D22"]
    for fill in (9, 5, 1):
        old, new = (execute(one, feeds_of(fill))["y"] for one in (before, after))
        assert np.array_equal(old, new)
    half = run_pass(get(MASK)(), after)
    assert not half.changed
    with pytest.raises(ValueError, match="masked"):
        Mask.Options(masked=-1e6)


def test_a_mask_from_outside() -> None:
    """The integers become a float input; the rule that makes it is learnt and kept in the graph."""
    before = masked()
    after = before.clone()
    run_pass(get(MASK)(Mask.Options(outside=True)), after)
    assert [v.name for v in after.inputs] == ["x", "attention_bias"] and "Cast" not in after.op_counts()
    rule = MaskRule.of(after)
    assert rule == MaskRule("attention_bias", "mask", None, 0.0, -1e4, dropped=True)
    for fill in (9, 4):
        feeds = feeds_of(fill)
        given = rule.feeds(feeds)
        assert given["attention_bias"].shape == (2, 1, 1, 9)
        assert relative_error(execute(before, feeds)["y"], execute(after, given)["y"]) < 1e-6
    run_pipeline(after, PIPELINES["coreml"], check=True)
    assert relative_error(execute(before, feeds)["y"], execute(after, given)["y"]) < 1e-5


def test_a_wrong_rule_is_not_learnt() -> None:
    """A mask that masks nothing follows no rule by padding: it stays inside, with a Decision."""
    before = masked()
    sub = next(n for n in before.nodes if n.op_type == "Sub")
    sub.replace_input_with(0, sub.inputs[1])  # 0 everywhere: no position is masked
    record = run_pass(get(MASK)(Mask.Options(outside=True)), before)
    assert "RUB-PASS-D23" in [d.code for d in record.decisions]
    assert [v.name for v in before.inputs] == ["x", "mask"]


def test_attention_without_a_mask_is_said_where_tokens_are_padded() -> None:
    nodes, arrays = projections(*"qkvo")
    nodes = [
        node("Gather", "table ids", "x"),
        *nodes[:3],
        *split("q"),
        *split("k", (0, 2, 3, 1)),
        *split("v"),
    ]
    nodes += [node("MatMul", "qh kh", "s"), node("Softmax", "s", "p", axis=-1), *finish()]
    before = graph(
        nodes, {"ids": ["N", "T"]}, {"y": ["N", "T", CHANNELS]},
        {**arrays, **SPLIT, "table": weights(7, CHANNELS)}, types={"ids": 7},
    )  # fmt: skip
    record = run_pass(get(MASK)(Mask.Options(pad=3)), before)
    assert not record.changed and [d.code for d in record.decisions] == ["RUB-PASS-D21"]
    assert run_pass(get(MASK)(), before).decisions == ()  # no padding id is known


def test_a_mask_too_weak_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: what is masked gets -1 instead of -1e4."""
    right = mask_module.Mask._raise

    def weak(self: Any, edit: Any, one: Any, value: Any, array: np.ndarray) -> None:
        object.__setattr__(self.options, "masked", -1.0)
        right(self, edit, one, value, array)

    monkeypatch.setattr(mask_module.Mask, "_raise", weak)
    assert_mutant_fails(Mask, masked(), [feeds_of(5)], code="RUB-PASS-021")


def test_a_spread_mask_becomes_narrow() -> None:
    """(B,K) brought to (B,1,Q,K) by Expand is added as (B,1,1,K)."""
    middle = [
        node("Unsqueeze", "bias axes", "u"), node("Expand", "u shape", "e"), node("Mul", "s half", "a"),
        node("Add", "a e", "m"),
    ]  # fmt: skip
    before = attention(
        middle, {"axes": np.asarray([1, 2]), "shape": np.asarray([2, 1, 6, 6])}, {"bias": [2, 6],
        "x": [2, 6, CHANNELS]}
    )  # fmt: skip
    done = apply_and_check(MASK, before, expect_ops={"Expand": -1})
    add = next(n for n in done.graph.nodes if n.name == "n_m")
    assert list(add.inputs[1].shape) == [2, 1, 1, 6]  # type: ignore[union-attr, arg-type]
