"""Stretches of reads, cut anywhere: of mapped reads with their bases, of raw reads for a teacher to label."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rubicc.errors import UsageError
from rubicc.training.data.augment import OFF, Augment, resample
from rubicc.training.data.store import Store
from rubicc.training.data.stream import Item, generator
from rubicc.training.objective import Objective

# taiyaki's rule: a base that lasts ten times the usual is a stall or a wrong mapping.
STALL = 10
_TRIES = 50


class CropSet:
    """Random stretches of ``chunk`` samples out of a store.

    Args:
        store: of reads; with bases where it is mapped.
        chunk: samples of an item, rounded down to the stride.
        augment: how the signal is changed; bases follow a stretch in time.
        reads: of the store; None = all.

    Raises:
        UsageError: ``RUB-TRAIN-031``: no read is as long as a chunk.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        objective: Objective,
        chunk: int,
        augment: Augment = OFF,
        reads: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self.store = store
        self.objective = objective
        self.augment = augment
        self.input = objective.meta.inputs[0].name
        self.samples = chunk // objective.stride * objective.stride
        self.reads = np.arange(len(store)) if reads is None else reads
        # The longest piece of a read that one item can need.
        self._need = int(np.ceil(self.samples * (1 + augment.stretch))) + 2
        room = np.maximum(store.index["samples"][self.reads].astype(np.int64) - self._need + 1, 0)
        self._ends = np.cumsum(room)
        if self.samples < 1 or not len(room) or self._ends[-1] < 1:
            longest = int(store.index["samples"][self.reads].max(initial=0))
            raise UsageError(
                "RUB-TRAIN-031",
                f"no read is long enough for chunks of {chunk} samples (the longest has {longest})",
                where=name,
                hint="give a smaller --chunk",
            )
        total = int(store.index["samples"][self.reads].sum())
        self.facts: dict[str, object] = {"reads": len(self.reads), "samples": total, "chunk": self.samples}

    def __len__(self) -> int:
        """Chunks that the samples would fill."""
        return max(1, int(self.store.index["samples"][self.reads].sum()) // self.samples)

    def place(self, rng: np.random.Generator) -> tuple[int, int]:
        """(read, first sample) of a stretch, every stretch equally likely."""
        at = int(rng.integers(self._ends[-1]))
        row = int(np.searchsorted(self._ends, at, side="right"))
        return int(self.reads[row]), at - int(self._ends[row - 1] if row else 0)

    def item(self, position: int, seed: int) -> Item:
        """A stretch; with bases where they are known.

        Raises:
            UsageError: ``RUB-TRAIN-031``: no stretch with usable bases is found.
        """
        rng = generator(seed, position)
        for _ in range(_TRIES):
            read, first = self.place(rng)
            speed, phase = self.augment.window(rng)
            target = self._target(read, first + phase, first + phase + speed * self.samples)
            if target is None and self.store.mapped:
                continue
            piece = self.store.signal(read, first, first + self._need)
            if self.augment.resamples:
                piece = resample(piece, phase, speed, self.samples)
            signal = self.augment.change(piece[: self.samples], rng)
            return Item({self.input: signal[None]}, target)
        raise UsageError(
            "RUB-TRAIN-031",
            f"{_TRIES} stretches in a row have no usable bases",
            where=self.name,
            hint="check the mapping, or give another --chunk",
        )

    def _target(self, read: int, begin: float, end: float) -> np.ndarray | None:
        """Bases that lie within ``[begin, end)`` samples, or None where they are not fit to learn from."""
        if not self.store.mapped:
            return None
        reference, edges = self.store.bases(read)
        first = int(np.searchsorted(edges[:-1], begin, side="left"))
        last = int(np.searchsorted(edges[1:], end, side="right"))
        if last - first < 2:
            return None
        dwell = np.diff(edges[first : last + 1])
        if dwell.max() > STALL * max(float(np.median(dwell)), 1.0):
            return None
        target = np.asarray(reference[first:last], np.int64)
        need = self.objective.frames_needed(target[None], np.array([len(target)]))[0]
        return target if need <= self.samples // self.objective.stride else None

    def in_order(self) -> Iterator[Item]:
        """Stretches end to end through every read, unchanged; those without usable bases are left out."""
        for read in self.reads:
            for first in range(0, int(self.store.index["samples"][read]) - self.samples + 1, self.samples):
                target = self._target(int(read), first, first + self.samples)
                if target is not None or not self.store.mapped:
                    signal = self.store.signal(int(read), first, first + self.samples)
                    yield Item({self.input: signal[None]}, target)


def split(store: Store, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Reads to train on and to hold out: the last ``share`` of them, at least one where there are two."""
    count = len(store)
    held = min(max(1, round(count * share)), count - 1)
    rows = np.arange(count)
    return rows[: count - held], rows[count - held :]
