"""What stays makes up for what goes: least squares on what products read, measured on data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pass_graphs import graph, node

from rubicc.errors import VerificationFailed
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.manager import run_pass
from rubicc.passes.prune import readers as reading
from rubicc.passes.prune import reconstruct
from rubicc.passes.prune.channels import ChannelOptions, PruneChannels
from rubicc.passes.prune.groups import groups
from rubicc.passes.prune.readers import readers
from rubicc.passes.prune.reconstruct import Moments, narrowed, nearest, ranked
from rubicc.passes.prune.weights import PruneWeights, WeightOptions
from rubicc.passes.rewrite import constant
from rubicc.training import moments as measuring
from rubicc.training.data.stream import Item
from rubicc.training.moments import moments

CHANNELS, STAY = 6, 4
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Every test draws the same."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


class Given:
    """Random items for one input."""

    name = "random"

    def __init__(self, *shape: int, poison: bool = False) -> None:
        self.shape, self.poison = shape, poison

    def item(self, position: int, seed: int) -> Item:
        x = np.random.default_rng([seed, position]).normal(0.3, 1, self.shape).astype(np.float32)
        if self.poison:
            x[..., 0] = np.nan
        return Item({"x": x})


def mixed(rows: int, *rest: int, axis: int = 0) -> np.ndarray:
    """Weights of six channels, of which two are sums of the other four."""
    free = RNG.normal(size=(STAY, *rest))
    mix = np.concatenate([np.eye(STAY), RNG.normal(size=(CHANNELS - STAY, STAY))])
    return np.moveaxis(np.tensordot(mix, free, 1), 0, axis).astype(np.float32)


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def conv() -> Graph:
    """The second convolution sees sums of channels; its border sees zeros, as the first has no bias."""
    made = {"a": mixed(CHANNELS, 3, 5), "b": array(2, CHANNELS, 3), "c": array(2)}
    nodes = [node("Conv", "x a", "h", pads=[2, 2]), node("Conv", "h b c", "y", pads=[1, 1])]
    return graph(nodes, {"x": ("N", 3, 32)}, {"y": ("N", 2, 32)}, made)


def linear() -> Graph:
    made = {"a": mixed(CHANNELS, 3, axis=1), "p": array(CHANNELS), "b": array(CHANNELS, 2), "q": array(2)}
    nodes = [
        node("MatMul", "x a", "u"),
        node("Add", "u p", "h"),
        node("MatMul", "h b", "v"),
        node("Add", "v q", "y"),
    ]
    return graph(nodes, {"x": ("N", 32, 3)}, {"y": ("N", 32, 2)}, made)


def gemm() -> Graph:
    made = {"a": mixed(CHANNELS, 3), "p": array(CHANNELS), "b": array(2, CHANNELS), "q": array(2)}
    nodes = [node("Gemm", "x a p", "h", transB=1), node("Gemm", "h b q", "y", transB=1)]
    return graph(nodes, {"x": ("N", 3)}, {"y": ("N", 2)}, made)


def quantised() -> Graph:
    """A linear layer as Brevitas exports it: the weights go through Quant and Transpose."""
    made = {"a": mixed(CHANNELS, 3, axis=1), "b": array(2, CHANNELS), "q": array(2)}
    made |= {"s": np.float32(2**-12), "z": np.float32(0), "bits": np.float32(16)}
    attributes = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}
    nodes = [
        node("MatMul", "x a", "h"),
        node("Quant", "b s z bits", "rounded", **attributes),
        node("Transpose", "rounded", "turned", perm=[1, 0]),
        node("MatMul", "h turned", "v"),
        node("Add", "v q", "y"),
    ]
    return graph(nodes, {"x": ("N", 32, 3)}, {"y": ("N", 32, 2)}, made)


def recurrent(op: str, gates: int) -> Graph:
    """The layer's input has two channels that are sums of others; its own units are no sums."""
    made = {"a": mixed(CHANNELS, 3, axis=1), "w": array(1, gates * 4, CHANNELS), "r": array(1, gates * 4, 4)}
    made |= {"p": array(1, 2 * gates * 4), "axes": np.array([1])}
    extra: dict[str, Any] = {"linear_before_reset": 1} if op == "GRU" else {}
    nodes = [
        node("MatMul", "x a", "h"),
        node(op, "h w r p", "all", hidden_size=4, **extra),
        node("Squeeze", "all axes", "y"),
    ]
    return graph(nodes, {"x": (16, "N", 3)}, {"y": (16, "N", 4)}, made, types=None)


def units() -> Graph:
    """A GRU whose last two units are the first two again: what reads them, itself too, can do without."""
    w, r, p = array(3, 4, 3), array(3, 4, CHANNELS), array(2, 3, 4)
    twice = [*range(4), 0, 1]
    made = {
        "w": w[:, twice].reshape(1, 3 * CHANNELS, 3),
        "r": r[:, twice].reshape(1, 3 * CHANNELS, CHANNELS),
        "p": p[:, :, twice].reshape(1, 6 * CHANNELS),
        "b": array(CHANNELS, 2),
        "axes": np.array([1]),
    }
    nodes = [
        node("GRU", "x w r p", "all", hidden_size=CHANNELS, linear_before_reset=1),
        node("Squeeze", "all axes", "h"),
        node("MatMul", "h b", "y"),
    ]
    return graph(nodes, {"x": (16, "N", 3)}, {"y": (16, "N", 2)}, made)


CASES: dict[str, tuple[Callable[[], Graph], tuple[int, ...], tuple[int, ...]]] = {
    # graph, shape of an item, shape of the feed of two items
    "conv": (conv, (3, 32), (2, 3, 32)),
    "linear": (linear, (32, 3), (2, 32, 3)),
    "gemm": (gemm, (3,), (2, 3)),
    "quantised": (quantised, (32, 3), (2, 32, 3)),
    "GRU": (lambda: recurrent("GRU", 3), (16, 3), (16, 2, 3)),
    "LSTM": (lambda: recurrent("LSTM", 4), (16, 3), (16, 2, 3)),
    "units": (units, (16, 3), (16, 2, 3)),
}


def known_of(made: Graph, case: str, **options: Any) -> dict[str, Moments]:
    shape = CASES[case][1]
    if made.inputs[0].shape is not None and not isinstance(made.inputs[0].shape[0], int):
        return moments(made, readers(made), Given(*shape), items=48, **options)
    # time first: the batch of the data is the time of the network, which is as random
    return moments(made, readers(made), Given(4, 3), items=16, **options)


@pytest.mark.parametrize("case", CASES)
def test_channels_that_are_sums_of_others_go_without_loss(case: str) -> None:
    build, _, feed = CASES[case]
    made = build()
    known = known_of(made, case)
    x = RNG.normal(size=feed).astype(np.float32)
    right = execute(made, {"x": x})["y"]
    share = ChannelOptions(ratio=2 / CHANNELS, importance="reconstruction", known=known, most=0.5)
    first = groups(made).groups[0]
    options = replace(share, shares={first.name: 2 / CHANNELS})
    repaired, plain = made.clone(), made.clone()
    done = PruneChannels(options)
    run_pass(done, repaired, check=True)
    assert [(cut.before, cut.after) for cut in done.cuts] == [(CHANNELS, STAY)]
    scale = float(np.abs(right).max())
    assert np.abs(execute(repaired, {"x": x})["y"] - right).max() < 0.01 * scale
    without = replace(options, importance="l2", known={})
    run_pass(PruneChannels(without), plain, check=True)
    assert np.abs(execute(plain, {"x": x})["y"] - right).max() > 0.05 * scale  # what the repair is for


def test_the_order_is_that_of_trying_each() -> None:
    """Against solving every least-squares problem of every step anew, on correlated channels."""
    made = linear()
    made.ir.initializers["a"].const_value = graph_array(array(3, CHANNELS), "a")
    known = known_of(made, "linear")
    group = groups(made).groups[0]
    products = readers(made)
    found = ranked(group, products, known)
    assert found is not None
    reader = next(one for one in products if one.name == "b")
    form, weight = known[reader.key].form(centred=True)[0], reader.rows()[0]
    left = list(range(CHANNELS))
    for place in np.argsort(found)[: CHANNELS - 1]:
        lost = {}
        for gone in left:
            stay = [one for one in left if one != gone]
            new = np.zeros_like(weight)
            new[:, stay] = np.linalg.solve(form[np.ix_(stay, stay)], form[stay] @ weight.T).T
            lost[gone] = np.sum(((weight - new) @ form) * (weight - new))
        assert min(lost, key=lost.__getitem__) == place
        assert found[place] == pytest.approx(
            lost[place] / np.sum((weight @ form) * weight), rel=1e-4, abs=1e-9
        )
        left.remove(int(place))


def graph_array(values: np.ndarray, name: str) -> Any:
    import onnx_ir as ir

    return ir.tensor(values, name=name)


@pytest.mark.parametrize("many", [False, True])
def test_nearest_is_the_solution_of_least_squares(many: bool) -> None:
    groups_, outputs, width = (3, 5, 8) if many else (1, 7, 20)
    base = RNG.normal(size=(groups_, width, 3 * width))
    form = base @ base.transpose(0, 2, 1)
    weight, stays = RNG.normal(size=(groups_, outputs, width)), RNG.random((groups_, outputs, width)) > 0.5
    found = nearest(weight, stays, form)
    assert (found[~stays] == 0).all()
    for g in range(groups_):
        for o in range(outputs):
            keep = np.flatnonzero(stays[g, o])
            right = np.linalg.solve(form[g][np.ix_(keep, keep)], form[g][keep] @ weight[g, o])
            np.testing.assert_allclose(found[g, o, keep], right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", ["conv", "linear", "gemm", "GRU", "units"])
def test_single_weights_make_up_for_those_that_go(case: str) -> None:
    """Zeros are where they would be, and less is lost than by zeros alone."""
    made = CASES[case][0]()
    known = known_of(made, case)
    plain, repaired = made.clone(), made.clone()
    for one, knows in ((plain, {}), (repaired, known)):
        run_pass(PruneWeights(WeightOptions(0.5, known=knows)), one, check=True)
    for name in ("b", "w", "r"):
        if name not in made.ir.initializers:
            continue
        zeros = [constant(one.ir.initializers[name]) == 0 for one in (plain, repaired)]
        assert (zeros[0] == zeros[1]).all() and zeros[0].any()
        old, zeroed, new = (
            next(reader for reader in readers(one) if reader.name == name).rows()
            for one in (made, plain, repaired)
        )
        reader = next(reader for reader in readers(made) if reader.name == name)
        form = known[reader.key].form(centred=reader.bias() is not None)
        lost = [float(np.sum(((old - one) @ form) * (old - one))) for one in (zeroed, new)]
        assert lost[1] < lost[0] * (0.9 if name == "b" else 1)


def test_the_bias_takes_the_mean() -> None:
    """All but a constant goes from an input that hardly varies: the constant is in the bias."""
    made = gemm()
    known = {
        key: Moments(
            np.full_like(one.mean, 3.0),
            np.full_like(one.second, 9.0) + 1e-3 * np.eye(one.mean.shape[1], dtype=np.float32),
        )
        for key, one in known_of(made, "gemm").items()
    }
    before = constant(made.ir.initializers["q"]).copy()
    weight = constant(made.ir.initializers["b"]).copy()
    run_pass(PruneWeights(WeightOptions(0.5, known=known)), made, check=True)
    lost = weight - constant(made.ir.initializers["b"])
    np.testing.assert_allclose(constant(made.ir.initializers["q"]), before + 3.0 * lost.sum(1), rtol=1e-4)


def test_what_is_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = graph(
        [node("MatMul", "x a", "h"), node("MatMul", "h a", "y")],
        {"x": ("N", 4, 3)}, {"y": ("N", 4, 3)}, {"a": array(3, 3)},
    )  # fmt: skip
    assert readers(shared) == []
    plain = graph(
        [node("GRU", "x w r", "y", hidden_size=2)],
        {"x": (4, "N", 3)}, {"y": (4, 1, "N", 2)}, {"w": array(1, 6, 3), "r": array(1, 6, 2)},
    )  # fmt: skip
    assert [one.name for one in readers(plain)] == ["w"]  # r * h is no value of the graph
    monkeypatch.setattr(reading, "WIDEST", 4)
    assert [one.name for one in readers(linear())] == ["a"]


def test_a_group_nothing_is_known_of_goes_by_magnitude_and_says_so() -> None:
    made = linear()
    done = PruneChannels(ChannelOptions(0.5, importance="reconstruction", known={"other": None}))  # type: ignore[dict-item]
    run_pass(done, made, check=True)
    assert [one.code for one in done.decisions] == ["RUB-PASS-D50"]
    with pytest.raises(ValueError, match="needs to know"):
        ChannelOptions(importance="reconstruction")


def test_moments_are_those_of_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    made = linear()
    found = known_of(made, "linear")
    feeds = np.stack([Given(32, 3).item(place, 0).feeds["x"] for place in range(48)])
    for name in ("x", "h"):
        rows = (feeds if name == "x" else execute(made, {"x": feeds}, keep=["h"])["h"]).reshape(
            -1, 3 if name == "x" else CHANNELS
        )
        np.testing.assert_allclose(found[name].mean[0], rows.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[name].second[0], rows.T @ rows / len(rows), rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(measuring, "_BYTES", 1)  # one reader at a time
    for key, one in known_of(made, "linear").items():
        np.testing.assert_array_equal(one.second, found[key].second)
    with pytest.raises(VerificationFailed, match="not finite"):
        moments(made, readers(made), Given(32, 3, poison=True), items=2)


def test_maps_take_what_stays_to_what_was() -> None:
    """The matrix of a narrowed value gives back channels that were sums of those that stay."""
    made = conv()
    known = known_of(made, "conv")
    coupling = groups(made)
    gone = {coupling.groups[0].labels[place] for place in (4, 5)}
    found = narrowed(coupling, gone, readers(made), known)
    assert list(found) == ["h"] and found["h"][0] == 1
    h = execute(made, {"x": array(2, 3, 32)}, keep=["h"])["h"]
    np.testing.assert_allclose(
        np.einsum("dc,nct->ndt", found["h"][1], h[:, :4]), h, atol=0.02 * np.abs(h).max()
    )
    unknown = narrowed(coupling, gone, readers(made), {})["h"][1]
    np.testing.assert_array_equal(unknown, np.eye(CHANNELS)[:, :STAY])


@pytest.mark.parametrize("mutant", ["repair", "mean", "order"])
def test_mutants(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutant == "repair":
        monkeypatch.setattr("rubicc.passes.prune.channels.repair", lambda *_: [])
    elif mutant == "mean":
        monkeypatch.setattr(reading.Reader, "bias", lambda self: lambda change: None)
    else:
        # Magnitude alone, whatever the rest could make up for.
        def costs(self: reconstruct._Course, left: np.ndarray) -> np.ndarray:
            return np.square(self.weight[:, :, self.places[left][:, 0]]).sum((0, 1))

        monkeypatch.setattr(reconstruct._Course, "costs", costs)
    with pytest.raises(AssertionError):
        for case in ("linear", "gemm"):
            test_channels_that_are_sums_of_others_go_without_loss(case)
            test_the_bias_takes_the_mean()
        test_the_order_is_that_of_trying_each()
