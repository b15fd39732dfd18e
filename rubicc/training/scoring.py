"""Validation: loss and identity over items that training does not see, always the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rubicc.genomics.evaluate import end_to_end
from rubicc.training.data.stream import Batch, DataSet, Item, collate
from rubicc.training.objective import Objective, bases_of


@dataclass(frozen=True)
class Score:
    """Of a network on validation items.

    Attributes:
        loss: as in training, mean over items.
        identity: mean over items of matches / alignment columns (edlib, end to end) of the call against the
            item's bases; None where nothing is called or no bases are known.
    """

    loss: float
    identity: float | None


def validation_items(data: DataSet, most: int) -> list[Item]:
    """At most ``most`` items of a set in its order, evenly spread where the set is larger and countable."""
    items = list(itertools.islice(data.in_order(), 16 * most))
    keep = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    return [items[i] for i in keep]


def called_identity(objective: Objective, scores: np.ndarray, batch: Batch) -> list[float]:
    """Identity of the call of each item, from scores ``(T, N, C)``."""
    assert batch.targets is not None and batch.lengths is not None
    letters = np.array(["", *bases_of(objective.meta)])
    rows = zip(batch.targets.cpu().numpy(), batch.lengths.tolist(), strict=True)
    truths = ["".join(letters[row[:length]]) for row, length in rows]
    return [end_to_end(call, truth) for call, truth in zip(objective.decode(scores), truths, strict=True)]


def batches(items: Sequence[Item], size: int) -> list[Batch]:
    """Items in batches of at most ``size``."""
    return [collate(items[first : first + size]) for first in range(0, len(items), size)]
