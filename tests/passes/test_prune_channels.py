"""The pass that cuts channels: what it chooses, what it leaves, what it says."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import prune_nets
import pytest
from pass_graphs import graph, initializer, node, norm, norm_constants, weights

from rubicc.errors import UsageError
from rubicc.ir.costs import costs
from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.manager import run_pass
from rubicc.passes.prune.channels import ChannelOptions, PruneChannels
from rubicc.passes.prune.groups import groups
from rubicc.passes.prune.record import PRUNED_KEY

BIND = {"N": 1}


def chain(first: int = 8, second: int = 16) -> Graph:
    """x -> Conv -> BatchNormalization -> Relu -> Conv -> Conv -> y."""
    constants = {"a": weights(first, 4, 3), "b": weights(second, first, 3), "c": weights(3, second, 1)}
    nodes = [
        node("Conv", "x a", "h", pads=[1, 1]),
        norm("h", "n"),
        node("Relu", "n", "r"),
        node("Conv", "r b", "s", pads=[1, 1]),
        node("Conv", "s c", "y"),
    ]
    return graph(nodes, {"x": ("N", 4, 20)}, {"y": ("N", 3, 20)}, constants | norm_constants(first))


def pruned(built: Graph, **options: object) -> tuple[Graph, PruneChannels]:
    work, one = built.clone(), PruneChannels(ChannelOptions(**options))  # type: ignore[arg-type]
    run_pass(one, work, check=True)
    return work, one


def widths(built: Graph) -> tuple[int, int]:
    return initializer(built, "a").shape[0], initializer(built, "b").shape[0]


def test_half_of_every_layer_goes() -> None:
    done = apply_and_check("prune.channels", chain(), options={"ratio": 0.5}, expect_changed=True)
    assert widths(done.graph) == (4, 8)
    assert initializer(done.graph, "b").shape == (8, 4, 3) and initializer(done.graph, "bn_mean").shape == (
        4,
    )
    assert json.loads(done.graph.ir.metadata_props[PRUNED_KEY])["channels"] == {
        "m.h (channels)": 8,
        "m.s (channels)": 16,
    }
    assert [n.where for n in done.record.notes if "cut" in n.what] == ["m.h (channels)", "m.s (channels)"]


def test_the_harness_rejects_a_wrong_coupling() -> None:
    class Forgets(PruneChannels):
        """Mutant: one reader keeps its columns."""

        def couple(self, graph):  # type: ignore[no-untyped-def]
            coupling = super().couple(graph)
            coupling.walk.weights[:] = [w for w in coupling.walk.weights if w.name != "b"]
            return coupling

    assert_mutant_fails(Forgets, chain())


@pytest.mark.parametrize("method", ["l1", "l2"])
def test_small_weights_go_first(method: str) -> None:
    built = chain()
    for name, reader in (("a", "b"), ("b", "c")):
        array = initializer(built, name).copy()
        array[[1, 3]] *= 1e-3
        other = initializer(built, reader).copy()
        other[:, [1, 3]] *= 1e-3
        for key, value in ((name, array), (reader, other)):
            built.ir.initializers[key].const_value = type(built.ir.initializers[key].const_value)(value)
    _, one = pruned(built, ratio=0.25, importance=method)
    assert one.cuts[0].removed == (1, 3) and {1, 3} <= set(one.cuts[1].removed)
    assert set(one.cuts[0].weights) >= {"a[0]", "b[1]", "bn_var[0]"} and not one.decisions


def test_scales_of_norms_and_where_there_are_none() -> None:
    built = chain()
    scale = initializer(built, "bn_scale")
    _, one = pruned(built, ratio=0.5, importance="bn-scale")
    assert one.cuts[0].removed == tuple(sorted(np.argsort(np.abs(scale))[:4]))
    assert [(d.code, d.where) for d in one.decisions] == [("RUB-PASS-D50", "m.s (channels)")]


def test_given_scores_choose() -> None:
    built = chain()
    scores = {"a": np.zeros((8, 4, 3)), "c": np.zeros((3, 16, 1))}
    scores["a"][:, 0, 0] = [5, -4, 3, -2, 1, 0, 7, 8]
    scores["c"][0, :, 0] = np.arange(16)
    _, one = pruned(built, ratio=0.5, importance="given", scores=scores)
    assert one.cuts[0].removed == (2, 3, 4, 5) and one.cuts[1].removed == tuple(range(8))
    with pytest.raises(UsageError, match="RUB-PASS-053"):
        pruned(built, importance="given", scores={"a": np.zeros((8, 4))})


def test_random_is_seeded() -> None:
    chosen = [pruned(chain(), importance="random", seed=seed)[1].cuts for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_globally_the_weakest_layer_loses_most() -> None:
    built = chain(16, 16)
    flat = initializer(built, "b").copy()
    flat[:, 4:] *= 0.01
    built.ir.initializers["b"].const_value = type(built.ir.initializers["b"].const_value)(flat)
    work, _ = pruned(built, scope="global", ratio=0.25, most=0.75)
    first, second = widths(work)
    assert first + second == 24 and first < second
    assert widths(pruned(work, scope="global", ratio=0.25, most=0.75)[0]) == (first, second)
    assert sum(widths(pruned(work, scope="global", ratio=0.5, most=0.75)[0])) == 16


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize("name", ["macs", "weight_bytes"])
def test_budgets(scope: str, name: str) -> None:
    built = chain(32, 32)
    before = getattr(costs(built, BIND), name)
    for share in (0.75, 0.4):
        work, one = pruned(built, scope=scope, bind=BIND, **{name: share})
        after = getattr(costs(work, BIND), name)
        assert share * 0.85 * before < after <= share * before and one.cuts
        assert not pruned(work, scope=scope, bind=BIND, **{name: share})[1].cuts, "the budget is met already"
    absolute, _ = pruned(built, scope=scope, bind=BIND, **{name: 0.4 * before})
    assert widths(absolute) == widths(work)


@pytest.mark.parametrize("weakest", [0, 1])
def test_only_some_layers_take_the_last_step_of_an_alignment(weakest: int) -> None:
    """All at 16 of 32 channels would be far below the budget: the layer that matters more keeps its own."""
    scores = {
        group.name: np.arange(32.0) + 100 * (place != weakest)
        for place, group in enumerate(groups(chain(32, 32)).groups)
    }
    asked = {"macs": 0.7, "bind": BIND, "importance": "given", "scores": scores}
    work, one = pruned(chain(32, 32), align=16, **asked)
    assert widths(work) == ((16, 32), (32, 16))[weakest] and len(one.cuts) == 1
    both, _ = pruned(chain(32, 32), align=16, **asked | {"macs": 0.3})
    assert widths(both) == (16, 16), "nearer to the budget than one step"


def test_a_budget_of_a_measure_of_ones_own() -> None:
    work, _ = pruned(chain(), cost=lambda one: float(initializer(one, "a").shape[0]), budget=5.0)
    assert widths(work)[0] == 5


def test_an_impossible_budget_is_refused_and_says_what_is_possible() -> None:
    with pytest.raises(UsageError, match=r"RUB-PASS-051.*leaves [\d,]+"):
        pruned(chain(), macs=0.001, bind=BIND)


@pytest.mark.parametrize(
    ("align", "expected"), [(1, (12, 24)), (8, (16, 24)), (16, (16, 32)), (32, (20, 32))]
)
def test_alignment(align: int, expected: tuple[int, int]) -> None:
    work, one = pruned(chain(20, 40), ratio=0.4, align=align)
    assert widths(work) == expected
    assert [d.code for d in one.decisions] == (["RUB-PASS-D51"] if align == 32 else [])


def test_ratios_count_from_before_any_pruning() -> None:
    work, _ = pruned(chain(), ratio=0.25)
    assert widths(work) == (6, 12)
    again, _ = pruned(work, ratio=0.5)
    assert widths(again) == (4, 8)
    assert not pruned(again, ratio=0.25)[1].cuts


def test_shares_and_skips_by_name() -> None:
    assert widths(pruned(chain(), shares={"m.s*": 0.75})[0]) == (8, 4)
    assert widths(pruned(chain(), skip=("m.s*",))[0]) == (4, 16)
    with pytest.raises(UsageError, match=r"RUB-PASS-050.*m\.t"):
        pruned(chain(), skip=("m.t",))


@pytest.mark.parametrize(
    "wrong",
    [{"ratio": 1.0}, {"ratio": -0.1}, {"most": 1.0}, {"align": 0}, {"macs": 0.5, "weight_bytes": 0.5}],
)
def test_wrong_options(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"is|are"):
        ChannelOptions(**wrong)  # type: ignore[arg-type]


def test_weights_that_others_share_are_copied() -> None:
    """One vector scales two layers; each keeps the part it needs."""
    constants = {"a": weights(6, 4, 1), "b": weights(6, 6, 1), "c": weights(3, 6, 1), "g": weights(1, 6, 1)}
    nodes = [
        node("Conv", "x a", "h"),
        node("Mul", "h g", "k"),
        node("Conv", "k b", "l"),
        node("Mul", "l g", "m"),
        node("Conv", "m c", "y"),
    ]
    built = graph(nodes, {"x": ("N", 4, 5)}, {"y": ("N", 3, 5)}, constants)
    work, one = pruned(built, shares={"m.h*": 0.5, "m.l*": 1 / 3})
    assert [cut.after for cut in one.cuts] == [3, 4]
    used = [work.nodes[k].inputs[1].const_value.shape.numpy() for k in (1, 3)]
    assert sorted(used) == [(1, 3, 1), (1, 4, 1)] and initializer(built, "g").shape == (1, 6, 1)


def test_grouped_layers_lose_groups_and_with_inside_channels_of_each() -> None:
    net = prune_nets.Net(0).grow("dense")
    net.conv(12)
    net.conv(8, 4)
    built = net.graph()
    kinds = {group.kind for group in groups(built).groups}
    assert {"groups of channels", "channels of every group"} <= kinds
    for inside in (False, True):
        work, _ = pruned(built, ratio=0.5, inside=inside)
        conv = next(n for n in work.nodes if n.attributes.get_int("group", 1) > 1)
        shape = conv.inputs[1].const_value.shape.numpy()
        group = conv.attributes.get_int("group", 1)
        assert (group, shape[0], shape[1]) == ((2, 2, 2) if inside else (2, 4, 3))


def test_protected_layers_are_noted_with_the_reason() -> None:
    nodes = [node("Conv", "x a", "h"), node("Softmax", "h", "s", axis=1), node("Conv", "s b", "y")]
    constants = {"a": weights(6, 4, 1), "b": weights(3, 6, 1)}
    built = graph(nodes, {"x": ("N", 4, 5)}, {"y": ("N", 3, 5)}, constants)
    _, one = pruned(built)
    assert not one.cuts
    assert [(n.where, n.what) for n in one.notes] == [
        ("m.h", "6 channels stay: Softmax runs over it at m.s"),
        ("m.y", "3 channels stay: is the model's output 'y'"),
    ]


UNFOLLOWED: dict[str, Callable[[], list[object]]] = {
    "an operator without a rule": lambda: [node("CumSum", "h axis", "k")],
    "a reduction that needs all": lambda: [node("ReduceMax", "h axis", "k", keepdims=1)],
    "a mean": lambda: [node("ReduceMean", "h axis", "k", keepdims=1)],
    "padding along it": lambda: [node("Pad", "h pads", "k")],
    "a slice in steps": lambda: [node("Slice", "h zero end axis two", "k")],
    "a look-up in it": lambda: [
        node("Gather", "h square", "g", axis=1),
        node("ReduceSum", "g axis", "k", keepdims=0),
    ],
}


@pytest.mark.parametrize("what", UNFOLLOWED)
def test_what_cannot_be_followed_stays(what: str) -> None:
    constants = {
        "a": weights(6, 4, 1),
        "axis": np.asarray([1]) if "oper" not in what else np.asarray(1),
        "pads": np.asarray([0, 1, 0, 0, 0, 0]),
        "zero": np.asarray([0]),
        "end": np.asarray([6]),
        "two": np.asarray([2]),
        "square": np.asarray([[0, 1], [2, 3]]),
    }
    nodes = [node("Conv", "x a", "h"), *UNFOLLOWED[what](), node("ReduceSum", "k last", "y", keepdims=0)]
    built = graph(
        nodes, {"x": ("N", 4, 5)}, {"y": ("N", "C")}, constants | {"last": np.asarray([2])}, infer=False
    )
    coupling = groups(built)
    assert not coupling.groups and coupling.protected[0].reason
