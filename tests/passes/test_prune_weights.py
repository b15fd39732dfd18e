"""The pass that sets single weights to zero."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pass_graphs import graph, initializer, node, weights

from rubicc.errors import UsageError
from rubicc.ir.graph import Graph
from rubicc.passes.harness import apply_and_check, assert_mutant_fails
from rubicc.passes.manager import run_pass
from rubicc.passes.prune.layer_file import read_layers
from rubicc.passes.prune.weights import PruneWeights, WeightOptions, below_threshold, masks
from rubicc.passes.quantize.sites import SPARSE_KEY, Site


def net() -> Graph:
    """Conv, GRU and a linear layer behind a quantiser of its weights."""
    constants = {
        "a": weights(8, 4, 3), "w": 3 * weights(1, 15, 8), "r": weights(1, 15, 5), "l": weights(5, 6),
        "s": np.float32(0.1), "z": np.float32(0), "bits": np.float32(8),
    }  # fmt: skip
    nodes = [
        node("Conv", "x a", "h", source="conv", pads=[1, 1]),
        node("Transpose", "h", "t", perm=[2, 0, 1]),
        node("GRU", "t w r", "g", source="gru", hidden_size=5),
        node("Squeeze", "g one", "q"),
        node("Quant", "l s z bits", "lq", signed=1, narrow=1, rounding_mode="ROUND"),
        node("MatMul", "q lq", "y", source="head"),
    ]
    return graph(nodes, {"x": ("N", 4, 9)}, {"y": (9, "N", 6)}, constants | {"one": np.asarray([1])})


def pruned(**options: object) -> tuple[Graph, PruneWeights]:
    work, one = net(), PruneWeights(WeightOptions(**options))  # type: ignore[arg-type]
    run_pass(one, work, check=True)
    return work, one


def zeros(built: Graph) -> dict[str, float]:
    return {name: float(np.mean(initializer(built, name) == 0)) for name in "awrl"}


@pytest.mark.parametrize("method", ["l1", "random"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_share_of_every_layer(method: str, share: float) -> None:
    options = {"sparsity": share, "method": method}
    done = apply_and_check("prune.weights", net(), options=options, expect_changed=share > 0)
    for name, got in zeros(done.graph).items():
        size = initializer(done.graph, name).size
        assert got == round(size * share) / size
        if share:
            assert float(done.graph.ir.initializers[name].metadata_props[SPARSE_KEY]) == pytest.approx(
                got, abs=1e-4
            )
            old, new = initializer(net(), name), initializer(done.graph, name)
            assert np.array_equal(new[new != 0], old[new != 0])
            if method == "l1":
                assert np.abs(old[new == 0]).max() <= np.abs(new[new != 0]).min()


def test_globally_small_tensors_lose_more() -> None:
    work, _ = pruned(scope="global", sparsity=0.5)
    total = sum(initializer(work, name).size for name in "awrl")
    gone = sum(int(np.sum(initializer(work, name) == 0)) for name in "awrl")
    assert gone == round(total / 2) and zeros(work)["w"] < 0.3 < 0.6 < zeros(work)["a"]


def test_given_scores() -> None:
    scores = {name: -np.abs(initializer(net(), name)) for name in "awrl"}  # movement: the largest go
    work, _ = pruned(method="given", scores=scores, sparsity=0.25)
    old, new = initializer(net(), "a"), initializer(work, "a")
    assert np.abs(old[new == 0]).min() >= np.abs(new[new != 0]).max()
    with pytest.raises(UsageError, match="RUB-PASS-053"):
        pruned(method="given", scores={})


@pytest.mark.parametrize(("pattern", "keep", "length"), [("2:4", 2, 4), ("1:4", 1, 4), ("1:2", 1, 2)])
def test_n_of_m(pattern: str, keep: int, length: int) -> None:
    done = apply_and_check("prune.weights", net(), options={"pattern": pattern}, expect_changed=True)
    for name, axis in (("a", 1), ("w", 2), ("r", 2), ("l", 0)):
        array = np.moveaxis(initializer(done.graph, name), axis, -1)
        old = np.moveaxis(initializer(net(), name), axis, -1)
        whole = array.shape[-1] // length * length
        runs = array[..., :whole].reshape(-1, length)
        assert np.all(np.count_nonzero(runs, axis=1) == keep)
        order = np.sort(np.abs(old[..., :whole].reshape(-1, length)), axis=1)[:, length - keep :].sum()
        assert np.abs(runs).sum() == pytest.approx(order, rel=1e-6), "the largest stay"
        assert np.array_equal(array[..., whole:], old[..., whole:])
    assert [n.where for n in done.record.notes if "summed axis stay" in n.what] == ["r", "l"]


def test_the_rule_of_taiyaki_keeps_ties_and_the_threshold() -> None:
    array = np.asarray([3.0, -1, 2, 1, -4, 1, 5, 6], np.float32)
    assert not below_threshold(array, 0.2).any(), "element ceil(8 * 0.2) = 2 of 1 1 1 2 3 4 5 6 is 1"
    assert np.flatnonzero(below_threshold(array, 0.5)).tolist() == [1, 2, 3, 5]
    work, _ = pruned(rule="taiyaki", sparsity=0.4)
    old, new = np.abs(initializer(net(), "r")), initializer(work, "r")
    threshold = np.sort(old, axis=None)[math.ceil(old.size * 0.4)]
    assert np.array_equal(new == 0, old < threshold)


def test_shares_by_layer_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "data.txt"
    file.write_text("gru.weight_ih_l0\n0.25\n# the recurrence\ngru.weight_hh_l0\n0.5\nhead* 0.9\n")
    layers = read_layers(file)
    assert layers == {"gru.weight_ih_l0": 0.25, "gru.weight_hh_l0": 0.5, "head*": 0.9}
    work, _ = pruned(layers=layers)
    assert zeros(work) == {"a": 0.0, "w": 30 / 120, "r": 38 / 75, "l": 0.9}
    with pytest.raises(UsageError, match=r"RUB-PASS-050.*gru.weight_hh_l1"):
        pruned(layers={"gru.weight_hh_l1": 0.5})


@pytest.mark.parametrize(
    "text", ["", "gru", "gru\nhead\n", "gru 1.0", "gru -0.1", "gru nan", "gru 0.5 gru 0.5", b"\xff\xfe\x00"]
)
def test_files_that_are_refused(text: str | bytes, tmp_path: Path) -> None:
    file = tmp_path / "data.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match="RUB-PASS-054"):
        read_layers(file)
    with pytest.raises(UsageError, match="RUB-PASS-054"):
        read_layers(tmp_path / "absent")


@pytest.mark.parametrize(
    "wrong", [{"sparsity": 1.0}, {"pattern": "4:2"}, {"pattern": "2"}, {"rule": "taiyaki", "scope": "global"}]
)
def test_wrong_options(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"share|pattern|rule"):
        WeightOptions(**wrong)  # type: ignore[arg-type]


def test_masks_for_training_outlive_the_file(tmp_path: Path) -> None:
    work, _ = pruned(layers={"gru*": 0.5})
    found = masks(work)
    assert set(found) == {"w", "r"} and all(
        np.array_equal(found[n], initializer(work, n) != 0) for n in found
    )


class SaysNothing(PruneWeights):
    """Mutant: prunes and reports that nothing changed."""

    def run(self, graph: Graph) -> bool:
        super().run(graph)
        return False


class DrawsAgain(PruneWeights):
    """Mutant: weights that are zero already do not count, so a second run takes others."""

    def _scores(self, site: Site) -> np.ndarray:
        return np.where(site.array == 0, np.inf, np.abs(site.array))


def test_mutants() -> None:
    assert_mutant_fails(SaysNothing, net(), code="RUB-PASS-025")
    assert_mutant_fails(DrawsAgain, net(), code="RUB-PASS-022")
