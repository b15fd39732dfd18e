"""What training data is: an endless stream of items, of which any can be made without the others.

Item ``p`` of a stream depends on the seed and on ``p`` alone. A killed run therefore sees the items it would
have seen, and two processes share the work of one by taking other positions of the same stream.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Item:
    """One example.

    Attributes:
        feeds: input name -> array without the batch axis; a basecaller's signal is ``(1, T)`` float32.
        target: bases, 1 = first letter, or None where nobody knows them.
        teacher: scores ``(frames, C)`` of a teacher for this signal, or None.
        labels: int64 label per place of the output, or None; see :func:`rubicc.training.losses.labelled`.
    """

    feeds: dict[str, np.ndarray]
    target: np.ndarray | None = None
    teacher: np.ndarray | None = None
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Batch:
    """Items side by side.

    Attributes:
        feeds: input name -> ``(N, ...)``.
        targets, lengths: ``(N, L)`` int64 filled with zeros, and bases per item.
        teacher: ``(frames, N, C)`` float32.
        labels: ``(N, ...)`` int64.
        usable: ``(N,)`` whether an item's bases can be learned; None = all.
    """

    feeds: dict[str, Tensor]
    targets: Tensor | None = None
    lengths: Tensor | None = None
    teacher: Tensor | None = None
    labels: Tensor | None = None
    usable: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of items."""
        return int(next(iter(self.feeds.values())).shape[0])

    def to(self, device: torch.device) -> Batch:
        """On another device; lengths stay, the losses want them here."""
        moved = {name: value.to(device) for name, value in self.feeds.items()}
        there = (None if v is None else v.to(device) for v in (self.targets, self.lengths))
        rest = (None if v is None else v.to(device) for v in (self.teacher, self.labels, self.usable))
        return Batch(moved, *there, *rest)


class DataSet(Protocol):
    """A stream of items.

    Attributes:
        name: for reports.
        facts: what there is, for reports.
    """

    name: str
    facts: dict[str, object]

    def __len__(self) -> int:
        """Items after which all data were seen once (about, where items are drawn at random)."""

    def item(self, position: int, seed: int) -> Item:
        """Item at ``position`` of the stream of ``seed``."""

    def in_order(self) -> Iterator[Item]:
        """What there is, once, unchanged; for validation."""


def batch(data: DataSet, positions: Sequence[int], seed: int) -> Batch:
    """Items at ``positions`` of the stream of ``seed``, side by side."""
    return collate([data.item(position, seed) for position in positions])


def collate(items: Sequence[Item]) -> Batch:
    """Items as one batch; each part is there if every item has it."""
    feeds = {
        name: torch.from_numpy(np.stack([item.feeds[name] for item in items])) for name in items[0].feeds
    }
    found = [item.target for item in items if item.target is not None]
    scores = [item.teacher for item in items if item.teacher is not None]
    labels = [item.labels for item in items if item.labels is not None]
    targets = lengths = None
    if len(found) == len(items):
        targets, lengths = padded(found)
    return Batch(
        feeds,
        targets,
        lengths,
        torch.from_numpy(np.stack(scores, axis=1).astype(np.float32)) if len(scores) == len(items) else None,
        torch.from_numpy(np.stack(labels)) if len(labels) == len(items) else None,
    )


def padded(targets: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Targets as one ``(N, L)`` int64 tensor filled with zeros, and their lengths."""
    lengths = [len(target) for target in targets]
    rows = np.zeros((len(targets), max([*lengths, 1])), np.int64)
    for row, target in zip(rows, targets, strict=True):
        row[: len(target)] = target
    return torch.from_numpy(rows), torch.tensor(lengths)


def generator(seed: int, position: int, *more: int) -> np.random.Generator:
    """Random numbers of one item."""
    return np.random.default_rng([seed, position, *more])


@dataclass
class Shuffle:
    """Every one of ``count`` rows once per round, in another order each round."""

    count: int
    _orders: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def row(self, position: int, seed: int) -> int:
        """Row at ``position`` of the stream of ``seed``."""
        turn, place = divmod(position, self.count)
        key = (seed, turn)
        if key not in self._orders:
            # Two rounds are enough: neighbours of one batch may lie in two.
            for old in list(self._orders)[:-1]:
                del self._orders[old]
            self._orders[key] = np.random.default_rng([seed, turn]).permutation(self.count)
        return int(self._orders[key][place])


@functools.lru_cache(maxsize=4)
def letter_codes(theirs: str, mine: str) -> np.ndarray:
    """Table of target codes: place of each of ``theirs`` in ``mine``, both counted from 1; 0 stays 0."""
    return np.array([0, *(mine.find(letter) + 1 for letter in theirs)], np.uint8)
