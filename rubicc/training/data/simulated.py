"""Endless chunks of our simulator's signal, with bases and frame labels (:mod:`rubicc.genomics.simulate`)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from rubicc.genomics import normalise
from rubicc.genomics.reads import Read
from rubicc.genomics.simulate import SimParams, SimulatedRead, simulate_read
from rubicc.training.data.augment import OFF, Augment
from rubicc.training.data.stream import Item, generator
from rubicc.training.objective import Objective

READ_BASES = 1000
_IN_ORDER = 64


class SimulatedSet:
    """Chunks of simulated reads; chunks of one read follow each other in the stream.

    Args:
        chunk: samples, rounded down to the stride.
        bases: of a read.
        labels: also label each frame with the base that begins in it (0 = none).
    """

    def __init__(
        self,
        objective: Objective,
        chunk: int,
        augment: Augment = OFF,
        *,
        bases: int = READ_BASES,
        params: SimParams | None = None,
        labels: bool = False,
    ) -> None:
        self.name = "simulated"
        self.objective = objective
        self.augment = augment
        self.params = params or SimParams()
        self.labels = labels
        self.input = objective.meta.inputs[0].name
        self.samples = chunk // objective.stride * objective.stride
        # Reads whose speed is twice the usual still fill their chunks.
        self.bases = max(bases, int(2 * self.samples / self.params.dwell_mean) + 2)
        self.per_read = max(1, int(self.bases * self.params.dwell_mean / 2) // self.samples)
        self._read = functools.lru_cache(maxsize=8)(self._simulate)
        self.facts: dict[str, object] = {"pore seed": self.params.pore_seed, "chunk": self.samples}

    def __len__(self) -> int:
        """Endless; a round number for reports."""
        return 10_000

    def _simulate(self, number: int, seed: int) -> tuple[np.ndarray, SimulatedRead]:
        rng = generator(seed, number)
        read = simulate_read(rng.integers(0, 4, self.bases, dtype=np.uint8), rng, self.params)
        raw = Read(read.read_id, read.dac, read.offset, read.range / read.digitisation, read.sampling_rate)
        assert self.objective.meta.signal is not None
        return normalise.normalise(raw, self.objective.meta.signal), read

    def item(self, position: int, seed: int) -> Item:
        """Chunk at ``position``."""
        number, place = divmod(position, self.per_read)
        signal, read = self._read(number, seed)
        rng = generator(seed, number, place + 1)
        slack = max(len(signal) // self.per_read - self.samples, 0)
        first = place * (len(signal) // self.per_read) + int(rng.integers(slack + 1))
        first = min(first, len(signal) - self.samples)
        edges = read.ref_to_signal.astype(np.int64) - first
        whole = (edges[:-1] >= 0) & (edges[1:] <= self.samples)
        chunk = self.augment.change(signal[first : first + self.samples], rng)
        labels = self._labels(read, edges) if self.labels else None
        return Item({self.input: chunk[None]}, read.reference[whole].astype(np.int64), None, labels)

    def _labels(self, read: SimulatedRead, edges: np.ndarray) -> np.ndarray:
        inside = (edges[:-1] >= 0) & (edges[:-1] < self.samples)
        labels = np.zeros(self.samples // self.objective.stride, np.int64)
        labels[edges[:-1][inside] // self.objective.stride] = read.reference[inside]
        return labels

    def in_order(self) -> Iterator[Item]:
        """The first chunks of a stream that training does not see."""
        return (self.item(position, 2**31 - 1) for position in range(_IN_ORDER))
