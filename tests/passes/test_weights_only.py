"""Passes that compress weights without data: integers, palettes, zeros; what they leave alone; mutants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from pass_graphs import graph as make_graph
from pass_graphs import initializer, node, weights

from rubicc.errors import UsageError
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.manager import make_options
from rubicc.passes.quantize.palettize import PaletteOptions, Palettize, palettes
from rubicc.passes.quantize.sites import SPARSE_KEY, divisor, sites
from rubicc.passes.quantize.sparsify import SparseOptions, Sparsify, magnitudes
from rubicc.passes.quantize.weights import QuantiseWeights, WeightOptions, best_scale, half_above
from rubicc.passes.registry import get

KINDS = ("conv", "grouped", "transposed", "matmul", "gemm", "turned", "gather", "gru", "lstm")


def net(kind: str) -> tuple[Graph, str, int, int]:
    """A graph with one weight of 2048 or more elements; its name, output axis and summed axis."""
    if kind in ("conv", "grouped"):
        group = 4 if kind == "grouped" else 1
        made = node("Conv", "x w", "y", group=group, pads=[2, 2])
        return (
            make_graph([made], {"x": (1, 32, "T")}, {"y": (1, 64, "T")}, {"w": weights(64, 32 // group, 5)}),
            "w",
            0,
            1,
        )
    if kind == "transposed":
        made = node("ConvTranspose", "x w", "y", strides=[2])
        return make_graph([made], {"x": (1, 32, 9)}, {"y": (1, 24, 19)}, {"w": weights(32, 24, 3)}), "w", 1, 0
    if kind == "matmul":
        made = node("MatMul", "x w", "y")
        return make_graph([made], {"x": (2, "T", 64)}, {"y": (2, "T", 48)}, {"w": weights(64, 48)}), "w", 1, 0
    if kind in ("gemm", "turned"):
        shape, flag = ((64, 48), 0) if kind == "gemm" else ((48, 64), 1)
        made = node("Gemm", "x w b", "y", transB=flag)
        constants = {"w": weights(*shape), "b": weights(48)}
        return make_graph([made], {"x": (5, 64)}, {"y": (5, 48)}, constants), "w", flag ^ 1, flag
    if kind == "gather":
        made = node("Gather", "w i", "y", axis=0)
        types = {"i": 7}
        return (
            make_graph([made], {"i": (3, "T")}, {"y": (3, "T", 32)}, {"w": weights(80, 32)}, types=types),
            "w",
            0,
            1,
        )
    gates = 3 if kind == "gru" else 4
    made = node(
        kind.upper(),
        "x w r",
        "y",
        "",
        "",
        hidden_size=32,
        **({"linear_before_reset": 1} if gates == 3 else {}),
    )
    constants = {"w": weights(1, 32 * gates, 16), "r": weights(1, 32 * gates, 32)}
    outs = {"y": ("T", 1, 2, 32)}
    return make_graph([made], {"x": ("T", 2, 16)}, outs, constants), "r", 1, 2


@pytest.fixture(autouse=True)
def few_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One or two bits move outputs by more than their range; what weights become is checked here."""
    for one in (QuantiseWeights, Palettize, Sparsify):
        monkeypatch.setattr(one, "tolerance", 4.0)


def compressed(graph: Graph, one: Any) -> Graph:
    return apply_and_check(one, graph, expect_changed=True).graph


@pytest.mark.parametrize("kind", KINDS)
def test_sites_know_every_kind_of_weight(kind: str) -> None:
    graph, name, out, into = net(kind)
    found = {site.name: site for site in sites(graph, least=1)}
    assert (found[name].out, found[name].into) == (out, into)
    assert not sites(graph, least=1, skip=[n.name or "" for n in graph.nodes])
    assert bool(sites(graph, least=1, recurrent=False)) == (kind not in ("gru", "lstm"))


# Integers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize("kind", KINDS)
def test_integers_by_their_definition(kind: str, granularity: Any) -> None:
    graph, name, out, into = net(kind)
    array = initializer(graph, name)
    one = QuantiseWeights(WeightOptions(bits=4, granularity=granularity, block=16, least=1, fit="absmax"))
    made = compressed(graph, one)
    quant = next(n for n in made.nodes if n.op_type == "Quant" and n.inputs[0].name.startswith(f"{name}"))  # type: ignore[union-attr]
    after = execute(made, feeds_of(graph), keep=[quant.outputs[0].name or ""])[
        quant.outputs[0].name or ""
    ].reshape(array.shape)
    length = {"tensor": 0, "channel": array.size // array.shape[out]}.get(
        granularity, divisor(array.shape[into], 16)
    )
    parts = after, array
    if granularity == "channel" or granularity == "block":
        parts = tuple(np.moveaxis(a, (out, into), (0, -1)) for a in parts)  # type: ignore[assignment]
    if granularity == "block" and length > 1:
        parts = tuple(a.reshape(*a.shape[:-1], -1, length) for a in parts)  # type: ignore[assignment]
        parts = tuple(np.moveaxis(a, -2, 1) for a in parts)  # type: ignore[assignment]
        parts = tuple(a.reshape(a.shape[0] * a.shape[1], -1) for a in parts)  # type: ignore[assignment]
    else:
        parts = tuple(a.reshape(1 if granularity == "tensor" else array.shape[out], -1) for a in parts)  # type: ignore[assignment]
    for got, want in zip(*parts, strict=True):
        step = half_above(np.abs(want).max() / 7)
        assert np.array_equal(got, np.rint(want / step) * step)
        assert np.unique(got).size <= 15


def feeds_of(graph: Graph) -> dict[str, np.ndarray]:
    from rubicc.passes.harness import random_feeds

    return random_feeds(graph, 0)


def test_blocks_that_fit_no_axis_fall_back_and_say_so() -> None:
    made = node("Conv", "x w", "y", group=32, pads=[32, 31])
    graph = make_graph([made], {"x": (1, 32, "T")}, {"y": (1, 32, "T")}, {"w": weights(32, 1, 64)})
    checked = apply_and_check(QuantiseWeights(WeightOptions(bits=4, granularity="block")), graph)
    assert "no blocks" in checked.record.notes[0].what
    quant = next(n for n in checked.graph.nodes if n.op_type == "Quant")
    assert quant.inputs[1].const_value.numpy().shape == (32, 1, 1)  # type: ignore[union-attr]


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_the_end_of_the_grid_is_the_best_of_its_candidates(bits: int) -> None:
    weight = np.random.default_rng(bits).standard_t(5, (6, 200)).astype(np.float32)
    limit = 2 ** (bits - 1) - 1

    def loss(scale: np.ndarray) -> np.ndarray:
        return np.square(np.clip(np.rint(weight / scale), -limit, limit) * scale - weight).sum(axis=1)

    fitted, whole = (best_scale(weight, (1,), bits, fit=fit) for fit in ("mse", "absmax"))
    assert np.all(loss(fitted) <= loss(whole)) and loss(fitted).sum() < 0.97 * loss(whole).sum()
    assert np.array_equal(fitted, fitted.astype(np.float16)) and np.array_equal(
        whole, whole.astype(np.float16)
    )


def test_half_above_is_the_next_half_precision_number() -> None:
    numbers = np.array([1.0, 1.0001, 3e-8, 1e-9, 0.1, 65504.0, 65505.0, 7e4], np.float32)
    made = half_above(numbers)
    assert np.all(made >= numbers) and np.array_equal(made[-2:], numbers[-2:])
    below = np.nextafter(made[:6].astype(np.float16), np.float16(0)).astype(np.float32)
    assert np.all((below < numbers[:6]) | (made[:6] == np.float32(2.0**-24)))
    zero = best_scale(np.zeros((2, 8), np.float32), (1,), 4)
    assert np.all(zero > 0)


# Palettes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "group"), [(1, 0), (3, 0), (4, 16), (2, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_palettes_hold_few_values_per_group(kind: str, bits: int, group: int) -> None:
    graph, name, out, _ = net(kind)
    array = initializer(graph, name)
    made = compressed(graph, Palettize(PaletteOptions(bits=bits, group=group, least=1)))
    look = next(n for n in made.nodes if n.op_type == "Gather" and n.inputs[0].name == f"{name}_table")  # type: ignore[union-attr]
    after = execute(made, feeds_of(graph), keep=[look.outputs[0].name or ""])[look.outputs[0].name or ""]
    assert after.shape == array.shape and np.array_equal(after, after.astype(np.float16))
    channels = np.moveaxis(after, out, 0)
    length = divisor(array.shape[out], group) if group else array.shape[out]
    for start in range(0, len(channels), length):
        assert np.unique(channels[start : start + length]).size <= 2**bits
    size = initializer(made, f"{name}_table").size
    assert size == array.shape[out] // length * 2**bits
    assert initializer(made, f"{name}_indices").dtype == np.uint8
    if bits > 1:
        assert np.corrcoef(after.reshape(-1), array.reshape(-1))[0, 1] > 0.9


def test_tables_of_zeros_kept_apart() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 40)).astype(np.float32)
    weight[np.random.default_rng(1).random(weight.shape) < 0.5] = 0
    tables, indices = palettes(weight, 3, axis=0, length=4, sparse=True)
    assert tables.shape == (2, 8) and np.all(tables[:, 0] == 0)
    assert np.array_equal(indices == 0, weight == 0)
    empty, none = palettes(np.zeros((4, 8), np.float32), 2, axis=0, length=4, sparse=True)
    assert not empty.any() and not none.any()


def test_one_table_for_all_is_the_default_and_groups_divide() -> None:
    graph, _, _, _ = net("conv")
    odd = apply_and_check(Palettize(PaletteOptions(bits=2, group=48)), graph)
    assert odd.record.notes and initializer(odd.graph, "w_table").size == 2 * 4  # 32 channels share
    assert initializer(compressed(graph, Palettize(PaletteOptions(bits=2))), "w_table").size == 4


# Zeros -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["conv", "matmul", "gather", "lstm"])
def test_the_smallest_weights_go(kind: str, share: float) -> None:
    graph, name, _, _ = net(kind)
    before = initializer(graph, name)
    made = compressed(graph, Sparsify(SparseOptions(sparsity=share, least=1)))
    after = initializer(made, f"{name}_sparse")
    gone = after == 0
    assert np.count_nonzero(gone) == round(share * before.size)
    assert np.array_equal(after[~gone], before[~gone])
    assert np.abs(before[gone]).max() <= np.abs(before[~gone]).min()
    assert made.ir.initializers[f"{name}_sparse"].metadata_props[SPARSE_KEY] == f"{gone.mean():.4f}"


def test_equal_magnitudes_go_in_order_and_zeros_count() -> None:
    weight = np.array([[1, -1, 1, 1], [0, 2, 1, 0]], np.float32)
    made = magnitudes(weight, 0.5)
    assert made is not None and np.array_equal(made, [[0, 0, 1, 1], [0, 2, 1, 0]])
    assert magnitudes(weight, 0.25) is None and magnitudes(weight, 0.0) is None


def test_weights_with_zeros_of_their_own_are_only_marked() -> None:
    graph, _, _, _ = net("conv")
    array = initializer(graph, "w").copy()
    array[np.abs(array) < 0.7] = 0
    graph.ir.initializers["w"].const_value = ir.tensor(array, name="w")
    checked = apply_and_check(Sparsify(SparseOptions(sparsity=0.0)), graph, expect_changed=True)
    assert "w_sparse" not in checked.graph.ir.initializers
    zeros = np.mean(array == 0)
    assert checked.graph.ir.initializers["w"].metadata_props[SPARSE_KEY] == f"{zeros:.4f}"


@pytest.mark.parametrize("then", ["int", "palette"])
def test_marks_travel_with_what_comes_after(then: str) -> None:
    graph, _, _, _ = net("matmul")
    made = compressed(graph, Sparsify(SparseOptions(sparsity=0.75)))
    zeros = initializer(made, "w_sparse") == 0
    one = (
        QuantiseWeights(WeightOptions(bits=4, granularity="block"))
        if then == "int"
        else Palettize(PaletteOptions(bits=3))
    )
    after = compressed(made, one)
    marked = [v for v in after.ir.initializers.values() if SPARSE_KEY in v.metadata_props and v.uses()]
    assert len(marked) == 1
    source = next(iter(marked[0].uses())).node
    value = next(
        n for n in after.nodes if n.op_type in (("Reshape",) if then == "int" else ("Gather",))
    ).outputs[0]
    result = execute(after, feeds_of(graph), keep=[value.name or ""])[value.name or ""]
    assert source.op_type in ("Quant", "Cast") and np.all(result[zeros] == 0)


# What all leave alone --------------------------------------------------------------------------------------

ALL: dict[str, Callable[[], Any]] = {
    "int": lambda: QuantiseWeights(WeightOptions(least=1)),
    "palette": lambda: Palettize(PaletteOptions(bits=2, least=1)),
    "zeros": lambda: Sparsify(SparseOptions(least=1)),
}


@pytest.mark.parametrize("which", list(ALL))
def test_what_must_stay_stays(which: str) -> None:
    zero_one = np.eye(64, dtype=np.float32)[:, :, None]
    nodes = [
        node("Conv", "x eye", "a"),  # selects and moves
        node("Quant", "w s z b", "wq", signed=1, narrow=1, rounding_mode="ROUND"),
        node("Conv", "a wq", "c"),  # quantised by the model
        node("Conv", "c nan", "d"),  # cannot be rounded
        node("Mul", "d k", "y"),  # no product
    ]
    broken = weights(64, 64, 1, seed=3)
    broken[0, 0] = np.inf
    constants = {
        "eye": zero_one, "w": weights(64, 64, 1), "s": np.float32(0.1), "z": np.float32(0),
        "b": np.float32(4), "nan": broken, "k": weights(1, 64, 1),
    }  # fmt: skip
    graph = make_graph(nodes, {"x": (1, 64, "T")}, {"y": (1, 64, "T")}, constants)
    one = ALL[which]()
    assert not one.run(graph.clone())


@pytest.mark.parametrize("which", list(ALL))
def test_shared_and_small_weights(which: str) -> None:
    nodes = [
        node("MatMul", "x w", "a"),
        node("Relu", "a", "b"),
        node("MatMul", "b w", "c"),
        node("MatMul", "c v", "y"),
    ]
    constants = {"w": weights(48, 48), "v": weights(48, 4)}
    graph = make_graph(nodes, {"x": ("T", 48)}, {"y": ("T", 4)}, constants)
    one = {
        "int": QuantiseWeights(WeightOptions()),
        "palette": Palettize(PaletteOptions()),
        "zeros": Sparsify(SparseOptions()),
    }
    made = compressed(graph, one[which])
    first, second, small = (n for n in made.nodes if n.op_type == "MatMul")
    assert first.inputs[1] is second.inputs[1] and first.inputs[1].name != "w"  # type: ignore[union-attr]
    assert small.inputs[1].name == "v"  # type: ignore[union-attr]


WRONG: list[tuple[type, dict[str, Any], str]] = [
    (QuantiseWeights, {"bits": 9}, "bits is 9"),
    (QuantiseWeights, {"block": 1}, "block is 1"),
    (QuantiseWeights, {"granularity": "row"}, "granularity"),
    (Palettize, {"bits": 5}, "bits is 5"),
    (Palettize, {"group": -1}, "group is -1"),
    (Sparsify, {"sparsity": 1.0}, "sparsity is 1.0"),
    (Sparsify, {"sparsity": -0.1}, "sparsity is -0.1"),
]


@pytest.mark.parametrize(("one", "options", "what"), WRONG)
def test_impossible_options_are_refused(one: type, options: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match="RUB-PASS-003") as caught:
        make_options(one, options)
    assert what in str(caught.value)


# For products ----------------------------------------------------------------------------------------------


def correlated(channels: int, length: int) -> np.ndarray:
    rng = np.random.default_rng(channels)
    mix = rng.normal(size=(channels, channels)) + 3 * rng.normal(size=(channels, 1))
    return (mix @ rng.normal(size=(channels, length)) + 0.5)[None].astype(np.float32)


def snr(ref: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.square(ref).sum() / np.square(got - ref).sum()))


@pytest.mark.parametrize("which", ["channel", "block", "palette", "tables"])
@pytest.mark.parametrize("kind", ["conv", "grouped", "matmul", "gemm", "turned"])
def test_rounding_for_the_product_beats_the_nearest(kind: str, which: str) -> None:
    graph, _, _, _ = net(kind)
    data = correlated(64 if kind not in ("conv", "grouped") else 32, 3000)
    x = {"conv": data, "grouped": data, "matmul": data.transpose(0, 2, 1).repeat(2, 0)}.get(kind, data[0].T)
    feeds = {"x": x[:5] if kind in ("gemm", "turned") else x}
    if kind in ("gemm", "turned"):
        x = np.ascontiguousarray(x)
    seen = {"rounding": "optimised", "inputs": {"x": [x]}}

    def one(more: dict[str, Any]) -> Any:
        if which in ("channel", "block"):
            return QuantiseWeights(WeightOptions(bits=4, granularity=which, block=8, **more))  # type: ignore[arg-type]
        return Palettize(PaletteOptions(bits=3, group=16 if which == "tables" else 0, **more))

    reference = next(iter(execute(graph, feeds).values()))
    plain, better = (next(iter(execute(compressed(graph, one(more)), feeds).values())) for more in ({}, seen))
    assert snr(reference, better) > snr(reference, plain) + 2.0


def test_products_that_were_not_seen_are_rounded_to_nearest_and_said() -> None:
    graph, _, _, _ = net("conv")
    options = {"rounding": "optimised", "inputs": {"other": [np.zeros((1, 32, 9), np.float32)]}}
    for one in (QuantiseWeights(WeightOptions(bits=4, **options)), Palettize(PaletteOptions(**options))):  # type: ignore[arg-type]
        checked = apply_and_check(one, graph, expect_changed=True)
        assert any("not seen" in str(note) for note in checked.record.notes)


# Mutants ---------------------------------------------------------------------------------------------------


class WrongOffsets(Palettize):
    """Every group looks into the first table."""

    def _nodes(self, edit: Any, site: Any, tables: np.ndarray, indices: np.ndarray, length: int) -> Any:
        return super()._nodes(edit, site, tables, indices, len(indices) * length)


class WrongScale(QuantiseWeights):
    """Scales are those of the neighbouring channel."""

    def _scale(self, site: Any, weight: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.roll(super()._scale(site, weight, axes), 1, axis=0) * np.float32(8)


class Largest(Sparsify):
    """The largest weights go."""

    def _prune(self, edit: Any, site: Any) -> bool:
        kept = np.where(np.abs(site.array) > np.median(np.abs(site.array)), np.float32(0), site.array)
        site.replace(edit.initializer(f"{site.name}_sparse", kept, site.first.graph))
        return True


@pytest.mark.parametrize("mutant", [WrongOffsets, WrongScale, Largest])
def test_the_harness_sees_wrong_variants(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compression moves numbers, so the tolerance has to be set for the case: a good pass stays inside."""
    graph, name, _, _ = net("conv")
    array = initializer(graph, name) * np.geomspace(0.01, 1, 64, dtype=np.float32).reshape(
        -1, 1, 1
    )  # channels differ
    graph.ir.initializers[name].const_value = ir.tensor(array, name=name)
    good = mutant.__bases__[0]
    options = (
        {"bits": 8, "group": 16}
        if good is Palettize
        else {"bits": 8}
        if good is QuantiseWeights
        else {"sparsity": 0.1}
    )
    monkeypatch.setattr(good, "tolerance", 0.05)
    apply_and_check(good(make_options(good, options)), graph)
    assert_mutant_fails(mutant(make_options(good, options)), graph, code="RUB-PASS-021")


@pytest.mark.parametrize("pass_id", ["quantize.weights", "quantize.palettize", "quantize.sparsify"])
def test_registered(pass_id: str) -> None:
    assert get(pass_id).id == pass_id


def test_zoo_networks_keep_their_output(lowered_zoo: Callable[[str], Graph]) -> None:
    graph = lowered_zoo("demo-ctc")
    x = {"x": np.random.default_rng(1).standard_normal((2, 1, 700)).astype(np.float32)}
    reference = next(iter(execute(graph, x).values()))
    least = {QuantiseWeights: 35.0, Palettize: 30.0, Sparsify: 3.0}
    options: dict[Any, dict[str, Any]] = {
        QuantiseWeights: {},
        Palettize: {"bits": 8},
        Sparsify: {"sparsity": 0.2},
    }
    for one, floor in least.items():
        made = graph.clone()
        assert one(make_options(one, options[one])).run(made)
        got = next(iter(execute(made, x).values()))
        assert snr(reference, got) > floor
