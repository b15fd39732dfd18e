"""Windows of different reads gathered into the batches a network is called with, each length by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rubicc.genomics.chunks import Plan, Window, fill, window_lengths, windows
from rubicc.genomics.stitching import Job

# A window waits for others of its length while at most so many batches are made; calls are written in order,
# so whatever comes after it waits as well.
PATIENCE = 32


@dataclass(eq=False)
class Batch:
    """Network input ``(N, 1, T)`` and whose chunk each row is. Rows beyond ``rows`` are padding."""

    number: int
    signal: np.ndarray
    rows: list[tuple[Job, Window]]


@dataclass(eq=False)
class _Bucket:
    """A batch being filled; ``since``: how many had been made when its first row came."""

    signal: np.ndarray
    rows: list[tuple[Job, Window]]
    since: int


class Batcher:
    """Fills batches with windows of equal length, whichever read they come from.

    With ``fixed`` every batch has ``rows`` rows of a whole chunk, padded with zeros where need be.
    """

    def __init__(self, rows: int, plan: Plan, *, fixed: bool) -> None:
        self.size = rows
        self.fixed = fixed
        self.plan = plan
        self._shared = window_lengths(plan)
        self._buckets: dict[int, _Bucket] = {}  # by length, the one begun first first
        self._made = 0

    def cut(self, job: Job, signal: np.ndarray) -> Iterator[Batch]:
        """Batches that the windows of ``signal`` complete, and those that have waited long enough."""
        cuts = windows(len(signal), self.plan)
        length = self.plan.length if self.fixed else cuts[0].stop - cuts[0].start
        # Of a read in one piece, of whatever length it has, others of that length may never come.
        size = self.size if length in self._shared else 1
        for window in cuts:
            bucket = self._buckets.get(length)
            if bucket is None:
                bucket = _Bucket(np.empty((size, 1, length), np.float32), [], self._made)
                self._buckets[length] = bucket
            fill(bucket.signal[len(bucket.rows), 0], signal, window)
            bucket.rows.append((job, window))
            if len(bucket.rows) == size:
                yield self._take(length)
        while self._buckets:
            oldest = next(iter(self._buckets))
            if self._made - self._buckets[oldest].since < PATIENCE:
                return
            yield self._take(oldest)

    def flush(self) -> Iterator[Batch]:
        """What has been gathered, if anything."""
        while self._buckets:
            yield self._take(next(iter(self._buckets)))

    def _take(self, length: int) -> Batch:
        bucket = self._buckets.pop(length)
        signal, rows = bucket.signal, bucket.rows
        if self.fixed:
            signal[len(rows) :] = 0.0
        else:
            signal = signal[: len(rows)]
        self._made += 1
        return Batch(self._made - 1, signal, rows)
