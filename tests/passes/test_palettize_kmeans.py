"""Clusters of numbers: against the true optimum, against every definition they have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rubicc.passes.quantize import kmeans
from rubicc.passes.quantize.kmeans import centres, nearest, summarise

NUMBERS = arrays(
    np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32, allow_subnormal=False)
)


def error(values: np.ndarray, table: np.ndarray) -> float:
    """Squared error when every value takes the nearest entry, by its definition."""
    gaps = np.abs(values.reshape(-1, 1).astype(np.float64) - np.asarray(table, np.float64)[None, :])
    return float(np.square(gaps.min(axis=1)).sum())


def optimum(values: np.ndarray, count: int) -> float:
    """Least squared error of ``count`` clusters: every cut of the sorted values, by dynamic programming."""
    at = np.sort(values.reshape(-1).astype(np.float64))
    sums, squares = (np.concatenate([[0.0], np.cumsum(at**power)]) for power in (1, 2))
    size = len(at)

    def cost(low: np.ndarray, high: int) -> np.ndarray:
        return squares[high] - squares[low] - (sums[high] - sums[low]) ** 2 / (high - low)

    best = np.concatenate([[0.0], [cost(np.array([0]), high)[0] for high in range(1, size + 1)]])
    for _ in range(count - 1):
        longer = best.copy()
        for high in range(1, size + 1):
            low = np.arange(high)
            longer[high] = (best[low] + cost(low, high)).min()
        best = longer
    return float(best[size])


@given(NUMBERS, st.integers(1, 9))
@settings(max_examples=80, deadline=None)
def test_few_numbers_get_the_best_clusters_there_are(values: np.ndarray, count: int) -> None:
    table = centres(values, count)
    assert table.shape == (count,) and np.all(np.diff(table) >= 0)
    scale = float(np.square(values.astype(np.float64)).sum())
    assert error(values, table) <= optimum(values, count) + 1e-9 * scale + 1e-12


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["normal", "laplace", "far outliers", "two humps"])
def test_many_numbers_come_close_to_the_best(bits: int, kind: str) -> None:
    rng = np.random.default_rng(bits)
    values = {
        "normal": rng.normal(size=1500),
        "laplace": rng.laplace(size=1500),
        "far outliers": rng.standard_t(3, 1500),
        "two humps": np.concatenate([rng.normal(-3, 0.1, 750), rng.normal(2, 1, 750)]),
    }[kind].astype(np.float32)
    assert error(values, centres(values, 2**bits)) <= (1.04 if kind == "two humps" else 1.01) * optimum(
        values, 2**bits
    )


@pytest.mark.parametrize("count", [4, 16, 64, 256])
def test_many_normal_numbers_reach_the_known_error(count: int) -> None:
    """Lloyd-Max quantisers of a normal source: 4 and 16 levels after Max, more after Panter and Dite."""
    known = {
        4: 0.1175,
        16: 0.009497,
        64: np.sqrt(3) * np.pi / 2 / 64**2,
        256: np.sqrt(3) * np.pi / 2 / 256**2,
    }
    values = np.random.default_rng(0).normal(size=400_000).astype(np.float32)
    table = centres(values, count)
    mse = float(np.square(values - table[nearest(values, table)]).mean())
    assert mse == pytest.approx(known[count], rel=0.04 if count < 64 else 0.08)


def test_lloyd_is_at_rest() -> None:
    """Every entry is the mean of what it stands for."""
    values = np.random.default_rng(3).standard_t(5, 20_000).astype(np.float32)
    table = centres(values, 16)
    taken = nearest(values, table)
    means = np.array([values[taken == k].mean(dtype=np.float64) for k in range(16)])
    assert np.allclose(means, table, atol=1e-6)


def test_fewer_values_than_clusters_are_kept_as_they_are() -> None:
    values = np.array([[3.0, -1.0], [3.0, 0.5]], np.float32)
    assert np.array_equal(centres(values, 8), [-1, 0.5, 3, 3, 3, 3, 3, 3])
    assert np.array_equal(centres(np.full(5, 2.5, np.float32), 4), np.full(4, 2.5))
    steps = np.repeat(np.arange(16, dtype=np.float32), 9000)  # more numbers than cells, few distinct ones
    assert np.allclose(centres(steps, 16), np.arange(16))


@given(NUMBERS, st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_nearest_is_nearest_and_the_lower_on_a_tie(values: np.ndarray, count: int) -> None:
    table = np.sort(np.random.default_rng(count).choice(np.arange(-20.0, 20.0), count, replace=False))
    gaps = np.abs(values[:, None].astype(np.float64) - table[None, :])
    assert np.array_equal(nearest(values, table), gaps.argmin(axis=1))


def test_ties_repeats_and_shapes() -> None:
    table = np.array([0.0, 1.0, 1.0, 2.0])
    values = np.array([[0.5, 1.0, 1.5], [9.0, -9.0, 0.6]], np.float32)
    assert np.array_equal(nearest(values, table), [[0, 1, 2], [3, 0, 1]])
    assert nearest(values, table).dtype == np.uint8


def test_cells_keep_weight_and_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).normal(size=5000).astype(np.float32)
    exact = summarise(values)
    assert exact.weight.sum() == 5000 and np.array_equal(exact.at, np.unique(values))
    monkeypatch.setattr(kmeans, "CELLS", 512)
    monkeypatch.setattr(kmeans, "SLAB", 700)
    coarse = summarise(values)
    assert coarse.at.size <= 512 and np.all(np.diff(coarse.at) > 0)
    assert coarse.weight.sum() == 5000
    assert coarse.weight @ coarse.at == pytest.approx(values.sum(dtype=np.float64), rel=1e-9)
    found = error(values, centres(values, 16))
    monkeypatch.undo()
    assert found <= 1.005 * error(values, centres(values, 16))


def test_nothing_is_random() -> None:
    values = np.random.default_rng(6).normal(size=100_000).astype(np.float32)
    for count in (16, 256):
        assert np.array_equal(centres(values, count), centres(values[::-1].copy(), count))
