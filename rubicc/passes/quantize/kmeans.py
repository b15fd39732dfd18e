"""Clusters of numbers: the few values that stand best for many, in the least-squares sense.

In one dimension clusters are intervals of the sorted numbers. Up to ``EXACT`` clusters, dynamic programming
finds the best boundaries on a grid of 64 to 384 bins and between the outermost numbers, of which a few far
ones decide much (exactly the best boundaries where there are no more distinct numbers than bins). Above,
boundaries begin at equal steps of the integral of density^(1/3), which is the best spacing in the limit of
many (Panter and Dite, 1951). Lloyd's iteration then moves them until nothing changes. Nothing is random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXACT = 64  # clusters up to which boundaries are searched for
BINS_PER_CLUSTER, FEWEST_BINS, MOST_BINS = 8, 64, 384
OUTERMOST = 32  # numbers at each end that boundaries may stand between
CELLS = 1 << 16  # numbers are counted in so many cells when there are more of them
SLAB = 1 << 22
ROUNDS = 200


@dataclass(frozen=True)
class Points:
    """Sorted distinct numbers (or means of narrow cells) and how much each weighs."""

    at: np.ndarray
    weight: np.ndarray

    def sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Running totals of weight, weight * at and weight * at^2, each beginning with 0."""
        products = (self.weight, self.weight * self.at, self.weight * self.at**2)
        totals = [np.concatenate([[0.0], np.cumsum(product)]) for product in products]
        return totals[0], totals[1], totals[2]


def centres(values: np.ndarray, count: int) -> np.ndarray:
    """``count`` float64 numbers in ascending order that stand for ``values`` with least squared error.

    Where there are fewer distinct values than ``count``, the last is repeated. Not a number and infinities
    are not allowed.
    """
    points = summarise(values)
    if points.at.size <= count:
        return np.concatenate([points.at, np.full(count - points.at.size, points.at[-1])])
    middle = float(points.at @ points.weight / points.weight.sum())
    points = Points(points.at - middle, points.weight)  # less cancellation in sums of squares
    edges = _best_edges(points, count) if count <= EXACT else _spread_edges(points, count)
    return _lloyd(points, edges) + middle


def nearest(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """uint8 index of the number in ``table`` (ascending, up to 256) that is nearest to each value.

    Halfway between two it is the lower one; of equal entries the first.
    """
    table = np.asarray(table, np.float64)
    between = (table[1:] + table[:-1]) / 2
    flat = values.reshape(-1)
    out = np.empty(flat.size, np.uint8)
    for at in range(0, flat.size, SLAB):
        out[at : at + SLAB] = np.searchsorted(between, flat[at : at + SLAB], side="left")
    return out.reshape(values.shape)


def summarise(values: np.ndarray) -> Points:
    """Distinct numbers and their counts; beyond ``CELLS`` numbers, means and counts of equally wide cells."""
    flat = np.asarray(values).reshape(-1)
    if flat.size <= CELLS:
        at, weight = np.unique(flat.astype(np.float64), return_counts=True)
        return Points(at, weight.astype(np.float64))
    low, high = float(flat.min()), float(flat.max())
    width = (high - low) / CELLS or 1.0
    counts, totals = np.zeros(CELLS), np.zeros(CELLS)
    for start in range(0, flat.size, SLAB):
        part = flat[start : start + SLAB].astype(np.float64)
        cell = np.minimum(((part - low) / width).astype(np.int64), CELLS - 1)
        counts += np.bincount(cell, minlength=CELLS)
        totals += np.bincount(cell, part, minlength=CELLS)
    full = counts > 0
    return Points(totals[full] / counts[full], counts[full])


def _spread_edges(points: Points, count: int) -> np.ndarray:
    """Boundaries of ``count`` intervals at equal steps of the integral of density^(1/3); none is empty."""
    size = points.at.size
    cells = min(4096, size)
    width = (points.at[-1] - points.at[0]) / cells
    cell = np.minimum(((points.at - points.at[0]) / width).astype(np.int64), cells - 1)
    mass, share = np.bincount(cell, points.weight, cells), np.bincount(cell, minlength=cells)
    reached = np.cumsum(np.cbrt(mass)[cell] / share[cell])
    inner = np.searchsorted(reached, reached[-1] * np.arange(1, count) / count) + 1
    steps = np.arange(count + 1)
    shifted = np.concatenate([[0], inner, [size]]) - steps
    return np.minimum(np.maximum.accumulate(shifted), size - count) + steps


def _best_edges(points: Points, count: int) -> np.ndarray:
    """The ``count`` intervals of least squared error that can be put together from narrower ones."""
    bins = min(points.at.size, int(np.clip(BINS_PER_CLUSTER * count, FEWEST_BINS, MOST_BINS)))
    ends = np.arange(min(OUTERMOST, points.at.size))
    edges = np.unique(np.concatenate([_spread_edges(points, bins), ends, points.at.size - ends]))
    bins = edges.size - 1
    weight, first, second = (total[edges] for total in points.sums())
    # Error of everything from edge i to edge j as one cluster; infinite where that is backwards.
    mass = weight[None, :] - weight[:, None]
    sums = first[None, :] - first[:, None]
    squares = second[None, :] - second[:, None]
    forward = mass > 0
    cost = np.full(mass.shape, np.inf)
    cost[forward] = np.maximum(squares[forward] - sums[forward] ** 2 / mass[forward], 0.0)
    error, origins = cost[0], []
    for _ in range(count - 1):
        total = error[:, None] + cost
        origins.append(total.argmin(axis=0))
        error = np.take_along_axis(total, origins[-1][None, :], axis=0)[0]
    chosen = [bins]
    for origin in reversed(origins):
        chosen.append(int(origin[chosen[-1]]))
    return edges[np.array([0, *reversed(chosen)])]


def _lloyd(points: Points, edges: np.ndarray) -> np.ndarray:
    """Means of the intervals after moving boundaries halfway between neighbouring means, until they rest."""
    weight, first, _ = points.sums()
    means = np.diff(first[edges]) / np.diff(weight[edges])
    for _ in range(ROUNDS):
        inner = np.searchsorted(points.at, (means[1:] + means[:-1]) / 2, side="right")
        moved = np.concatenate([[0], inner, [points.at.size]])
        if np.array_equal(moved, edges):
            break
        edges = moved
        mass = np.diff(weight[edges])
        full = mass > 0
        means[full] = np.diff(first[edges])[full] / mass[full]  # an interval that lost all keeps its value
        means.sort()
    return means
