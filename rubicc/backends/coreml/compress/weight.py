"""Constant weights by how they are stored, apart from any file format: plain, on a grid, or in tables.

What belongs to a part of a weight (scale, zero point, number of the table) is an array of the weight's rank
whose every length divides the weight's: one number for each equally large block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Move = Callable[[np.ndarray], np.ndarray]  # moves elements: transposes, reshapes, selects


@dataclass(frozen=True, eq=False)
class Dense:
    """Floats.

    Attributes:
        values: as in the graph.
        sparse: its zeros were put there on purpose.
        lost: why a quantised weight came to be plain; empty for one that always was.
    """

    values: np.ndarray
    sparse: bool = False
    lost: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.values.shape

    def array(self) -> np.ndarray:
        """The floats."""
        return self.values

    def moved(self, move: Move) -> Dense:
        """The weight with its elements moved."""
        return Dense(move(self.values), self.sparse, self.lost)


@dataclass(frozen=True, eq=False)
class Grid:
    """Integers with a scale: ``(codes - zero) * scale``.

    Attributes:
        codes: integers from ``low`` to ``high``; of 1 bit signed only -1 and 1.
        scale, zero: float32, one number per block; both of one shape.
        low, high: smallest and largest integer of the format.
        bits: of the format.
        sparse: its zeros were put there on purpose.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    low: int
    high: int
    bits: int
    sparse: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.codes.shape

    @property
    def bipolar(self) -> bool:
        """Whether there are only -1 and 1."""
        return self.bits == 1 and self.low < 0

    @property
    def levels(self) -> np.ndarray:
        """All integers of the format in ascending order, float32."""
        step = 2 if self.bipolar else 1
        return np.arange(self.low, self.high + 1, step, dtype=np.float32)

    def indices(self) -> np.ndarray:
        """Place of each integer among ``levels``, uint8 (up to 8 bits)."""
        from_low = self.codes.astype(np.int16) - self.low
        return (from_low // 2 if self.bipolar else from_low).astype(np.uint8)

    def array(self) -> np.ndarray:
        """The floats, as the graph's Quant computes them in float32."""
        scale, zero = spread(self.scale, self.shape), spread(self.zero, self.shape)
        return np.asarray((self.codes.astype(np.float32) - zero) * scale, np.float32)

    def moved(self, move: Move) -> Grid:
        """The weight with its elements moved; blocks are found again."""
        scale = compact(move(spread(self.scale, self.shape)))
        zero = compact(move(spread(self.zero, self.shape)))
        codes = move(self.codes)
        scale, zero = aligned(codes.shape, scale, zero)
        return Grid(codes, scale, zero, self.low, self.high, self.bits, self.sparse)


@dataclass(frozen=True, eq=False)
class Palette:
    """Indices into tables.

    Attributes:
        indices: uint8.
        tables: (tables, 2^bits) float32.
        group: number of the table, one per block.
        bits: of an index.
        sparse: entry 0 of every table is 0 and its weights were made 0 on purpose.
    """

    indices: np.ndarray
    tables: np.ndarray
    group: np.ndarray
    bits: int
    sparse: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.indices.shape

    def array(self) -> np.ndarray:
        """The floats."""
        return self.tables[spread(self.group, self.shape), self.indices]

    def moved(self, move: Move) -> Palette:
        """The weight with its elements moved; tables that are not used any more stay."""
        group = compact(move(spread(self.group, self.shape)))
        return Palette(move(self.indices), self.tables, group, self.bits, self.sparse)


Weight = Dense | Grid | Palette


def spread(blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One number per element from one per block; a view where blocks are whole axes or single elements."""
    interleaved = [n for pair in zip(blocks.shape, (1,) * blocks.ndim, strict=True) for n in pair]
    wide = [n for have, full in zip(blocks.shape, shape, strict=True) for n in (have, full // max(have, 1))]
    if all(have in (1, full) for have, full in zip(blocks.shape, shape, strict=True)):
        return np.broadcast_to(blocks, shape)
    return np.broadcast_to(blocks.reshape(interleaved), wide).reshape(shape)


def compact(full: np.ndarray) -> np.ndarray:
    """One number per block from one per element, blocks as large as they can be: undoes :func:`spread`."""
    axes = sorted(range(full.ndim), key=lambda axis: full.strides[axis] != 0)  # repeated axes cost nothing
    for axis in axes:
        length = full.shape[axis]
        block = length if length < 2 or full.strides[axis] == 0 else _block_length(full, axis)
        index: list[slice] = [slice(None)] * full.ndim
        index[axis] = slice(None, None, max(block, 1))
        full = full[tuple(index)]
    return np.ascontiguousarray(full)


def aligned(shape: tuple[int, ...], *blocks: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same numbers per block for all arrays, in blocks that fit each of them."""
    counts = [
        length // math.gcd(*(length // max(one.shape[axis], 1) for one in blocks)) if length else 0
        for axis, length in enumerate(shape)
    ]
    return tuple(spread(one, tuple(counts)) for one in blocks)


def _block_length(full: np.ndarray, axis: int) -> int:
    """The largest divisor of the axis' length such that nothing changes inside blocks of that length."""
    rows = np.moveaxis(full, axis, 0)
    changes = rows[1:] != rows[:-1]
    places = np.flatnonzero(changes.reshape(len(changes), -1).any(axis=1)) + 1
    return math.gcd(len(rows), *(int(place) for place in places))
