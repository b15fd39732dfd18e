"""What goes first, how much may go, and slices of channels that were cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pass_graphs import graph, initializer, node, weights

from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.manager import run_pass
from rubicc.passes.prune.channels import ChannelOptions, PruneChannels
from rubicc.passes.prune.groups import groups
from rubicc.passes.prune.weights import PruneWeights, WeightOptions


def sliced() -> Graph:
    """Eight channels, of which a slice is read: half of those in it and half of the others are zero."""
    a, b = weights(8, 4, 3), weights(6, 4, 3)
    a[[0, 2, 4, 5]] = 0
    b[:, [1, 3]] = 0  # what reads channels 2 and 4
    nodes = [
        node("Conv", "x a", "h", source="one", pads=[1, 1]),
        node("Slice", "h first last axis", "s"),
        node("Conv", "s b", "y", source="two", pads=[1, 1]),
    ]
    ends = {"first": np.asarray([1]), "last": np.asarray([5]), "axis": np.asarray([1])}
    return graph(nodes, {"x": ("N", 4, 9)}, {"y": ("N", 6, 9)}, {"a": a, "b": b, **ends})


def cut(**options: Any) -> Graph:
    work = sliced()
    run_pass(PruneChannels(ChannelOptions(**options)), work, check=True)
    return work


def test_a_slice_takes_what_is_left_of_its_channels() -> None:
    feeds, work = {"x": weights(2, 4, 9)}, cut(ratio=0.5)
    assert initializer(work, "a").shape[0] == 4 and initializer(work, "b").shape[1] == 2
    (before,), (after,) = (list(execute(g, feeds).values()) for g in (sliced(), work))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_no_group_loses_more_than_it_may() -> None:
    assert initializer(cut(ratio=0.9, most=0.25), "a").shape[0] == 6
    assert initializer(cut(ratio=0.9, most=0.95), "a").shape[0] < 3


@pytest.mark.parametrize("method", ["l1", "random"])
def test_zeros_that_are_there_count_first(method: str) -> None:
    work = sliced()
    run_pass(PruneWeights(WeightOptions(sparsity=0.5, method=method)), work, check=True)  # type: ignore[arg-type]
    assert np.array_equal(initializer(work, "a"), initializer(sliced(), "a")), "half of it was zero already"


def test_weights_of_one_channel_make_no_groups_of_their_own() -> None:
    """A matrix with an axis of 1 is a vector by its elements; the product asks for its labels twice."""
    arrays = {"a": np.ones((1, 6), np.float32), "b": np.ones((6, 1), np.float32)}
    nodes = [node("MatMul", "x a", "h"), node("MatMul", "h b", "y")]
    made = graph(nodes, {"x": ("N", 5, 1)}, {"y": ("N", 5, 1)}, arrays)
    found = groups(made).groups
    assert [(one.size, [(m.initializer, m.axis) for m in one.members]) for one in found] == [
        (6, [("a", 1), ("b", 0)])
    ]
