"""Whatever is cut out of whatever network: the same numbers as with zeros in its place, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import prune_nets
import pytest
from prune_check import check, exact_sums

from rubicc.ir.graph import Graph
from rubicc.passes.prune import products
from rubicc.passes.prune.groups import Coupling, groups
from rubicc.passes.prune.labels import Labels
from rubicc.passes.prune.rules import RULES
from rubicc.passes.prune.walk import Walk, Weight


@pytest.fixture(autouse=True)
def exactly() -> Iterator[None]:
    with exact_sums():
        yield


def net(name: str, seed: int = 0) -> Graph:
    return prune_nets.Net(seed).grow("dense", name).graph()


@pytest.mark.parametrize("name", sorted(prune_nets.BLOCKS))
def test_every_block(name: str) -> None:
    assert sum(check(net(name, seed), seed, norms=bool(seed)) for seed in range(2)) > 0


def test_a_hundred_networks() -> None:
    gone, used = 0, set()
    for seed in range(100):
        made = prune_nets.random_net(seed)
        gone += check(made.graph(), seed, norms=bool(seed % 2))
        used.update(made.used)
    assert gone > 400 and used == set(prune_nets.BLOCKS)


@pytest.mark.slow
def test_two_thousand_networks() -> None:
    gone = [check(prune_nets.random_net(s).graph(), s, norms=bool(s % 2)) for s in range(100, 2100)]
    assert sum(gone) > 8000


# mutants: each is a mistake that the check must notice


def caught(graph: Callable[[int], Graph], couple: Callable[..., Coupling] = groups) -> bool:
    """Whether the check fails for some of a few networks and choices, by wrong numbers or by not running."""
    for seed in range(6):
        try:
            check(graph(seed), seed, couple=couple)
        except Exception:
            return True
    return False


def test_without_a_mutant_nothing_is_caught() -> None:
    for name in ("residual", "gru", "lstm", "grouped", "joined", "split", "attention", "depthwise"):
        assert not caught(lambda seed, name=name: net(name, seed))


def test_a_sum_that_does_not_couple(monkeypatch: pytest.MonkeyPatch) -> None:
    for op in ("Add", "Mul", "Sub", "Max"):
        monkeypatch.setitem(RULES, op, lambda walk, node: [walk.of(node, 1) or walk.of(node, 0)])
    assert caught(lambda seed: net("residual", seed))


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_gates_in_turns_instead_of_one_behind_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "gate_rows", lambda hidden, copies: np.repeat(hidden, copies))
    assert caught(lambda seed: net(name, seed))


@pytest.mark.parametrize("name", ["gru", "lstm", "rnn"])
def test_gates_moved_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = products.gate_rows

    def wrong(hidden: np.ndarray, copies: int) -> np.ndarray:
        rows = right(hidden, copies)
        first = np.roll(rows[: hidden.size], 1)
        return rows if copies > 4 else np.concatenate([first, rows[hidden.size :]])

    monkeypatch.setattr(products, "gate_rows", wrong)
    assert caught(lambda seed: net(name, seed))


@pytest.mark.parametrize("name", ["grouped", "transposed", "shuffled"])
def test_groups_cut_the_other_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Labels.factor

    def wrong(self, vector, dims, reason):  # type: ignore[no-untyped-def]
        if vector is None or len(dims) != 2 or dims[0] == dims[1]:
            return right(self, vector, dims, reason)
        grid = np.arange(vector.size).reshape(dims[::-1]).T.reshape(-1)
        return right(self, vector[grid], dims, reason)

    monkeypatch.setattr(Labels, "factor", wrong)
    assert caught(lambda seed: net(name, seed))


def test_parts_joined_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    right = RULES["Concat"]

    def wrong(walk, node):  # type: ignore[no-untyped-def]
        (axes,) = right(walk, node)
        return [[axis if axis is None else np.roll(axis, 4) for axis in axes]]

    monkeypatch.setitem(RULES, "Concat", wrong)
    assert caught(lambda seed: net("joined", seed))


@pytest.mark.parametrize(
    "name", ["depthwise", "split", "halves", "reordered", "gru", "attention", "shuffled"]
)
def test_positions_that_are_not_counted_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Walk, "patch", lambda self, edit: None)
    assert caught(lambda seed: net(name, seed))


SOME = ("grouped", "joined", "gru", "attention")
OTHERS = tuple(sorted(set(prune_nets.BLOCKS) - set(SOME)))


@pytest.mark.parametrize("how", ["forgotten", "moved by one"])
@pytest.mark.parametrize("name", [*SOME, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_every_coupled_axis_counts(name: str, how: str) -> None:
    """One axis of one weight at a time is forgotten, or loses its neighbours instead: all are noticed."""
    walk, graph, tried = groups(net(name)).walk, net(name), 0
    for place, weight in enumerate(walk.weights):
        for axis, vector in enumerate(weight.axes):
            if vector is None or not any(walk.labels.resolve(vector)):
                continue

            def wrong(graph: Graph, *, norms: bool, place: int = place, axis: int = axis) -> Coupling:
                coupling = groups(graph, norms=norms)
                right = coupling.walk.weights[place]
                axes = list(right.axes)
                axes[axis] = None if how == "forgotten" else np.roll(axes[axis], 1)
                coupling.walk.weights[place] = Weight(right.name, right.use, tuple(axes))
                return coupling

            tried += 1
            assert caught(lambda seed: graph, wrong), (weight, axis)
    assert tried > 2
