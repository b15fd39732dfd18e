"""Validation: loss and identity over items that training does not see, always the same ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rubicc.errors import VerificationFailed
from rubicc.genomics.evaluate import end_to_end
from rubicc.training.data.stream import Batch, DataSet, Item, collate
from rubicc.training.lessons import Lesson
from rubicc.training.network import Network
from rubicc.training.objective import Objective, bases_of
from rubicc.training.settings import TrainSettings


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


@torch.no_grad()
def identities(
    network: Network, objective: Objective, items: Sequence[Item], settings: TrainSettings
) -> list[float] | None:
    """The identity of :func:`score` by item: no loss, and no teacher that would have to run for it."""
    network.eval()
    device, found = next(network.parameters()).device, []
    for first in range(0, len(items), settings.batch):
        whole = collate(items[first : first + settings.batch])
        if whole.targets is None or objective.kind == "none":
            return None
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            scores, _ = network(whole.to(device).feeds)
        found += called_identity(objective, scores.float().cpu().numpy(), whole)
    return found or None


@torch.no_grad()
def score(network: Network, lesson: Lesson, items: Sequence[Item], settings: TrainSettings) -> Score:
    """Loss and identity of a network (left in evaluation mode) over ``items``.

    Raises:
        VerificationFailed: ``RUB-TRAIN-040``: scores or loss are not finite.
    """
    network.eval()
    device = next(network.parameters()).device
    losses, identities = 0.0, []
    for first in range(0, len(items), settings.batch):
        whole = collate(items[first : first + settings.batch])
        given = lesson.prepare(whole.to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            scores, kept = network(given.feeds)
        loss = float(lesson.losses(scores, kept, given)["loss"])
        if not math.isfinite(loss):
            raise VerificationFailed(
                "RUB-TRAIN-040",
                f"validation items {first + 1} to {first + whole.size}: loss {loss:g}",
                hint="give a smaller --lr; check the validation data for NaN",
            )
        losses += loss * whole.size
        if lesson.objective.kind != "none" and whole.targets is not None:
            made = scores.float().cpu().numpy()
            identities += called_identity(lesson.objective, made, whole)
    return Score(losses / len(items), sum(identities) / len(identities) if identities else None)
