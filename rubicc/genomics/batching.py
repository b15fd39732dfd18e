"""Chunks of different reads gathered into the batches a network is called with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rubicc.genomics.chunks import Plan, Window, fill, windows
from rubicc.genomics.stitching import Job


@dataclass(eq=False)
class Batch:
    """Network input ``(N, 1, T)`` and whose chunk each row is. Rows beyond ``rows`` are padding."""

    number: int
    signal: np.ndarray
    rows: list[tuple[Job, Window]]


class Batcher:
    """Fills batches with chunks, whichever read they come from.

    With ``fixed`` every batch has ``rows`` rows of a whole chunk, padded with zeros where need be.
    """

    def __init__(self, rows: int, plan: Plan, *, fixed: bool) -> None:
        self.size = rows
        self.fixed = fixed
        self.plan = plan
        self._signal = np.empty((0, 1, 0), np.float32)
        self._rows: list[tuple[Job, Window]] = []
        self._overtaken = 0
        self._made = 0

    def cut(self, job: Job, signal: np.ndarray) -> Iterator[Batch]:
        """Batches that the chunks of ``signal`` complete."""
        for window in windows(len(signal), self.plan):
            if window.stop - window.start < self.plan.length and not self.fixed:
                yield from self._alone(job, signal, window)
                continue
            if not self._rows:
                self._signal = np.empty((self.size, 1, self.plan.length), np.float32)
            fill(self._signal[len(self._rows), 0], signal, window)
            self._rows.append((job, window))
            if len(self._rows) == self.size:
                yield from self.flush()

    def _alone(self, job: Job, signal: np.ndarray, window: Window) -> Iterator[Batch]:
        """A short read at its own length. It overtakes the batch being filled, which must not wait long."""
        row = np.empty((1, 1, window.stop - window.start), np.float32)
        fill(row[0, 0], signal, window)
        yield self._batch(row, [(job, window)])
        self._overtaken += 1
        if self._overtaken >= 64:
            yield from self.flush()

    def flush(self) -> Iterator[Batch]:
        """What has been gathered, if anything."""
        self._overtaken = 0
        if not self._rows:
            return
        signal, rows = self._signal, self._rows
        self._signal, self._rows = np.empty((0, 1, 0), np.float32), []
        if self.fixed:
            signal[len(rows) :] = 0.0
        else:
            signal = signal[: len(rows)]
        yield self._batch(signal, rows)

    def _batch(self, signal: np.ndarray, rows: list[tuple[Job, Window]]) -> Batch:
        self._made += 1
        return Batch(self._made - 1, signal, rows)
