"""Labels that say which positions of which axes must go together.

Every position of an axis carries a label. A label is free (it may be removed), or stands for several others
("this position goes when any of these goes"), or is fixed (stands for none: the position never goes). All
that operators demand is that two positions go together, so demands only ever merge labels or replace one by
others; whatever held before still holds after, and any set of free labels may be removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

Vector = np.ndarray | None  # labels (int64) along an axis; None: no position of this axis ever goes
Leaves = frozenset[int]
FIXED = 0
LARGEST = 1 << 20  # positions of one axis that are looked at one by one


class Labels:
    """The labels of one graph."""

    def __init__(self) -> None:
        self._parent = [FIXED]
        self._parts: list[tuple[int, ...] | None] = [()]
        self._reason = [""]
        self._joint: dict[Leaves, int] = {}

    def fresh(self, count: int) -> np.ndarray:
        """``count`` new free labels."""
        start = len(self._parent)
        self._parent += range(start, start + count)
        self._parts += [None] * count
        self._reason += [""] * count
        return np.arange(start, start + count)

    def leaves(self, label: int) -> Leaves:
        """The free labels that ``label`` stands for now; none: it is fixed."""
        root = self._find(int(label))
        parts = self._parts[root]
        if parts is None:
            return frozenset((root,))
        return frozenset().union(*(self.leaves(part) for part in parts))

    def resolve(self, vector: np.ndarray) -> list[Leaves]:
        """:meth:`leaves` of every position."""
        unique, inverse = np.unique(vector, return_inverse=True)
        found = [self.leaves(label) for label in unique]
        return [found[index] for index in inverse.reshape(-1)]

    def reason(self, label: int) -> str:
        """Why a fixed label is fixed."""
        root = self._find(int(label))
        parts = self._parts[root]
        return self._reason[root] or next((why for why in map(self.reason, parts or ()) if why), "")

    def joint(self, parts: Iterable[int]) -> int:
        """A label for a position that goes when any of ``parts`` goes."""
        leaves = frozenset().union(*(self.leaves(part) for part in parts))
        if len(leaves) == 1:
            return next(iter(leaves))
        if leaves not in self._joint:
            label = int(self.fresh(1)[0])
            self._parts[label] = tuple(sorted(leaves))
            self._joint[leaves] = label
        return self._joint[leaves]

    def fix(self, vector: Vector, reason: str) -> None:
        """No position of ``vector`` may go."""
        if vector is not None:
            self._fix(frozenset().union(*(self.leaves(label) for label in np.unique(vector))), reason)

    def equate(self, one: Vector, other: Vector, reason: str) -> None:
        """Equal positions of two axes go together; ``reason`` is kept for those that turn out fixed."""
        if one is None or other is None:
            self.fix(other if one is None else one, reason)
            return
        if one.shape != other.shape:
            raise ValueError(f"{one.size} positions cannot go together with {other.size}")
        pairs = np.unique(np.stack([one, other]), axis=1).T
        unclear = [(left, right) for left, right in pairs if not self._settle(left, right, reason)]
        if unclear:
            self._match(one, other)
            for left, right in unclear:
                if not self._settle(left, right, reason):
                    self._fix(self.leaves(left) ^ self.leaves(right), reason)

    def factor(self, vector: Vector, dims: Sequence[int], reason: str) -> list[Vector]:
        """Labels of the axes into which ``vector`` is cut: a position goes when its row or its column goes.

        Args:
            vector: labels of an axis of ``prod(dims)`` positions.
            dims: lengths of the new axes, outer first.
        """
        if vector is None or len(dims) == 1:
            return [vector] * len(dims)
        if vector.size > LARGEST:
            self.fix(vector, f"{vector.size} positions are too many to follow at {reason}")
            return [None] * len(dims)
        if not any(self.resolve(vector)):
            return [np.full(size, vector[0]) for size in dims]
        shape = tuple(dims)
        parts = _common(_grid(self.resolve(vector), shape))
        rest = self._rest(vector, parts, shape)
        if np.any(rest != FIXED):
            new = [self.fresh(n) if n > 1 else np.zeros(1, np.int64) for n in shape]
            self.equate(rest, self.combine(new, shape), reason)
            parts = [
                [leaves | self.leaves(label) for leaves, label in zip(row, labels, strict=True)]
                for row, labels in zip(parts, new, strict=True)
            ]
        vectors = [np.asarray([self.joint(leaves) for leaves in row]) for row in parts]
        if np.any(self._rest(vector, [self.resolve(row) for row in vectors], shape) != FIXED):
            self.fix(vector, reason)
            for row in vectors:
                self.fix(row, reason)
        return list(vectors)

    def combine(self, vectors: Sequence[Vector], dims: Sequence[int]) -> Vector:
        """Labels of the one axis that axes of lengths ``dims`` become, outer first."""
        grid = None
        for axis, (vector, size) in enumerate(zip(vectors, dims, strict=True)):
            if vector is None or not np.any(vector != FIXED):
                continue
            spread = np.broadcast_to(
                vector.reshape([size if k == axis else 1 for k in range(len(dims))]), dims
            ).reshape(-1)
            if grid is None:
                grid = spread
                continue
            pairs, inverse = np.unique(np.stack([grid, spread]), axis=1, return_inverse=True)
            grid = np.asarray([self.joint(pair) for pair in pairs.T])[inverse.reshape(-1)]
        if grid is None and any(vector is not None for vector in vectors):
            return np.zeros(math.prod(dims), np.int64)
        return grid

    def _find(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def _fix(self, leaves: Leaves, reason: str) -> None:
        for leaf in leaves:
            self._parts[leaf], self._reason[leaf] = (), reason

    def _settle(self, left: int, right: int, reason: str) -> bool:
        """Let two labels go together; False where it is not clear which of their parts are the same."""
        one, other = self.leaves(left), self.leaves(right)
        more, less = one - other, other - one
        if len(more) < len(less):
            more, less = less, more
        if not less:
            self._fix(more, self.reason(left) or self.reason(right) or reason)
        elif len(less) > 1:
            return False
        else:
            (leaf,) = less
            if len(more) == 1:
                self._parent[next(iter(more))] = leaf
            else:
                self._parts[leaf] = tuple(sorted(more))
        return True

    def _match(self, one: np.ndarray, other: np.ndarray) -> None:
        """Merge labels of two axes that stand at the same positions."""
        mine, theirs = _support(self.resolve(one)), _support(self.resolve(other))
        free: dict[Leaves, list[int]] = {}
        for leaf, places in mine.items():
            if theirs.get(leaf) != places:
                free.setdefault(places, []).append(leaf)
        for leaf, places in theirs.items():
            partners = free.get(places, [])
            if partners and mine.get(leaf) != places and self.leaves(leaf) == {leaf}:
                self._settle(leaf, partners.pop(0), "")

    def _rest(
        self, vector: np.ndarray, parts: Sequence[Sequence[Leaves]], shape: tuple[int, ...]
    ) -> np.ndarray:
        """Per position, a label for what the parts do not explain; ``FIXED`` where they explain all."""
        rest = []
        for place, leaves in zip(np.ndindex(shape), self.resolve(vector), strict=True):
            explained = frozenset().union(*(row[index] for row, index in zip(parts, place, strict=True)))
            rest.append(leaves ^ explained)
        return np.asarray([self.joint(leaves) if leaves else FIXED for leaves in rest])


def _grid(sets: Sequence[Leaves], shape: tuple[int, ...]) -> np.ndarray:
    grid = np.empty(len(sets), object)
    grid[:] = sets
    return grid.reshape(shape)


def _common(grid: np.ndarray) -> list[list[Leaves]]:
    """Per axis and index, what all positions there have in common."""
    return [
        [frozenset.intersection(*np.take(grid, index, axis).reshape(-1)) for index in range(grid.shape[axis])]
        for axis in range(grid.ndim)
    ]


def _support(sets: Sequence[Leaves]) -> dict[int, Leaves]:
    places: dict[int, list[int]] = {}
    for index, leaves in enumerate(sets):
        for leaf in leaves:
            places.setdefault(leaf, []).append(index)
    return {leaf: frozenset(where) for leaf, where in places.items()}
