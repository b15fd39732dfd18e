"""Views as an algebra against numpy, and the pass that writes chains of them again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import graph, node, weights

from rubicc.ir.graph import Graph
from rubicc.passes.ane import remove_transposes as module
from rubicc.passes.ane.remove_transposes import RemoveTransposes
from rubicc.passes.ane.views import View, array_as_view, origin, view_of
from rubicc.passes.harness import apply_and_check, assert_mutant_fails

MOVES = {"Transpose", "Squeeze", "Unsqueeze", "Reshape"}


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[int], list[tuple[str, list[int]]]]:
    """Dims of a source (some 1) and a chain of views on it: operator and axes, or target dims."""
    dims = draw(st.lists(st.sampled_from([1, 1, 2, 3, 5]), min_size=2, max_size=4))
    steps: list[tuple[str, list[int]]] = []
    now = list(dims)
    for _ in range(draw(st.integers(1, 5))):
        ones = [axis for axis, dim in enumerate(now) if dim == 1]
        kinds = (
            ["Transpose"] * bool(now) + ["Unsqueeze"] * (len(now) < 6) + ["Squeeze", "Reshape"] * bool(ones)
        )
        kind = draw(st.sampled_from(kinds))
        if kind == "Transpose":
            axes = list(draw(st.permutations(range(len(now)))))
            now = [now[axis] for axis in axes]
        elif kind == "Unsqueeze":
            axes = [draw(st.integers(0, len(now)))]
            now.insert(axes[0], 1)
        elif kind == "Squeeze":
            axes = draw(st.lists(st.sampled_from(ones), min_size=1, unique=True))
            now = [dim for axis, dim in enumerate(now) if axis not in axes]
        else:
            now = [dim for dim in now if dim != 1]
            now.insert(draw(st.integers(0, len(now))), 1)
            axes = list(now)
        steps.append((kind, axes))
    return dims, steps


def built(dims: list[int], steps: list[tuple[str, list[int]]], use_middle: bool) -> Graph:
    nodes, constants, outputs, now = [node("Relu", "x", "v0")], {}, {}, list(dims)
    for index, (kind, axes) in enumerate(steps):
        if kind == "Transpose":
            nodes.append(node(kind, f"v{index}", f"v{index + 1}", perm=axes))
            now = [now[axis] for axis in axes]
        else:
            constants[f"a{index}"] = np.asarray(axes, np.int64)
            nodes.append(node(kind, f"v{index} a{index}", f"v{index + 1}"))
            if kind == "Squeeze":
                now = [dim for axis, dim in enumerate(now) if axis not in axes]
            elif kind == "Unsqueeze":
                now.insert(axes[0], 1)
            else:
                now = list(axes)
        if use_middle and index == 0:
            nodes.append(node("Neg", "v1", "z"))
            outputs["z"] = list(now)
    nodes.append(node("Sigmoid", f"v{len(steps)}", "y"))
    return graph(nodes, {"x": dims}, {"y": now, **outputs}, constants)


@settings(max_examples=120, deadline=None)
@given(chains(), st.booleans())
def test_any_chain_becomes_at_most_two_nodes(
    chain: tuple[list[int], list[tuple[str, list[int]]]], use_middle: bool
) -> None:
    before = built(*chain, use_middle)
    done = apply_and_check("ane.remove-transposes", before, random=1)
    counts = done.graph.op_counts()
    left, had = sum(counts.get(op, 0) for op in MOVES), len(chain[1])
    assert left <= min(had, 2 + use_middle)


@settings(max_examples=200, deadline=None)
@given(chains())
def test_the_algebra_is_numpys(chain: tuple[list[int], list[tuple[str, list[int]]]]) -> None:
    """Composition, steps and inverse, each against the arrays."""
    dims, steps = chain
    before = built(dims, steps, False)
    last = next(n for n in reversed(before.nodes) if n.op_type in MOVES)
    source, view, found = origin(last.outputs[0])
    assert source.name == "v0" and len(found) == len(steps)
    x = np.arange(int(np.prod(dims))).reshape(dims)
    y = x
    for kind, axes in steps:
        y = {
            "Transpose": np.transpose,
            "Squeeze": lambda a, n: np.squeeze(a, tuple(n)),
            "Reshape": np.reshape,
        }.get(kind, np.expand_dims)(y, axes)  # type: ignore[operator, call-overload]
    made = x
    for kind, axes in view.steps():
        made = getattr(
            np, {"Squeeze": "squeeze", "Transpose": "transpose", "Unsqueeze": "expand_dims"}[kind]
        )(made, axes)
    np.testing.assert_array_equal(made, y)
    assert view.dims(dims) == list(y.shape)
    assert view.then(view.inverse()).dims(dims) == list(dims)
    back = array_as_view(y, view)
    np.testing.assert_array_equal(back, x)


def test_views_meet_and_vanish_around_recurrent_layers() -> None:
    """(N,C,1,T) leaves to (T,N,C) by two nodes; (T,1,N,H) enters (N,H,1,T) by one."""
    before = graph(
        [
            node("Relu", "x", "v"),
            node("Squeeze", "v two", "a"), node("Transpose", "a", "b", perm=[0, 2, 1]),
            node("Transpose", "b", "c", perm=[1, 0, 2]),
            node("GRU", "c w r", "h -", hidden_size=3),
            node("Squeeze", "h one", "d"), node("Transpose", "d", "e", perm=[1, 2, 0]),
            node("Unsqueeze", "e two", "f"), node("Sigmoid", "f", "y"),
        ],
        {"x": ["N", 4, 1, "T"]}, {"y": ["N", 3, 1, "T"]},
        {"two": np.asarray([2]), "one": np.asarray([1]), "w": weights(1, 9, 4), "r": weights(1, 9, 3)},
    )  # fmt: skip
    expected = {"Transpose": -1, "Squeeze": -1, "Unsqueeze": -1}
    done = apply_and_check("ane.remove-transposes", before, expect_ops=expected)
    perms = [list(n.attributes["perm"].value) for n in done.graph.nodes if n.op_type == "Transpose"]
    assert perms == [[2, 0, 1], [2, 3, 1, 0]]


def test_graph_inputs_and_outputs_keep_their_names() -> None:
    """A chain that cancels between a graph's ends leaves what it must; a Reshape of symbols is a view."""
    before = graph(
        [
            node("Reshape", "x shape", "a"), node("Squeeze", "a two", "y"),
            node("Unsqueeze", "y two", "b"), node("Squeeze", "b two", "c"), node("Relu", "c", "z"),
        ],
        {"x": ["N", 4, "T"]}, {"y": ["N", 4, "T"], "z": ["N", 4, "T"]},
        {"shape": np.asarray([0, 4, 1, -1]), "two": np.asarray([2])},
    )  # fmt: skip
    done = apply_and_check("ane.remove-transposes", before)
    assert done.record.op_diff == {"Squeeze": -1, "Unsqueeze": -1}
    assert view_of(next(n for n in before.nodes if n.op_type == "Reshape")) == View(3, (0, 1, None, 2))


def test_a_reshape_that_mixes_axes_stays() -> None:
    before = graph(
        [
            node("Reshape", "x s", "a"), node("Transpose", "a", "b", perm=[0, 2, 1]),
            node("Reshape", "b t", "y"),
        ],
        {"x": ["N", 12]}, {"y": ["N", 12]}, {"s": np.asarray([0, 3, 4]), "t": np.asarray([0, 12])},
    )  # fmt: skip
    apply_and_check("ane.remove-transposes", before, expect_changed=False)


def _inverted(source: Any, view: View) -> Any:
    return source, View.of(view.rank, [view.axes.index(axis) for axis in range(view.rank)])


def test_a_permutation_applied_backwards_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    before = graph(
        [
            node("Relu", "x", "v"), node("Transpose", "v", "a", perm=[1, 2, 0]),
            node("Transpose", "a", "b", perm=[0, 2, 1]), node("Transpose", "b", "c", perm=[2, 1, 0]),
            node("Neg", "c", "y"),
        ],
        {"x": [3, 3, 3]}, {"y": [3, 3, 3]},
    )  # fmt: skip
    apply_and_check("ane.remove-transposes", before, expect_ops={"Transpose": -2})
    whole = module._whole
    monkeypatch.setattr(module, "_whole", lambda part: _inverted(*whole(part)))
    assert_mutant_fails(RemoveTransposes, before, code="RUB-PASS-021")
